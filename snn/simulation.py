"""One batch of images on its way through the steps, some of which may leave before the end."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Node

from .chunk import Moment, States, Values, only_input
from .dependencies import Depends
from .dynamics import State
from .errors import SpiketuneError
from .functions import Sums
from .program import Monitor, Program
from .rows import Rows, rows_of
from .running import Repeating, Runner
from .trees import over_leaves

# Where images lie is the same for every batch that a program runs.
_known: WeakKeyDictionary[Program, dict[Node, Rows | str]] = WeakKeyDictionary()


class Simulation:
    """The stem's values of some images, and the states of all units after so many steps.

    Args:
        program: the graph to run.
        x: images ``[B, C, H, W]``.
        drive: steps during which image and biases act; None for always.
        monitor: called with each unit's name and output ``[T', B, ...]``, chunk by chunk.
        runner: what runs a chunk of steps; the program itself by default.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8))
        >>> run = Simulation(snn.program, torch.rand(5, 4))
        >>> list(run.advance(3).shape), run.done
        ([3, 5, 8], 3)
        >>> run.keep(torch.tensor([0, 4]))
        >>> list(run.advance(1).shape), run.done
        ([1, 2, 8], 4)
    """

    def __init__(
        self,
        program: Program,
        x: Tensor,
        drive: int | None = None,
        monitor: Monitor | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.program, self.drive, self.monitor = program, drive, monitor
        self._runner = runner or program
        self.stem: Values = program.stem(x)
        self.states: States = {}
        self.done = 0

    def advance(self, steps: int) -> Any:
        """Run at most so many steps and return the raw outputs ``[T', B, ...]``.

        They end where the image ceases to act, so that they may be fewer.
        """
        driven = self.drive is None or self.done < self.drive
        if driven and self.drive is not None:
            steps = min(steps, self.drive - self.done)
        moment = Moment(steps, driven, self.drive)
        out, self.states = self._runner.run(self.stem, self.states, moment, monitor=self.monitor)
        self.done += steps
        # Half precision, as autocast leaves it, is too coarse to sum over time.
        return over_leaves(lambda o: o.to(torch.promote_types(o.dtype, torch.float32)), out)

    def keep(self, index: Tensor) -> None:
        """Go on with the images ``index [B']`` only.

        Raises:
            SpiketuneError: where it is not known which part of a value or of a state belongs to
                which image, naming the module.
        """
        image: Tensor = self.stem[self.program.image]
        if self.program not in _known:
            _known[self.program] = rows_of(self.program, image[:1])
        cut = _Cut(_known[self.program], index, len(image))
        nodes = {node.name: node for node in self.program.body}
        states: States = {}
        for name, state in self.states.items():
            node = nodes[name]
            if isinstance(state, Sums):
                changing = (
                    n for n in node.all_input_nodes if self.program.depends[n] == Depends.TIME
                )
                parts = zip(changing, state.inputs, strict=True)
                inputs = tuple(cut.state(n, part, node) for n, part in parts)
                states[name] = Sums(inputs, cut.state(node, state.answer, node), state.count)
            else:
                source = only_input(node)
                membrane = cut.state(source, state.membrane, node)
                tracer = None if state.tracer is None else cut.state(source, state.tracer, node)
                extra = tuple(cut.state(source, part, node) for part in state.extra)
                states[name] = State(membrane, tracer, state.count, extra)
        self.stem = {node: cut.stem(node, value) for node, value in self.stem.items()}
        self.states = states
        if isinstance(self._runner, Repeating):  # of how many remain, hardly any number comes again
            self._runner = self._runner.plain


class _Cut:
    """Takes some images out of values of one batch."""

    def __init__(self, rows: dict[Node, Rows | str], index: Tensor, batch: int) -> None:
        self.rows, self.index, self.batch = rows, index, batch

    def stem(self, node: Node, value: Any) -> Any:
        """Return a value of the stem; sizes and constants are the same for all images."""
        rows = self._rows(node, node)
        return value if rows is None else over_leaves(lambda v: rows.take(v, self.index), value)

    def state(self, like: Node, part: Tensor, of: Node) -> Tensor:
        """Return what a unit or function keeps, shaped as the value of ``like``."""
        if part.dim() == 0:
            return part
        rows = self._rows(like, of)
        if rows is None or tuple(part.shape) != rows.of(self.batch):
            raise _refused(of, f"its state {list(part.shape)} is not shaped as what arrives there")
        return rows.take(part, self.index)

    def _rows(self, node: Node, of: Node) -> Rows | None:
        rows = self.rows.get(node)
        if isinstance(rows, str):
            raise _refused(of, rows)
        return rows


def _refused(node: Node, why: str) -> SpiketuneError:
    place = node.meta.get("path") or node.name
    return SpiketuneError(
        f"{place}: images cannot leave the batch early, for at {node.name} {why}; run all images "
        "for the same steps"
    )
