"""Neurons that inhibit each other in groups: the sooner one fires, the later do the others."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .checks import leak_of, number
from .dynamics import Firing, SoftReset, State, lif_charge
from .errors import SpiketuneError
from .neurons import Neuron
from .surrogate import fire
from .units import register_unit

# Where it trains: at 1 a spike sets a whole group back alike, and nobody's share can be told.
LARGEST = 0.99

Group = Literal["layer", "pixel"]


@register_unit
class Lateral(Neuron):
    """Leaky neuron with a soft reset that a spike of any neuron of its group sets back too.

    ``u[t] = λ v[t-1] + c[t]``; ``s[t] = 1[u[t] >= θ]``;
    ``v_i[t] = u_i[t] - θ_i s_i[t] - κ θ_i Σ_{h≠i} s_h[t]``, ``h`` in the group of ``i``. With
    ``κ = 0`` this is a ``LIF`` neuron. What it tends to, for ``ann``, is told as if ``κ`` were 0.

    Args:
        threshold: as in ``Neuron``.
        leak: ``λ`` in (0, 1].
        inhibition: ``κ`` from 0 to 1, one number.
        group: ``layer``, all neurons of the layer; ``pixel``, the channels of each pixel.
        bare: send ``s`` in the place of ``θ s``, so that a neuron's effect does not grow with its
            threshold. A first-order change of the threshold then changes what is sent.
        initial: as in ``Neuron``, like those that follow.
        floor: see above.
        ceiling: see above.
        firing: see above.
        folded: see above.

    Raises:
        SpiketuneError: on a leak, an inhibition or a switch out of its range, another group, or a
            hard reset.

    Source: Lee, Delbruck & Pfeiffer 2016, winner-take-all groups (their ``σ = -1`` is the minus
    sign here). Reconstructed from notes: theirs is driven by events, here a group sees the spikes
    of one step together.

    Example:
        >>> pair = Lateral(torch.tensor(1.0), leak=1.0, inhibition=0.5)
        >>> current = torch.tensor([0.75, 0.5]).expand(4, 1, 2)
        >>> pair(current)[0].squeeze(1).tolist()
        [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """

    settings = (*Neuron.settings, "group", "bare")
    mixes = True
    tensors = (*Neuron.tensors, "leak", "inhibition")

    def __init__(
        self,
        threshold: Tensor,
        *,
        leak: Tensor | float,
        inhibition: Tensor | float = 0.0,
        group: Group = "layer",
        bare: bool = False,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        share = _tensor(inhibition, threshold)
        if share.dim() or not 0 <= share.item() <= 1:
            raise SpiketuneError(
                f"inhibition must be one number from 0 to 1, not {_told(inhibition)}; at 1 a spike "
                "sets its whole group back as much as the neuron itself"
            )
        if group not in get_args(Group):
            raise SpiketuneError(f"group must be layer or pixel, not {group!r}")
        if not isinstance(bare, bool):
            raise SpiketuneError(f"bare must be True or False, not {bare!r}")
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError(
                "neurons that inhibit each other reset softly; leave Firing(reset=...) out"
            )
        self.leak = leak_of(leak, threshold)
        self.inhibition = nn.Parameter(share.detach().clone(), requires_grad=False)
        self.group, self.bare = group, bare

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest inhibition, where it trains."""
        return {"inhibition": (0.0, LARGEST)} if self.inhibition.requires_grad else {}

    @property
    def macs(self) -> int:
        """One multiply-accumulate of a neuron at every step: its share of the group's spikes."""
        return 1

    def in_group(self, x: Tensor) -> Tensor:
        """Return sums over the groups of ``x [B, ...]``, in a shape that broadcasts to it."""
        return x.sum(1 if self.group == "pixel" else tuple(range(1, x.dim())), keepdim=True)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        charged = lif_charge(state.membrane, current, self.leak)
        spikes = fire(
            charged / self.threshold - 1, self.firing.surrogate, strict=self.firing.strict
        )
        reset_by = spikes.detach() if self.firing.detach_reset else spikes
        others = self.in_group(reset_by) - reset_by
        after = charged - self.threshold * (reset_by + self.inhibition * others)
        return self.threshold * spikes, State(after)


def _tensor(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a setting as a tensor, NaN for what is no number."""
    plain = isinstance(value, Tensor) or number(value)
    return torch.as_tensor(value if plain else math.nan, dtype=like.dtype, device=like.device)


def _told(value: object) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
