"""What a kernel of a neuron computes: the neuron's own steps over a stretch of time.

The forward kernel is ``run`` of the neuron as it stands, the backward one its gradient as autograd
gives it: both are traced from the reference, so there is no second set of equations. Steps are
unrolled and all of a stretch stays in registers. Backward, the stretch runs again from the state
before it, so nothing but currents and one state a stretch is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..dynamics import State
from ..surrogate import Scaled, Surrogate
from .pointwise import UnknownOperation

if TYPE_CHECKING:
    from ..neurons import Neuron

# Values that tell themselves apart by ``==``: what was made for one must not serve another.
Settings = tuple[tuple[str, Hashable], ...]
# What does not change what a kernel computes.
_APART = ("training", "folded", "through")
GAIN = "gain"  # of a neuron's slope, handed to kernels like its tensors
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("hooks"))
SAMPLES = (5, 6)  # sizes to trace with; kernels are for any


@dataclass(frozen=True)
class Shape:
    """All that a kernel is made for; neurons of the same shape share it.

    Attributes:
        neuron: its type.
        settings: its settings, but the gain of its slope.
        tensors: name of each of its tensors, whether it holds one number, its precision.
        flat: whether samples come as ``[N]`` and not as ``[M, K]``.
        steps: length of the stretch.
        count: steps before it, for neurons that count.
        begins: whether it starts from fresh membranes.
        still: whether the current is the same at every step, and comes as one.
        dtypes: of the current and of the neuron.
        device: type of the device.
    """

    neuron: type[Neuron]
    settings: Settings
    tensors: tuple[tuple[str, bool, torch.dtype], ...]
    flat: bool
    steps: int
    count: int
    begins: bool
    still: bool
    dtypes: tuple[torch.dtype, torch.dtype]
    device: str

    @property
    def dtype(self) -> torch.dtype:
        """Precision of membranes and spikes."""
        return torch.promote_types(*self.dtypes)

    def then(self, steps: int, count: int) -> Shape:
        """Return the shape of the stretch that follows."""
        return replace(self, steps=steps, count=count, begins=False)


def settings_of(neuron: Neuron) -> Settings:
    """Return what of a neuron's settings is no tensor, by name.

    Whether it was folded is left out, for kernels send ``θ s`` always, and so is a slope's gain.

    Example:
        >>> from spiketune.snn import IF
        >>> dict(settings_of(IF(torch.tensor(1.0))))["floor"]
        0.0
    """
    firing = neuron.firing
    if isinstance(firing.surrogate, Scaled):
        firing = replace(firing, surrogate=firing.surrogate.surrogate)
    # Attributes that ``settings`` does not name, of neurons of a user's own, tell them apart too.
    named = {name: one for name, one in vars(neuron).items() if name[0] != "_"}
    named |= {name: getattr(neuron, name) for name in neuron.settings} | {"firing": firing}
    plain = {name: one for name, one in named.items() if not isinstance(one, Tensor)}
    return tuple((name, one) for name, one in plain.items() if name not in _APART)


def tensors_of(neuron: Neuron) -> dict[str, Tensor]:
    """Return the tensors of a neuron by name, and the gain of its slope as one more.

    Example:
        >>> from spiketune.snn import IF
        >>> list(tensors_of(IF(torch.tensor(1.0))))
        ['threshold', 'initial']
    """
    named: dict[str, Tensor] = {**dict(neuron.named_parameters()), **dict(neuron.named_buffers())}
    slope = neuron.firing.surrogate
    if isinstance(slope, Scaled):
        named[GAIN] = neuron.threshold.new_tensor(slope.gain)
    return named


def parts_of(state: State) -> tuple[Tensor, ...]:
    """Return what of a state is tensors.

    Raises:
        UnknownOperation: on one that has more than a membrane and yet no tracer.

    Example:
        >>> len(parts_of(State(torch.zeros(2))))
        1
    """
    if state.extra and state.tracer is None:
        raise UnknownOperation("a state of more than a membrane, without a tracer")
    return tuple(part for part in (state.membrane, state.tracer, *state.extra) if part is not None)


def state_of(parts: Sequence[Tensor], count: int) -> State:
    """Return the state that these parts and this count make.

    Example:
        >>> state_of(parts_of(State(torch.zeros(2))), 3).count
        3
    """
    membrane, *more = parts
    return State(membrane, more[0] if more else None, count, tuple(more[1:]))


@dataclass(frozen=True)
class _Gained(Surrogate):
    """A slope times a gain that is a tensor, so that one kernel serves all gains."""

    surrogate: Surrogate
    gain: Tensor

    def slope(self, distance: Tensor) -> Tensor:
        return self.gain * self.surrogate.slope(distance)


def _copied(neuron: Neuron) -> Neuron:
    """Return a copy of a neuron without what hangs on it: hooks, a rule's way, a way back."""
    bare = copy(neuron)
    bare.through = None
    vars(bare).update({name: {} for name in _HOOKS})
    tensors = (*neuron.parameters(), *neuron.buffers())
    return deepcopy(bare, {id(tensor): _plain(tensor) for tensor in tensors})


def _plain(tensor: Tensor) -> Tensor:
    values = tensor.detach().clone()
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


class _Runner(nn.Module):
    """A neuron's ``run`` as a module's ``forward``, its state as plain tensors."""

    def __init__(self, neuron: Neuron, count: int) -> None:
        super().__init__()
        self.neuron, self.count, self.after = neuron, count, 0

    def forward(
        self, current: Tensor, state: tuple[Tensor, ...], gain: Tensor | None
    ) -> tuple[Tensor, ...]:
        neuron = self.neuron
        if gain is not None:
            slope: Any = neuron.firing.surrogate
            gained = _Gained(slope.surrogate, gain)
            neuron.firing = replace(neuron.firing, surrogate=gained)
        current = current.to(torch.promote_types(current.dtype, neuron.threshold.dtype))
        begin = state_of(state, self.count) if state else neuron.start(current)
        spikes, after = neuron.run(current, begin)
        self.after = after.count
        return (spikes, *parts_of(after))


class Stretch:
    """A stretch of a neuron's run as functions of tensors alone, forward and backward.

    Args:
        neuron: of the shape; it is copied.
        shape: what the functions are for.
    """

    def __init__(self, neuron: Neuron, shape: Shape) -> None:
        self.shape = shape
        self.runner = _Runner(_copied(neuron), shape.count)
        self.runner.neuron.requires_grad_(False)

    @property
    def after(self) -> int:
        """The state's count after the stretch, once it has run."""
        return self.runner.after

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of a sample to trace with."""
        return SAMPLES[:1] if self.shape.flat else SAMPLES

    def sequence(self) -> Tensor:
        """Return spikes, or their gradient, to trace with."""
        shape = self.shape
        return torch.ones(shape.steps, *self.sizes, dtype=shape.dtype, device=shape.device)

    def examples(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return a current, the neuron's tensors and a state, of sizes that stand for any."""
        shape, sizes = self.shape, self.sizes
        current = torch.ones(sizes, dtype=shape.dtypes[0], device=shape.device)
        if not shape.still:
            current = current.expand(shape.steps, *sizes).contiguous()
        found = tensors_of(self.runner.neuron)
        tensors = [
            torch.ones(() if one else sizes[1:], dtype=found[name].dtype, device=shape.device)
            for name, one, dtype in shape.tensors
        ]
        ones = torch.ones(sizes, dtype=shape.dtype, device=shape.device)
        neuron = self.runner.neuron
        states = len(parts_of(neuron.start(neuron.threshold[None])))
        return current, tensors, [ones.clone() for _ in range(states)]

    def forward(self, sent: Tensor, current: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """Write the spikes of ``current`` into ``sent``; return the state after.

        ``values`` are the neuron's tensors and, but at the beginning, the state before.
        """
        spikes, *state = self.run(current, values)
        sent.copy_(spikes)
        return tuple(state)

    def backward(
        self,
        grad: Tensor,
        current: Tensor,
        sent_grad: Tensor,
        state_grads: Sequence[Tensor | None],
        values: Sequence[Tensor],
        wanting: Sequence[int],
    ) -> tuple[Tensor | None, ...]:
        """Write the current's gradient into ``grad``; return those of the state before and more.

        What more are the tensors whose places are in ``wanting``, for each sample: sums over them
        would break the kernel in two. None where nothing comes back.
        """
        with torch.enable_grad():
            leaf = current.detach().requires_grad_()
            values = [value.detach() for value in values]
            for place in wanting:
                values[place] = values[place].expand(sent_grad.shape[1:])
            before = range(len(self.shape.tensors), len(values))
            wanted = [leaf, *(values[i].requires_grad_() for i in (*before, *wanting))]
            found = zip(self.run(leaf, values), (sent_grad, *state_grads), strict=True)
            reached = [(y, dy) for y, dy in found if y.requires_grad and dy is not None]
            first, *others = torch.autograd.grad(
                [y for y, _ in reached], wanted, [dy for _, dy in reached], allow_unused=True
            )
        grad.copy_(torch.zeros_like(current) if first is None else first)
        return tuple(others)

    def run(self, current: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the spikes and the state after, by the neuron's own steps."""
        count = len(self.shape.tensors)
        named = dict(zip([name for name, *_ in self.shape.tensors], values[:count], strict=True))
        gain = named.pop(GAIN, None)
        tensors = {f"neuron.{name}": value for name, value in named.items()}
        firing = self.runner.neuron.firing
        if self.shape.still:
            current = current.expand(self.shape.steps, *current.shape)
        found: tuple[Tensor, ...] = functional_call(
            self.runner, tensors, (current, tuple(values[count:]), gain)
        )
        self.runner.neuron.firing = firing
        return found
