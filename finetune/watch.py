"""Look at what neurons receive and send while a rule trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from spiketune.snn import Neuron, State

from .errors import TuneError

Neurons = Callable[[], Iterable[tuple[str, Neuron]]]
# (neuron, current [T, B, ...], sent [T, B, ...], state before) -> a sum over the steps
Look = Callable[[Neuron, Tensor, Tensor, State | None], Tensor]


class Watch:
    """A sum over time of something that each neuron does, gradients kept.

    Between ``start`` and ``stop`` it looks wherever gradients are kept; a run that starts from
    fresh membranes begins the sum anew, chunks that go on from a state add to it.

    Args:
        neurons: yields name and neuron, as ``SpikingNetwork.neurons``; asked at the start, since
            a rule may have exchanged neurons by then.
        look: what to add up.
        purpose: what needs it, for messages.

    Example:
        >>> from spiketune.snn import IF
        >>> neuron = IF(torch.tensor(1.0))
        >>> watch = Watch(lambda: [("act", neuron)], lambda _, current, *rest: current.sum(0), "")
        >>> watch.start()
        >>> _ = neuron(torch.full((4, 1), 0.5))
        >>> watch.take(4)
        [tensor([2.])]
        >>> watch.stop()
    """

    def __init__(self, neurons: Neurons, look: Look, purpose: str) -> None:
        self.neurons, self.look, self.purpose = neurons, look, purpose
        self.names: list[str] = []
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def start(self) -> None:
        """Start looking."""
        for name, neuron in self.neurons():
            self.names.append(name)
            self._hooks.append(neuron.register_forward_hook(self._seen(name)))

    def stop(self) -> None:
        """Stop looking and forget what was seen."""
        for hook in self._hooks:
            hook.remove()
        self.names.clear()
        self._hooks.clear()
        self._sums.clear()

    def note(self, name: str, total: Tensor, steps: int) -> None:
        """Set the sum of a neuron that the rule stands in for, instead of calling it."""
        self._sums[name] = total, steps

    def take(self, steps: int) -> list[Tensor]:
        """Return the sums over all ``steps``, a neuron each, and forget them.

        Raises:
            TuneError: if not all these steps were seen.
        """
        seen = {name: self._sums.get(name) for name in self.names}
        self._sums.clear()
        sums = []
        for name, found in seen.items():
            if found is None or found[1] != steps:
                raise TuneError(
                    f"{name}: {self.purpose} needs all {steps} steps when the loss is taken, but "
                    f"the rule ran {found[1] if found else 0} of them with gradients; use a rule "
                    "that goes through all steps at once, such as SurrogateBPTT()"
                )
            sums.append(found[0])
        return sums

    def _seen(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            assert isinstance(module, Neuron)
            current, state = (*args, None)[:2]
            # As the neuron itself does: half precision is too coarse to sum over time.
            current = current.to(torch.promote_types(current.dtype, module.threshold.dtype))
            total, steps = self.look(module, current, output[0], state), len(current)
            # Run again on the way back (see ``recompute``): what it kept then is needed, its sum
            # has been taken.
            if torch._C._current_graph_task_id() != -1:
                return
            if state is not None and name in self._sums:
                before, done = self._sums[name]
                total, steps = before + total, done + steps
            self._sums[name] = total, steps

        return hook
