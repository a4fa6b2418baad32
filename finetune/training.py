"""Settings of the optimisation, whatever the rule."""

from __future__ import annotations

from dataclasses import dataclass, field

from spiketune.snn.checks import number, whole

from .distill import Features
from .errors import TuneError
from .losses import Loss, MeanCrossEntropy
from .mixing import check_mixing
from .optimizers import Options, check_optimizer
from .schedules import check_schedule

# Settings that are numbers, and whether each may be None too.
_NUMBERS = {
    "learning_rate": False, "weight_decay": False, "momentum": True, "warmup": False,
    "clip_grad": True, "ema": True, "mixup": False, "cutmix": False, "erase": False,
    "explodes_at": True, "label_smoothing": False, "distillation": False, "temperature": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the weights move, whatever the rule.

    Attributes:
        optimizer: any that timm.optim knows: ``adamw``, ``sgd`` (with Nesterov momentum), ``lion``,
            ``lamb``, ...; ``lookahead_`` before a name wraps it.
        optimizer_options: its further settings, such as ``{"betas": (0.9, 0.95)}``.
        learning_rate: highest rate, reached after the warm-up.
        schedule: how the rate falls then, as timm has it: ``cosine``, ``constant``, ``step``,
            ``multistep``, ``poly``, ``tanh`` or ``wsd``; see ``finetune.schedules``.
        schedule_options: its settings, such as ``{"decay_epochs": 2, "decay_rate": 0.1}``.
        weight_decay: of the weights; thresholds, leaks, biases and norms are never decayed.
        momentum: of an optimizer that has one, such as ``sgd``; 0.9 there by default.
        warmup: share of all updates over which the rate rises from 0.
        clip_grad: largest norm of the whole gradient, None for no bound.
        accumulate: batches that make one update; with ``k`` the update is that of a batch ``k``
            times as large, for layers that see one image at a time (BatchNorm does not).
        ema: decay ``d`` of averaged weights ``w' <- d_n w' + (1 - d_n) w``, ``d_n`` the smaller one
            of ``d`` and ``1 - n^(-2/3)`` at update ``n``; they are what is validated and what
            remains in the network at the end. None for no average.
        mixup: ``α`` of mixup's Beta distribution, 0 for none; batches must be even.
        cutmix: ``α`` of cutmix, 0 for none; with both, each batch gets one of them.
        mix_options: further settings of timm's Mixup: ``prob``, ``switch_prob``, ``mode``,
            ``cutmix_minmax``, ``correct_lam``.
        erase: chance that a box of an image is replaced by noise (timm's random erasing).
        explodes_at: loss, as a multiple of the one of guessing ``ln(classes)``, at which the run
            stops as broken; None for never.
        label_smoothing: share of the label's weight that is spread over all classes.
        distillation: weight ``a`` of the teacher's answers against the labels, if there is one.
        temperature: ``τ`` of the distillation.
        features: where the network is to do what the teacher does, and how much that counts.
        loss: what the labels are compared with, such as ``TET()``.

    Raises:
        TuneError: on a value out of its range.

    Example:
        >>> Training(optimizer="lion", optimizer_options={"betas": (0.9, 0.95)}).schedule
        'cosine'
    """

    optimizer: str = "adamw"
    optimizer_options: Options = field(default_factory=dict)
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    schedule_options: Options = field(default_factory=dict)
    weight_decay: float = 0.01
    momentum: float | None = None
    warmup: float = 0.05
    clip_grad: float | None = 1.0
    accumulate: int = 1
    ema: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_options: Options = field(default_factory=dict)
    erase: float = 0.0
    explodes_at: float | None = 1000.0
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0
    features: Features | None = None
    loss: Loss = MeanCrossEntropy()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        for name, optional in _NUMBERS.items():
            value = getattr(self, name)
            if not (number(value) or (optional and value is None)):
                raise TuneError(
                    f"{name} must be a finite number{' or None' * optional}, not {value!r}"
                )
        checks = {
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "momentum": (0 < _or(self.momentum, 0.9) < 1, "between 0 and 1, or None"),
            "warmup": (0 <= self.warmup < 1, "at least 0 and below 1"),
            "clip_grad": (_or(self.clip_grad, 1.0) > 0, "above 0, or None"),
            "accumulate": (whole(self.accumulate), "1 batch or more, a whole number"),
            "ema": (0 < _or(self.ema, 0.5) < 1, "between 0 and 1, or None"),
            "mixup": (self.mixup >= 0, "0 or more"),
            "cutmix": (self.cutmix >= 0, "0 or more"),
            "erase": (0 <= self.erase <= 1, "from 0 to 1"),
            "explodes_at": (_or(self.explodes_at, 2.0) > 1, "above 1, or None"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "distillation": (0 <= self.distillation <= 1, "from 0 to 1"),
            "temperature": (self.temperature > 0, "above 0"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise TuneError(f"{name} must be {allowed}, not {getattr(self, name)!r}")
        for name in ("optimizer_options", "schedule_options", "mix_options"):
            # Lists, as JSON has them, and tuples are the same settings: a resume compares them.
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        check_optimizer(self.optimizer, self.optimizer_options, self.momentum)
        check_schedule(self.schedule, self.schedule_options)
        check_mixing(self.mixup, self.cutmix, self.mix_options)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _tuples(options: Options) -> Options:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
