"""Settings of the optimisation, and the optimizer and schedule they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.optim import Optimizer

from spiketune.snn import SpikingNetwork

from .errors import TuneError

if TYPE_CHECKING:
    from timm.scheduler.cosine_lr import CosineLRScheduler


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the weights move, whatever the rule.

    Attributes:
        optimizer: AdamW, or SGD with Nesterov momentum.
        learning_rate: highest rate, reached after the warm-up; falls to 0 on a cosine.
        weight_decay: of the weights; thresholds, leaks, biases and norms are never decayed.
        momentum: of SGD; AdamW does not use it.
        warmup: share of all updates over which the rate rises from 0.
        clip_grad: largest norm of the whole gradient, None for no bound.
        label_smoothing: share of the label's weight that is spread over all classes.
        distillation: weight ``a`` of the teacher's answers against the labels, if there is one.
        temperature: ``τ`` of the distillation.

    Raises:
        TuneError: on a value out of its range.

    Example:
        >>> Training(optimizer="sgd", learning_rate=0.1).momentum
        0.9
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    warmup: float = 0.05
    clip_grad: float | None = 1.0
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        clip = 1.0 if self.clip_grad is None else self.clip_grad
        checks = {
            "optimizer": (self.optimizer in ("adamw", "sgd"), "adamw or sgd"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "momentum": (0 < self.momentum < 1, "between 0 and 1"),
            "warmup": (0 <= self.warmup < 1, "at least 0 and below 1"),
            "clip_grad": (clip > 0, "above 0, or None"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "distillation": (0 <= self.distillation <= 1, "from 0 to 1"),
            "temperature": (self.temperature > 0, "above 0"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise TuneError(f"{name} must be {allowed}, not {getattr(self, name)!r}")


def make_optimizer(snn: SpikingNetwork, training: Training) -> Optimizer:
    """Return the optimizer over every parameter that trains.

    Raises:
        TuneError: if no parameter does.
    """
    # Here and not above: timm takes seconds to import, and only training needs it.
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    units = {id(p) for _, neuron in snn.neurons() for p in neuron.parameters()}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in snn.parameters():
        if parameter.requires_grad:
            # A threshold per channel is [C, 1, 1], so counting dimensions alone would decay it.
            bare = parameter.dim() <= 1 or id(parameter) in units
            (plain if bare else decayed).append(parameter)
    if not decayed and not plain:
        raise TuneError(
            "nothing to train: every parameter has requires_grad=False; "
            "call snn.requires_grad_(True) first"
        )
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer: Optimizer = create_optimizer_v2(
        [group for group in groups if group["params"]],
        opt=training.optimizer,
        lr=training.learning_rate,
        weight_decay=0.0,
        momentum=training.momentum,
    )
    return optimizer


def make_schedule(optimizer: Optimizer, training: Training, updates: int) -> CosineLRScheduler:
    """Return the schedule over ``updates`` updates: a linear warm-up, then a cosine to 0."""
    from timm.scheduler.cosine_lr import CosineLRScheduler

    warmup = min(round(training.warmup * updates), updates - 1)
    return CosineLRScheduler(
        optimizer,
        # With a single update timm warns of a cosine without effect; a second is never reached.
        t_initial=max(2, updates - warmup),
        warmup_t=warmup,
        # The first update must move too: it takes the first step of the rise, not its foot.
        warmup_lr_init=training.learning_rate / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
