"""The style sheet of the report: system fonts, light and dark, nothing fetched."""

from __future__ import annotations

# Series colours in the dark are lighter versions of the same hues, still told apart.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --muted: #5a6370; --grid: #e3e6ea; --soft: #f5f7f9;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #e69f00; --s5: #56b4e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --ink: #e8eaed; --muted: #a0a8b3; --grid: #30363d; --soft: #1d2126;
    --s0: #4ba3e3; --s1: #f08a4b; --s2: #35c79a; --s3: #e3a3c6; --s4: #f0b840; --s5: #8fd0f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 78rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 .2rem; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.6rem 0 .7rem; font-size: 1.1rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { color: var(--muted); }
ul { margin: .4rem 0; padding-left: 1.2rem; max-width: 46rem; }
li { margin: .25rem 0; }
.found { margin-top: 1.4rem; padding: .9rem 1.2rem; background: var(--soft); border-radius: 8px; }
.found ul { padding-left: 1.1rem; margin: 0; }
figure { margin: 1.8rem 0 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: .4rem; color: var(--muted); font-size: .87rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td {
  padding: .32rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); font-variant-numeric: tabular-nums;
}
th { color: var(--muted); font-weight: 600; border-bottom: 1.5px solid var(--muted); }
.words { text-align: left; }
td.words:last-child { white-space: normal; min-width: 18rem; }
td.words:first-child { color: var(--muted); }
tr.first td.words:first-child, .matrix td.words { color: var(--ink); font-weight: 600; }
tbody tr:hover { background: var(--soft); }
tr.first td { border-top: 1.5px solid var(--grid); }
td.near { background: rgba(0, 158, 115, .18); }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--muted); margin-bottom: .5rem; }
footer { margin-top: 2.6rem; color: var(--muted); font-size: .87rem; }
@media print { details > * { display: revert; } body { padding: 0; max-width: none; } }
"""
