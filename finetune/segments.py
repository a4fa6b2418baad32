"""Run a function, keep what goes into it, and run it again on the way back.

Unlike ``torch.utils.checkpoint`` a segment says itself how it keeps what is computed again, and
inputs inside of tuples, lists and dicts are kept as autograd keeps values: hooks around the segment
see them, and a segment within a segment holds none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from spiketune.snn.fused.choices import noted, repeated

from .errors import TuneError
from .packing import Give

T = TypeVar("T")
Again = Callable[[], AbstractContextManager[None]]


def segment(
    function: Callable[..., T], *given: Any, again: Again, keep: Callable[[Tensor], Give]
) -> T:
    """Return ``function(*given)``, whose values are computed again on the way back.

    Args:
        function: computes the same each time it is called.
        given: tensors, in tuples, lists and dicts, and anything else.
        again: makes what surrounds the function the second time.
        keep: keeps a value that was computed again until it is needed.

    Example:
        >>> from contextlib import nullcontext
        >>> from spiketune.finetune.packing import AsItIs
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> segment(lambda x: x**3, x, again=nullcontext, keep=AsItIs.of).backward()
        >>> x.grad
        tensor(12.)
    """
    if not torch.is_grad_enabled():
        return function(*given)
    again = _as_now(again, _devices(given))
    part = _Segment(lambda values: function(*values), given, again, keep)
    with noted(part.choices), saved_tensors_hooks(part.note, part.find):
        return function(*given)


class _Place:
    """Stands for a value that was not kept; gone when nothing needs the value any more."""


class _Segment:
    """What is needed to run a function again, and what has been found so."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        given: Any,
        again: Again,
        keep: Callable[[Tensor], Give],
    ) -> None:
        self._function, self._again, self._keep = function, again, keep
        inputs: list[Tensor] = []
        self._given = _exchange(given, lambda tensor: _taken(inputs, tensor))
        # A node of autograd's, so that the inputs are kept as its values are.
        held = _Inputs.apply(torch.empty(0, requires_grad=True), *inputs)
        self._inputs: Any = held.grad_fn
        self.choices: list[bool] = []  # which neurons ran through kernels
        self._places: list[ref[_Place]] = []
        self._kinds: list[Any] = []
        self._found: WeakKeyDictionary[_Place, Give] = WeakKeyDictionary()

    def note(self, tensor: Tensor) -> _Place:
        """Keep a place in the stead of a value."""
        place = _Place()
        self._places.append(ref(place))
        self._kinds.append(_kind(tensor))
        return place

    def find(self, place: _Place) -> Tensor:
        """Return the value of a place; computes all of them unless they have been."""
        if place not in self._found:
            self._run()
        return self._found[place]()

    def _run(self) -> None:
        met: list[Any] = []

        def keep(tensor: Tensor) -> None:
            number = len(met)
            met.append(_kind(tensor))
            place = self._places[number]() if number < len(self._places) else None
            if place is not None:
                self._found[place] = self._keep(tensor)

        hooks = saved_tensors_hooks(keep, _never)
        with torch.enable_grad(), repeated(self.choices), self._again(), hooks:
            self._function(self._inputs_again())
        if met != self._kinds:
            raise TuneError(
                "a part of the network computed something else the second time; leave out "
                "recompute_blocks and recompute_steps, or make it compute the same whenever it runs"
            )

    def _inputs_again(self) -> Any:
        inputs = self._inputs.saved_tensors
        return _exchange(self._given, lambda at: inputs[at.number], _At)


class _Inputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, like: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return like.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise AssertionError("nothing goes backward through what only keeps")


class _At:
    """Stands for the input of this number."""

    def __init__(self, number: int) -> None:
        self.number = number


def _taken(inputs: list[Tensor], tensor: Tensor) -> _At:
    inputs.append(tensor)
    return _At(len(inputs) - 1)


def _exchange(tree: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """Exchange everything of one kind in tuples, lists and dicts."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _exchange(value, change, kind) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [_exchange(part, change, kind) for part in tree]
        if isinstance(tree, list):
            return parts
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


def _devices(given: Any) -> set[torch.device]:
    found: set[torch.device] = set()
    _exchange(given, lambda tensor: found.add(tensor.device))
    return found


def _as_now(again: Again, devices: set[torch.device]) -> Again:
    """Add today's precision and random numbers to what surrounds a function the second time."""
    kinds = {"cpu", *(device.type for device in devices)}
    precisions = [
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds
    ]
    cuda = [device for device in devices if device.type == "cuda"]
    states = [torch.cuda.get_rng_state(device) for device in cuda]
    state = torch.get_rng_state()

    @contextmanager
    def surrounding() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device.index or 0 for device in cuda]))
            torch.set_rng_state(state)
            for device, one in zip(cuda, states, strict=True):
                torch.cuda.set_rng_state(one, device)
            for kind, dtype, enabled in precisions:
                stack.enter_context(torch.autocast(kind, dtype, enabled=enabled))
            stack.enter_context(again())
            yield

    return surrounding


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _never(_: None) -> Tensor:
    raise AssertionError("nothing goes backward through what was computed again")
