"""One chunk of steps: how each kind of node runs on the values of several steps at once.

Linear operations see time folded into the batch, ``[T*B, ...]``; units with a memory see
``[T, B, ...]``, and functions of signals run on what has arrived (see ``functions``). A value in
which the images of a batch do not lead is kept as ``[T, ...]``, and worked on step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from .dependencies import Depends
from .dynamics import State
from .functions import Sums, telescope
from .neurons import Neuron
from .ops import MASKS, SHAPES, SUMS

if TYPE_CHECKING:
    from .program import Program

States = dict[str, State | Sums]
Values = dict[Node, Any]


@dataclass(frozen=True)
class Moment:
    """Where in time a chunk lies.

    Attributes:
        steps: its length.
        driven: whether image and biases act during it.
        drive: steps during which they act in all, None for always.

    Example:
        >>> Moment(8).driven
        True
    """

    steps: int
    driven: bool = True
    drive: int | None = None


class Chunk:
    """The values of one chunk of steps, and how each kind of node is run on them.

    Args:
        program: whose nodes are run.
        stem: values of the images, from ``Program.stem``.
        moment: where in time it lies.
        owned: whether nobody else needs its values and states, so that they may be overwritten.
    """

    def __init__(
        self, program: Program, stem: Values, moment: Moment, *, owned: bool = False
    ) -> None:
        self.program, self.stem, self.moment, self.owned = program, stem, moment, owned
        self.values: Values = {}
        self.batch = len(stem[program.image])

    def run(self, node: Node, state: Any, after: States) -> Any:
        """Compute and keep the value of one node; its state goes to ``after``."""
        if self.program.is_unit(node):
            out, after[node.name] = self._unit(node, state)
            out = self.kept(out, node)
        elif node.op == "call_module" or node in self.program._linear:
            out = self._linear(node)
        else:
            out, after[node.name] = self._function(node, state)
        self.values[node] = out
        return out

    def _unit(self, node: Node, state: Any) -> tuple[Tensor, Any]:
        unit, source = self.program.unit(node), only_input(node)
        found: tuple[Tensor, Any]
        if self.owned and _may_overwrite(unit):
            found = unit(self.signal(source), state, spent=(source in self.program.spent, True))
        else:
            found = unit(self.signal(source), state)
        return found

    def _linear(self, node: Node) -> Any:
        args = node.args if self.moment.driven else self.program._undriven[node]
        if node not in self.program._by_step:
            return self.program.apply(node, args, lambda n: self._folded(n, node))
        steps = [
            self.program.apply(node, args, partial(self._at, step=step, user=node))
            for step in range(self.moment.steps)
        ]
        if isinstance(steps[0], Tensor):
            return self.kept(torch.stack(steps), node)
        return [self.kept(torch.stack(part), node) for part in zip(*steps, strict=True)]

    def _function(self, node: Node, state: Any) -> tuple[Tensor, Sums]:
        """Run a function on sums; what does not change over time keeps its value throughout."""
        changing = [n for n in node.all_input_nodes if self.program.depends[n] == Depends.TIME]

        def apply(values: Sequence[Tensor], steps: int = 0) -> Tensor:
            given = dict(zip(changing, values, strict=True))
            out: Tensor = self.program.apply(
                node, node.args, lambda n: given[n] if n in given else self._fixed(n, steps)
            )
            return out

        def function(signals: Sequence[Tensor]) -> Tensor:
            if node in self.program._by_step:
                return torch.stack([apply(values) for values in zip(*signals, strict=True)])
            length = len(signals[0])
            return _unfold(apply([signal.flatten(0, 1) for signal in signals], length), length)

        sent, sums = telescope(
            function,
            [self.signal(n) for n in changing],
            state,
            drive=self.moment.drive,
            masked=node.target in MASKS,
        )
        return self.kept(sent, node), sums

    def signal(self, node: Node) -> Tensor:
        """Return a value as a unit sees it, ``[T, B, ...]``."""
        if self.program.depends[node] == Depends.TIME:
            return self.over_time(self.values[node], node)
        now: Tensor = self.stem[node]
        now = now if self.moment.driven else torch.zeros_like(now)
        return now.expand(self.moment.steps, *now.shape)

    def over_time(self, value: Tensor, node: Node) -> Tensor:
        """Return a kept value as ``[T, ...]``."""
        return _unfold(value, self.moment.steps) if leads(node) else value

    def kept(self, value: Tensor, node: Node) -> Tensor:
        """Return ``[T, ...]`` as it is kept: folded into the batch where the images lead."""
        return value.flatten(0, 1) if leads(node) else value

    def _fixed(self, node: Node, steps: int = 0) -> Any:
        """Return what does not change over time, repeated for so many steps where it leads."""
        depends, value = self.program.depends[node], self.stem[node]
        if depends == Depends.SIZES:
            return size_of(node, self.batch * (steps or 1))
        return _repeat(value, steps) if steps and depends == Depends.IMAGE else value

    def _folded(self, node: Node, user: Node) -> Any:
        """Return an argument of a linear operation with time folded into the batch."""
        if self.program.depends[node] == Depends.TIME:
            return self.values[node]
        return self._acting(node, user, self.moment.steps)

    def _at(self, node: Node, step: int, user: Node) -> Any:
        """Return an argument of a linear operation at one step."""
        if self.program.depends[node] != Depends.TIME:
            return self._acting(node, user)
        value = self.values[node]
        if isinstance(value, list | tuple):
            return [self.over_time(part, node)[step] for part in value]
        return self.over_time(value, node)[step]

    def _acting(self, node: Node, user: Node, steps: int = 0) -> Any:
        """Return what does not change over time; zeros where it adds while nothing acts."""
        depends, value = self.program.depends[node], self._fixed(node, steps)
        adds = depends == Depends.IMAGE or user.target in SHAPES | SUMS  # else a weight, a factor
        # Whole numbers that move values say where to, not what.
        where = not _is_float(value) and user.target not in SUMS
        if self.moment.driven or not adds or where or not isinstance(value, Tensor):
            return value
        return torch.zeros_like(value)


def _may_overwrite(unit: Any) -> bool:
    """Whether a unit can write over what arrives, and no hook sees and may keep that."""
    hooks = (_global_forward_hooks, _global_forward_pre_hooks)
    return (
        type(unit).forward is Neuron.forward
        and not (unit._forward_hooks or unit._forward_pre_hooks)
        and not any(hooks)
    )


def leads(node: Node) -> bool:
    """Whether the images of a batch lie in the first dimension of a value."""
    return str(node.meta.get("batch", "lead")) == "lead"


def size_of(node: Node, batch: int) -> int:
    """Return the number that a size stands for with so many images in a batch."""
    offset, factor = node.meta["size"]
    return int(offset + factor * batch)


def only_input(node: Node) -> Node:
    """Return the first argument of a node, the value that it works on."""
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _repeat(value: Any, steps: int) -> Any:
    """Return ``[B, ...]`` repeated over time as ``[T*B, ...]``."""
    return value.expand(steps, *value.shape).flatten(0, 1)


def _unfold(value: Tensor, steps: int) -> Tensor:
    return value.view(steps, len(value) // steps, *value.shape[1:])


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
