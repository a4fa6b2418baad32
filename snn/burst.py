"""Neurons that may send several equal spikes in one step, as bursts do."""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import Firing, SoftReset, State, if_charge
from .errors import SpiketuneError
from .neurons import Neuron
from .surrogate import fire
from .units import register_unit


@register_unit
class Burst(Neuron):
    """Integrate-and-fire neuron that sends up to ``m`` spikes a step.

    ``v += c``; ``s = clip(floor(v/θ), 0, m)``; ``v -= θ s``. With a ceiling ``C`` the sum of all
    spikes stays within ``floor(t C/θ)`` after ``t`` steps, so that their mean never exceeds ``C``.

    Args:
        threshold: as in ``Neuron``.
        most: ``m``, most spikes in one step; 1 is the plain neuron.
        initial: as in ``Neuron``, like those that follow.
        floor: see above.
        ceiling: see above.
        firing: see above; the reset is soft, a burst is what a hard one would throw away.
        folded: see above.

    Raises:
        SpiketuneError: on fewer than one spike a step, or a hard reset.

    Source: Li & Zeng 2022 (burst spikes); Wang et al. 2025 (AdaFire).

    Example:
        >>> spikes, _ = Burst(torch.tensor(1.0), most=3)(torch.tensor([[2.5], [0.5], [9.0]]))
        >>> spikes.flatten().tolist()
        [2.0, 1.0, 3.0]
    """

    settings = (*Neuron.settings, "most")

    def __init__(
        self,
        threshold: Tensor,
        *,
        most: int = 5,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        if most < 1:
            raise SpiketuneError(f"most must be at least 1 spike a step, not {most}")
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError("a burst neuron resets softly; use Firing(reset=SoftReset())")
        self.most = most

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, with an empty count of what was sent."""
        membrane = super().start(current).membrane
        return State(membrane, torch.zeros_like(membrane), 0)

    def keeps(self) -> Tensor:
        """Return 1: nothing leaks."""
        return self.threshold.new_ones(())

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        assert state.tracer is not None
        membrane, count = if_charge(state.membrane, current), state.count + 1
        relative = membrane / self.threshold
        # A sum of steps rather than floor(): each has a slope for training.
        spikes = torch.zeros_like(membrane)
        for k in range(1, self.most + 1):
            spikes = spikes + fire(relative - k, self.firing.surrogate, strict=self.firing.strict)
        if self.ceiling is not None:
            allowed = (count * self.ceiling / self.threshold).floor()
            spikes = torch.minimum(spikes, allowed - state.tracer)
        taken = spikes.detach() if self.firing.detach_reset else spikes
        after = State(membrane - self.threshold * taken, state.tracer + spikes.detach(), count)
        return self.threshold * spikes, after

    def events(self, spikes: Tensor, first: int = 0) -> Tensor:
        """Return how many spikes each output ``[T, B, ...]`` holds."""
        return spikes.round() if self.folded else (spikes / self.threshold).round()
