"""The neuron that computes all its steps at once, without a reset (PSN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .dynamics import Firing, SoftReset, State
from .errors import SpiketuneError
from .neurons import Neuron
from .surrogate import fire
from .units import register_unit


@register_unit
class PSN(Neuron):
    """Parallel spiking neuron: ``H = W c`` over time, ``s[t] = 1[H[t]/θ + b[t] >= 0]``.

    ``W [T, T]`` and ``b [T]`` train along with the weights. Nothing is reset, so no step waits for
    another; all of them are needed at once, and no other number of them will do. Without an order
    a step sees later ones too; of order ``k`` it sees itself and the ``k - 1`` before it, the rest
    of ``W`` counts as zero.

    Args:
        threshold: as in ``Neuron``; the step ``t`` fires from ``-θ b[t]`` on.
        steps: ``T``.
        order: ``k``, from 1 to ``T``; None for all steps, the later ones included.
        weight: ``W``; drawn from ``U(-1/√T, 1/√T)`` by default.
        bias: ``b``; -1 by default, which makes the threshold ``θ``.
        floor: as in ``Neuron``, like those that follow.
        ceiling: see above.
        firing: see above; its reset is left as it is.
        folded: see above.

    Raises:
        SpiketuneError: on an order out of its range, a weight or bias that does not fit ``T``, or
            a hard reset.

    Source: Fang et al. 2023 (PSN, and masked PSN where there is an order). The mask is there from
    the start; the paper blends it in during training.

    Example:
        >>> sums = PSN(torch.tensor(1.0), steps=3, order=3, weight=torch.ones(3, 3))
        >>> sums(torch.full((3, 1), 0.5))[0].flatten().tolist()
        [0.0, 1.0, 1.0]
    """

    settings = (*Neuron.settings, "steps", "order")
    tensors = ("threshold", "ceiling", "weight", "bias")
    whole = True

    def __init__(
        self,
        threshold: Tensor,
        *,
        steps: int,
        order: int | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(threshold, floor=floor, ceiling=ceiling, firing=firing, folded=folded)
        if steps < 1:
            raise SpiketuneError(f"steps must be a whole number, at least 1, not {steps}")
        if order is not None and not 1 <= order <= steps:
            raise SpiketuneError(f"order must be from 1 to the {steps} steps of a PSN, not {order}")
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError("a PSN never resets; leave Firing(reset=...) out")
        if weight is None:
            weight = torch.empty(steps, steps).uniform_(-(steps**-0.5), steps**-0.5)
        bias = torch.full((steps,), -1.0) if bias is None else bias
        if weight.shape != (steps, steps) or bias.shape != (steps,):
            raise SpiketuneError(
                f"a PSN of {steps} steps needs a weight [{steps}, {steps}] and a bias [{steps}], "
                f"not {list(weight.shape)} and {list(bias.shape)}"
            )
        self.steps, self.order = steps, order
        self.weight = nn.Parameter(weight.detach().to(threshold).clone())
        self.bias = nn.Parameter(bias.detach().to(threshold).clone())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one neuron at every step: a row of ``W``."""
        return self.order or self.steps

    def mixing(self) -> Tensor:
        """Return ``W [T, T]`` as it acts: what lies outside the order is zero."""
        return self.weight if self.order is None else self.weight.tril().triu(1 - self.order)

    def run(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Run all steps at once; the membrane afterwards is ``H`` of the last."""
        if len(current) != self.steps or state.count:
            raise SpiketuneError(
                f"a PSN made for T={self.steps} steps at once is given {len(current)} at a time; "
                f"run, tune and compare its network at steps={self.steps} and leave chunk= out"
            )
        # Under autocast a product of matrices would round what it sums to half precision.
        with torch.autocast(current.device.type, enabled=False):
            membrane = (self.mixing() @ current.flatten(1)).view_as(current)
            over_time = self.bias.view(-1, *[1] * (current.dim() - 1))
            distance = membrane / self.threshold + over_time
            spikes = fire(distance, self.firing.surrogate, strict=self.firing.strict)
            return self.threshold * spikes, State(membrane[-1], count=self.steps)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Refuse: there is no single step.

        Raises:
            SpiketuneError: always.
        """
        raise SpiketuneError(
            "a PSN computes all its steps at once; train it by a rule that sees them at once, "
            "such as SurrogateBPTT"
        )
