"""timm's optimizers by name, with settings that are refused where they could not act."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from spiketune.snn import SpikingNetwork, Temporal

from .errors import TuneError

if TYPE_CHECKING:
    from .training import Training

Options = dict[str, bool | int | float | str | list[float] | tuple[float, ...] | None]
# Set by fields of ``Training`` of their own.
_OWN = ("lr", "weight_decay", "momentum", "params")
_WRAPPED = "lookahead_"


def check_optimizer(name: str, options: Mapping[str, object], momentum: float | None) -> None:
    """Refuse an optimizer that timm does not know, or settings that it does not have.

    Raises:
        TuneError: naming what is there instead.

    Example:
        >>> check_optimizer("adamw", {"amsgrad": True}, None)
        >>> check_optimizer("adamw", {"nesterov": True}, None)
        Traceback (most recent call last):
        ...
        spiketune.finetune.errors.TuneError: adamw has no setting nesterov; it has amsgrad, ...
    """
    if (name, not options, momentum) == ("adamw", True, None):
        return  # known to be right, and timm takes seconds to import
    from timm.optim import get_optimizer_info, list_optimizers  # type: ignore[attr-defined]

    known = list_optimizers()
    bare = name.removeprefix(_WRAPPED)
    if bare not in known:
        near = get_close_matches(bare, known, 6, 0.5) or ["adamw", "sgd", "lion", "lamb"]
        raise TuneError(
            f"optimizer must be one that timm.optim knows, such as {', '.join(map(str, near))}, "
            f"not {name!r}"
        )
    info = get_optimizer_info(bare)
    if momentum is not None and not info.has_momentum:
        raise TuneError(f"momentum must be None for {name}, which has none, not {momentum!r}")
    if info.second_order:
        raise TuneError(
            f"optimizer must not be {name}: it asks for second derivatives, and a surrogate's "
            "gradient has none; use adamw"
        )
    if not isinstance(info.opt_class, str):  # apex and bitsandbytes are not there to be asked
        _check_options(name, options, info.opt_class, {*(info.defaults or {})})


def _check_options(
    name: str, options: Mapping[str, object], made_by: type[Optimizer], fixed: set[str]
) -> None:
    taken = [key for key in options if key in _OWN]
    if taken:
        field = "learning_rate" if taken[0] == "lr" else taken[0]
        raise TuneError(f"optimizer_options must leave {taken[0]} to Training({field}=...)")
    has = {*inspect.signature(made_by).parameters, *fixed} - {*_OWN, "foreach", "kwargs", "args"}
    missing = [key for key in options if key not in has]
    if missing:
        raise TuneError(
            f"{name} has no setting {', '.join(missing)}; it has {', '.join(sorted(has))}"
        )


def make_optimizer(snn: SpikingNetwork, training: Training) -> Optimizer:
    """Return the optimizer over every parameter that trains.

    Raises:
        TuneError: if no parameter does, or the optimizer needs a package that is not there.
    """
    # Here and not above: timm takes seconds to import, and only training needs it.
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    make: Callable[..., Optimizer] = create_optimizer_v2
    given = {} if training.momentum is None else {"momentum": training.momentum}
    try:
        return make(
            _groups(snn, training.weight_decay),
            opt=training.optimizer,
            lr=training.learning_rate,
            weight_decay=0.0,
            **given,
            **training.optimizer_options,
        )
    except ImportError as error:
        raise TuneError(
            f"optimizer {training.optimizer} is not to be had here ({error}); use adamw"
        ) from error
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise TuneError(
            f"optimizer {training.optimizer} cannot be made with {training.optimizer_options} "
            f"({error}); change optimizer_options or use adamw"
        ) from error


def _groups(snn: SpikingNetwork, weight_decay: float) -> list[dict[str, object]]:
    """Return weights, which decay, and what does not: thresholds, leaks, delays, biases, norms."""
    temporal = [unit for unit in snn.modules() if isinstance(unit, Temporal)]
    units = {id(p) for unit in temporal for p in unit.parameters()}
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
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
