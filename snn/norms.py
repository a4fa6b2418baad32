"""BatchNorm on the input currents of neurons, over time: its kinds, and the map each computes.

Time is folded into the batch, so a plain BatchNorm already takes one mean and one variance from
all steps, images and pixels of a channel (Ledinauskas et al. 2020); where the current is computed
once an image, they are those of its single value, which is the same. The kinds below scale that by
the threshold, or step by step. A kind is a frozen dataclass that makes a module out of a BatchNorm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from .dynamics import State
from .errors import SpiketuneError
from .neurons import Temporal

# By the dimensions of what they normalise, images or steps first.
BATCH_NORMS: dict[int, type[BatchNorm]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


class ThresholdBatchNorm(BatchNorm):
    """``y = α θ γ (x - μ)/√(σ² + ε) + β``: currents as wide as the threshold (tdBN).

    ``μ`` and ``σ²`` are taken over ``T``, ``B`` and the pixels of each channel; the running
    variance is the unbiased one of all ``T·B·H·W`` values.

    Args:
        num_features: channels ``C``, dimension 1 of what comes, ``[T*B, C, ...]``.
        scale: ``α θ``.
        eps: ``ε``.
        momentum: of the running statistics, None for their cumulative mean.
        affine: whether there are ``γ`` and ``β``.

    Raises:
        SpiketuneError: on a scale that is not above zero.

    Source: Zheng et al. 2021 (STBP-tdBN), threshold-dependent batch normalization.

    Example:
        >>> norm = ThresholdBatchNorm(3, scale=0.5)
        >>> round(norm(torch.randn(1000, 3)).std().item(), 2)
        0.5
    """

    def __init__(
        self,
        num_features: int,
        *,
        scale: float,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
    ) -> None:
        if not scale > 0:
            raise SpiketuneError(f"scale must be above zero, not {scale}; give alpha times θ")
        super().__init__(num_features, eps=eps, momentum=momentum, affine=affine)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[T*B, C, ...]``."""
        share = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        assert self.running_var is not None
        ones = torch.ones_like(self.running_var)
        gain = self.scale * (ones if self.weight is None else self.weight)
        return F.batch_norm(
            input, self.running_mean, self.running_var, gain, self.bias,
            self.training, share, self.eps,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Say the scale, and what a BatchNorm says."""
        return f"{self.num_features}, scale={self.scale}, eps={self.eps}, momentum={self.momentum}"


class TemporalBatchNorm(Temporal):
    """``y[t] = k[t] BN(x)[t]``: shared statistics, and a factor for each step (TEBN).

    The factors are those of steps 1 to ``T``; a run may be shorter, never longer.

    Args:
        norm: the BatchNorm that all steps share.
        steps: ``T``; each ``k[t]`` starts at 1.

    Raises:
        SpiketuneError: on less than one step, or on a run that is longer than ``T``.

    Source: Duan et al. 2022 (TEBN); their further loss on ``k`` is left out.

    Example:
        >>> norm = TemporalBatchNorm(nn.BatchNorm1d(3), steps=2)
        >>> list(norm(torch.randn(2, 8, 3))[0].shape)
        [2, 8, 3]
    """

    def __init__(self, norm: nn.Module, *, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise SpiketuneError(f"steps must be at least 1, not {steps}")
        self.norm = norm
        like = next(iter([*norm.parameters(), *norm.buffers()]), torch.empty(()))
        self.factors = nn.Parameter(torch.ones(steps, dtype=like.dtype, device=like.device))

    @property
    def steps(self) -> int:
        """``T``, the steps that have a factor."""
        return len(self.factors)

    def ann(self, x: Tensor) -> Tensor:
        """Return what a constant current ``[B, ...]`` becomes on average over all steps."""
        normed: Tensor = self.norm(x)
        return self.factors.mean() * normed

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Normalise ``[T, B, C, ...]``; the state counts the steps."""
        first = 0 if state is None else state.count
        last = first + len(x)
        if last > self.steps:
            raise SpiketuneError(
                f"a TEBN layer has factors for {self.steps} steps, so the network cannot run "
                f"{last}; run at most {self.steps}, or make and train it with steps={last}"
            )
        normed = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        factors = self.factors[first:last].view(-1, *[1] * (x.dim() - 1))
        return factors * normed, State(x.new_zeros(()), count=last)


class Norm(ABC):
    """A kind of BatchNorm on input currents; subclasses are frozen dataclasses.

    Example:
        >>> type(SharedBN().make(nn.BatchNorm1d(3), steps=4, before_sum=False)).__name__
        'BatchNorm1d'
    """

    @abstractmethod
    def make(self, norm: BatchNorm, *, steps: int, before_sum: bool) -> nn.Module:
        """Return the module to put in the place of ``norm``, with its tensors.

        Args:
            norm: a plain BatchNorm with the network's own weights and statistics.
            steps: ``T`` the network is made for.
            before_sum: whether its output is one of two terms of a residual addition.
        """


@dataclass(frozen=True, kw_only=True)
class SharedBN(Norm):
    """One mean and one variance for all steps.

    Source: Ledinauskas et al. 2020 (arXiv 2006.04436).

    Example:
        >>> SharedBN() == SharedBN()
        True
    """

    def make(self, norm: BatchNorm, *, steps: int, before_sum: bool) -> nn.Module:
        """Return ``norm`` as it is."""
        return norm


@dataclass(frozen=True, kw_only=True)
class TDBN(Norm):
    """Shared statistics scaled by ``α θ``, by ``α θ/√2`` before a residual addition.

    Thresholds of a twin are 1 before training, so ``θ = 1``.

    Attributes:
        alpha: ``α``.

    Source: Zheng et al. 2021 (STBP-tdBN), with its rule for residual blocks.

    Example:
        >>> TDBN().make(nn.BatchNorm1d(3), steps=4, before_sum=True).scale ** 2
        0.5000000000000001
    """

    alpha: float = 1.0

    def make(self, norm: BatchNorm, *, steps: int, before_sum: bool) -> nn.Module:
        """Return a ``ThresholdBatchNorm`` with the tensors of ``norm``."""
        scaled = ThresholdBatchNorm(
            norm.num_features,
            scale=self.alpha * (math.sqrt(0.5) if before_sum else 1.0),
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
        )
        assert norm.running_mean is not None
        scaled.to(norm.running_mean.device, norm.running_mean.dtype)
        scaled.load_state_dict(norm.state_dict())
        return scaled


@dataclass(frozen=True, kw_only=True)
class TEBN(Norm):
    """Shared statistics and a trained factor for each step; no run may be longer than trained.

    Source: Duan et al. 2022 (TEBN).

    Example:
        >>> TEBN().make(nn.BatchNorm1d(3), steps=4, before_sum=False).steps
        4
    """

    def make(self, norm: BatchNorm, *, steps: int, before_sum: bool) -> nn.Module:
        """Return a ``TemporalBatchNorm`` around ``norm``."""
        return TemporalBatchNorm(norm, steps=steps)


def scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return ``a`` and ``b`` ``[C]``, in double, of the ``y = a x + b`` computed in evaluation.

    Example:
        >>> norm = nn.BatchNorm1d(1, eps=0.0)
        >>> _ = norm.running_mean.fill_(3), norm.running_var.fill_(4)
        >>> [value.item() for value in scale_and_shift(norm)]
        [0.5, -1.5]
    """
    assert norm.running_mean is not None and norm.running_var is not None
    # In double: the statistics of a trained layer span many orders of magnitude.
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    if isinstance(norm, ThresholdBatchNorm):
        scale = scale * norm.scale
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


_PLAIN = ("num_features", "eps", "momentum", "affine")
# What each kind of module is described by in a file; what is not listed here cannot be saved.
_FIELDS: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _PLAIN),
    ThresholdBatchNorm: (*_PLAIN, "scale"),
    TemporalBatchNorm: ("steps",),
}
NORMS: dict[str, type[nn.Module]] = {cls.__name__: cls for cls in _FIELDS}


def describe_norm(norm: nn.Module) -> dict[str, Any]:
    """Return a registered norm without its tensors, as plain data.

    Example:
        >>> describe_norm(TemporalBatchNorm(nn.BatchNorm1d(3, affine=False), steps=4))["norm"]
        {'type': 'BatchNorm1d', 'num_features': 3, 'eps': 1e-05, 'momentum': 0.1, 'affine': False}
    """
    fields = {name: getattr(norm, name) for name in _FIELDS[type(norm)]}
    inner = {"norm": describe_norm(norm.norm)} if isinstance(norm, TemporalBatchNorm) else {}
    return {"type": type(norm).__name__, **fields, **inner}


def rebuild_norm(data: dict[str, Any]) -> nn.Module:
    """Return the norm that ``describe_norm`` described, its tensors still empty.

    Example:
        >>> rebuild_norm(describe_norm(nn.BatchNorm2d(3, momentum=0.2))).momentum
        0.2
    """
    given = {key: value for key, value in data.items() if key != "type"}
    if "norm" in given:
        given["norm"] = rebuild_norm(given["norm"])
    return NORMS[data["type"]](**given)
