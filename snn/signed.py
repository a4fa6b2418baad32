"""The ternary neuron, which takes back what it has sent too early."""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import Firing, SoftReset, State, signed_if_step
from .errors import SpiketuneError
from .neurons import Neuron
from .units import register_unit


@register_unit
class SignedIF(Neuron):
    """Ternary neuron with a tracer (equation: ``dynamics.signed_if_step``).

    Args:
        threshold: as in ``Neuron``.
        limit: most spikes the tracer may hold, None for no bound.
        initial: as in ``Neuron``.
        floor: as in ``Neuron``.
        ceiling: as in ``Neuron``.
        firing: as in ``Neuron``; a hard reset is refused, the tracer would lose count.
        folded: as in ``Neuron``.

    Raises:
        SpiketuneError: on a hard reset.

    Example:
        >>> spikes, _ = SignedIF(torch.tensor(1.0))(torch.tensor([[1.2], [-0.9], [0.0]]))
        >>> spikes.flatten().tolist()
        [1.0, -1.0, 0.0]
    """

    settings = (*Neuron.settings, "limit")

    def __init__(
        self,
        threshold: Tensor,
        *,
        limit: int | None = None,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError("a signed neuron resets softly; use Firing(reset=SoftReset())")
        self.limit = limit

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, with an empty tracer."""
        membrane = super().start(current).membrane
        return State(membrane, torch.zeros_like(membrane))

    def keeps(self) -> Tensor:
        """Return 1: nothing leaks."""
        return self.threshold.new_ones(())

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return signed_if_step(current, state, self.threshold, self.limit, self.firing)
