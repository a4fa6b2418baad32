"""The last unit of a network of spike times: the class whose neuron fires first wins."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import positive, whole
from ..dynamics import State
from ..errors import SpiketuneError
from ..neurons import Temporal
from ..units import register_unit


@register_unit
class Race(Temporal):
    """Turn output times into outputs over steps: step ``n`` shows what fired in ``(n - 1, n]``.

    ``o_k(n) = H + 1 - t_k`` at the step in which class ``k`` fires, else 0, so that their sum, the
    readout ``Membrane``, orders the classes by time, whatever the latency it is read at. Where at
    the horizon ``H`` some have not fired, they answer ``1 / (1 + t_k - H) < 1``, by the times that
    their membranes stand for: the largest membrane wins if none fires.

    Args:
        horizon: ``H``, in steps.
        sharpness: of the logits that a loss is taken of, ``sharpness (1 - t_k/H)``.

    Raises:
        SpiketuneError: on a sharpness that is not above 0, or a horizon that is no whole number.

    Source: Kheradpisheh & Masquelier 2020 (S4NN), the decision.

    Example:
        >>> times = torch.tensor([[2.5, 1.0, 40.0]])  # two classes fire, one does not
        >>> outputs, _ = Race(horizon=4)(times.expand(4, 1, 3))
        >>> outputs.squeeze(1).cumsum(0).argmax(1).tolist(), outputs[-1].flatten().tolist()
        ([1, 1, 1, 1], [0.0, 0.0, 0.027...])
    """

    settings = ("horizon", "sharpness")

    def __init__(self, *, horizon: int = 32, sharpness: float = 40.0) -> None:
        super().__init__()
        if not positive(sharpness):
            raise SpiketuneError(f"sharpness must be a number above 0, not {sharpness!r}")
        if not whole(horizon):
            raise SpiketuneError(
                f"horizon must be a whole number of steps, at least 1, not {horizon!r}"
            )
        self.horizon, self.sharpness = horizon, sharpness

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the outputs ``[T, B, K]`` of steps that all see the times ``[B, K]``."""
        first = 0 if state is None else state.count
        sent = [self._at(n, times) for n, times in enumerate(x.unbind(0), start=first + 1)]
        return torch.stack(sent), State(x[-1], count=first + len(x))

    def _at(self, step: int, times: Tensor) -> Tensor:
        # A spike at time 0 belongs to the first step; none comes at the horizon.
        late = (times > step - 1) | (step == 1)
        fired = late & (times <= step) & (times < self.horizon)
        silent = (times >= self.horizon) & (step == self.horizon)
        return torch.where(fired | silent, self.ann(times), 0.0)

    def ann(self, x: Tensor) -> Tensor:
        """Return the answer at the horizon to times ``[B, K]``."""
        late = 1 / (1 + (x - self.horizon).clamp_min(0))
        return torch.where(x < self.horizon, self.horizon + 1 - x, late)

    def logits(self, times: Tensor) -> Tensor:
        """Return ``sharpness (1 - t/H)`` of times in steps."""
        return self.sharpness * (1 - times / self.horizon)

    def times(self, logits: Tensor) -> Tensor:
        """Return the times of ``logits``."""
        return self.horizon * (1 - logits / self.sharpness)

    def extra_repr(self) -> str:
        """Say horizon and sharpness."""
        return f"horizon={self.horizon}, sharpness={self.sharpness}"
