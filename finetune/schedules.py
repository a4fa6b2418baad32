"""timm's schedules of the learning rate, counted in updates.

All begin with a linear warm-up over ``w`` of the run's ``N`` updates, a share ``warmup`` of them.
With ``x`` the share of the updates after it that is done and ``e`` the epochs since it, the rate
is ``η`` times

    cosine     ``1/2 (1 + cos(π x^k))``
    constant   ``1``
    step       ``decay_rate^floor(e / decay_epochs)``
    multistep  ``decay_rate^(milestones that e has passed)``
    poly       ``(1 - x^k)^power``
    tanh       ``1/2 (1 - tanh(-7 (1 - x) + 3 x))``
    wsd        ``1``, and ``1 - sqrt`` of the way through its last ``decay_epochs``

and falls to ``min_lr`` instead of 0 where that is given. Sources: Loshchilov & Hutter 2017
(cosine); Zhang & Li 2020 (k-decay); Hägele et al. 2024 (wsd).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch.optim import Optimizer

from .errors import TuneError

if TYPE_CHECKING:
    from .training import Training


class _Kind(NamedTuple):
    """A schedule's settings: those it needs, those it may have, and those that make it."""

    needs: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = {}


SCHEDULES: dict[str, _Kind] = {
    "constant": _Kind(fixed={"sched": "step", "decay_rate": 1.0, "decay_epochs": 1}),
    "cosine": _Kind(has=("min_lr", "k_decay")),
    "multistep": _Kind(needs=("decay_milestones",), has=("decay_rate",)),
    "poly": _Kind(has=("power", "min_lr", "k_decay"), fixed={"decay_rate": 1.0}),
    "step": _Kind(needs=("decay_epochs",), has=("decay_rate",)),
    "tanh": _Kind(has=("min_lr",)),
    "wsd": _Kind(has=("decay_epochs", "min_lr"), fixed={"decay_epochs": 0.2}),
}
_EPOCHS = ("decay_epochs", "decay_milestones")


class Schedule(Protocol):
    """What sets the optimizer's rate."""

    def step_update(self, num_updates: int) -> None:
        """Set the rate of the update after so many."""


def check_schedule(name: str, options: Mapping[str, object]) -> None:
    """Refuse a schedule that is not known, or settings that it does not have.

    Raises:
        TuneError: naming what there is.

    Example:
        >>> check_schedule("step", {"decay_epochs": 2})
        >>> check_schedule("step", {"min_lr": 0.1})
        Traceback (most recent call last):
        ...
        spiketune.finetune.errors.TuneError: schedule step has no setting min_lr; it has ...
    """
    if name not in SCHEDULES:
        raise TuneError(f"schedule must be one of {', '.join(SCHEDULES)}, not {name!r}")
    kind = SCHEDULES[name]
    allowed = (*kind.needs, *kind.has)
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise TuneError(
            f"schedule {name} has no setting {', '.join(unknown)}; "
            f"it has {', '.join(allowed) or 'none'}"
        )
    missing = [key for key in kind.needs if key not in options]
    if missing:
        raise TuneError(
            f"schedule {name} needs to know {', '.join(missing)}; give "
            f"schedule_options={{{missing[0]!r}: {[1, 2] if 'miles' in missing[0] else 1}}}, "
            "in epochs"
        )


def make_schedule(
    optimizer: Optimizer, training: Training, *, epochs: int, updates: int
) -> Schedule:
    """Return the schedule over ``epochs`` epochs of ``updates`` updates each.

    Raises:
        TuneError: on settings that timm refuses.
    """
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    total = epochs * updates
    warmup = min(round(training.warmup * total), total - 1)
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            # With a single update timm warns of a cosine without effect; a second is never reached.
            num_epochs=max(2, total - warmup),
            warmup_epochs=warmup,
            # The first update must move too: it takes the first step of the rise, not its foot.
            warmup_lr=training.learning_rate / (warmup + 1),
            warmup_prefix=True,
            step_on_epochs=False,
            updates_per_epoch=1,  # all is counted in updates already
            **{"sched": training.schedule, **_arguments(training, updates)},
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise TuneError(
            f"schedule {training.schedule} cannot be laid over {total} updates with "
            f"{training.schedule_options} ({error}); change schedule_options"
        ) from error
    if schedule is None:
        raise TuneError(f"this timm has no schedule {training.schedule}; install a newer one")
    made: Schedule = schedule
    return made


def _arguments(training: Training, updates: int) -> dict[str, Any]:
    """Return the settings as timm takes them, epochs turned into updates."""
    arguments: dict[str, Any] = {**SCHEDULES[training.schedule].fixed}
    for key, value in training.schedule_options.items():
        if key in _EPOCHS and isinstance(value, list | tuple):
            # timm asks whether the next update is past the milestone: one later, it is this one.
            arguments[key] = [round(item * updates) + 1 for item in value]
        elif key in _EPOCHS and isinstance(value, int | float):
            arguments[key] = max(1, round(value * updates))
        else:
            # timm calls the power of a polynomial its decay rate.
            arguments["decay_rate" if key == "power" else key] = value
    return arguments
