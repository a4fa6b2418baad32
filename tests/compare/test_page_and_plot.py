"""The report stands alone, says what matters and takes no name for markup."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from spiketune.compare import Table
from spiketune.compare.page import page
from spiketune.compare.plot import png, svg

MakeTable = Callable[..., Table]
VOID = {"meta", "br", "path", "use", "image", "rect"}


class Balance(HTMLParser):
    """Collect the text, and fail on a tag that closes another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def parse() -> Callable[[str], Balance]:
    def run(text: str) -> Balance:
        parser = Balance()
        parser.feed(text)
        parser.close()
        assert parser.open == []
        return parser

    return run


def test_page_says_budget_images_and_constants(
    make_table: MakeTable, parse: Callable[[str], Balance]
) -> None:
    found = parse(page(make_table(good=[50, 89, 90], poor=[10, 20, 30])))
    assert "good is within 1 point of ann at 2 steps: 89.00 %, 0.50 spikes a neuron" in found.text
    assert "poor reaches 30.00 % at 3 steps, never within 1 point of ann." in found.text
    assert "same 100 test images, at 1 to 3 steps" in found.text
    assert "fp32: 4.6 pJ a MAC, 0.9 pJ an AC" in found.text
    assert "not a measurement" in found.text and "Memory traffic" in found.text
    assert "calibration images" in found.text and "64" in found.text
    assert "svg" in found.tags and "script" not in found.tags


def test_page_asks_nothing_of_the_net(make_table: MakeTable) -> None:
    text = page(make_table(snn=[50, 89, 90]))
    hosts = set(re.findall(r"https?://[^\"'\s<>]+", text))
    assert hosts <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names only
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", text)


def test_names_are_never_markup(make_table: MakeTable, parse: Callable[[str], Balance]) -> None:
    evil = "<script>alert(1)</script>&\"'"
    text = page(make_table(ann=evil, **{"<b>x</b>": [50, 60]}))
    found = parse(text)
    assert "<script" not in text and "<b>x" not in text
    assert found.text.count(evil) >= 3 and "<b>x</b>" in found.text


@pytest.mark.filterwarnings("ignore:Glyph")  # the bundled font knows no Chinese
@pytest.mark.parametrize(
    "name", ["_hidden", "$broken", "$\\frac{1$", "a\\b", "", "长名字", "x" * 200]
)
def test_any_name_can_be_drawn(name: str, make_table: MakeTable) -> None:
    picture = svg(make_table(ann=name, **{name + "!": [50, 60]}))
    # The legend names two series: its text comes as comments before the glyphs.
    assert picture.startswith("<svg") and picture.count('id="legend_1"') == 1
    if name == "_hidden":
        assert "_hidden (not spiking)" in picture and "_hidden!" in picture


def test_many_models_one_budget_and_no_reference(make_table: MakeTable) -> None:
    table = make_table(**{f"model {place}": [50 + place] for place in range(15)})
    alone = replace(
        table,
        reference=None,
        rows=tuple(replace(r, energy_ratio=None, agreement=None) for r in table.rows if r.spiking),
    )
    for case in (table, alone):
        assert png(case).startswith(b"\x89PNG\r\n") and "<svg" in page(case)
    assert "reaches 50.00 % at 1 step." in page(alone)
    assert "reference" not in str(alone)


def test_drawing_leaves_matplotlib_as_it_was(make_table: MakeTable) -> None:
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    png(make_table(snn=[50, 60]))
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
