"""The report of a conversion: what became what, what stayed dense, what has no rule."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One operation of the network and what happens to it.

    Attributes:
        path: module path.
        found: the operation, such as ``relu`` or ``batch_norm``.
        became: ``neuron``; of layers with weights ``linear`` (fed by spikes), ``dense`` (by
            anything else) or ``stem`` (by the image, once); of the rest ``linear``,
            ``folded``, ``moved``, ``function`` (of what has arrived), ``pooled`` or ``gated`` (of
            each step's spikes), ``removed`` or ``refused``.
        note: detail in words; for a refusal, the remedy.
        macs: multiply-accumulates an image in the ANN, zero where there are none.

    Example:
        >>> Row("act1", "relu", "neuron").macs
        0
    """

    path: str
    found: str
    became: str
    note: str = ""
    macs: int = 0


@dataclass(frozen=True)
class Report:
    """What became what; ``str(report)`` is a table.

    Example:
        >>> report = Report((Row("act1", "relu", "neuron"), Row("fc", "linear", "linear", "", 80)))
        >>> report.neurons, report.dense_share
        (1, 0.0)
    """

    rows: tuple[Row, ...]

    @property
    def neurons(self) -> int:
        """Number of neuron layers."""
        return sum(row.became == "neuron" for row in self.rows)

    @property
    def refused(self) -> tuple[Row, ...]:
        """The operations without a rule."""
        return tuple(row for row in self.rows if row.became == "refused")

    @property
    def dense_share(self) -> float:
        """Share of the ANN's multiply-accumulates that spikes do not replace, 0 to 1."""
        total = sum(row.macs for row in self.rows)
        dense = sum(row.macs for row in self.rows if row.became in ("dense", "function", "stem"))
        return dense / total if total else 0.0

    def __str__(self) -> str:
        width = max((len(row.path) for row in self.rows), default=4)
        lines = [
            f"{row.path or '(network)':<{max(width, 9)}}  {row.found:<16} "
            f"{row.became:<8} {row.note}".rstrip()
            for row in self.rows
        ]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """One line: how many of what, and the share that stays dense."""
        counts = Counter(row.became for row in self.rows)
        listed = ", ".join(f"{count} {became}" for became, count in sorted(counts.items()))
        return f"{listed}; {self.dense_share:.1%} of operations stay dense"

    def to_json(self) -> str:
        """Return the rows and the dense share as JSON."""
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"dense_share": self.dense_share, "rows": rows}, indent=1)
