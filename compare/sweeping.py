"""``sweep``: every model, every step budget, the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from spiketune.snn import SpiketuneError, SpikingNetwork

from .batches import Batches
from .clock import timed
from .energy import FP32, EnergyModel
from .interval import wilson
from .memory import PeakMemory
from .result import Result
from .runners import Runner, placed, require_steps, runner
from .table import Table

Progress = Callable[[str, int, int], None]
N = TypeVar("N", int, float)


class _Origin(TypedDict):
    """The fields of a result that the maker of the model has told."""

    method: str | None
    calibration_images: int | None
    training_images: int | None
    epochs: float | None
    tuned_steps: int | None
    preparation_seconds: float | None


def sweep(
    models: Mapping[str, nn.Module],
    loader: Iterable[Sequence[Any]],
    steps: int | Sequence[int],
    *,
    reference: str | None = None,
    energy: EnergyModel = FP32,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Table:
    """Evaluate models side by side: one row a model and budget, all budgets from one simulation.

    Args:
        models: spiking networks and ANNs by name; all are left as they are.
        loader: test images, ``(x, y, ...)`` with class indices ``y``; read once a model, so it
            must be re-iterable, in the same order every time.
        steps: ``32`` for every budget from 1 to 32, or the budgets themselves.
        reference: the model to agree with and to compare energy with; by default the first that
            does not spike. A spiking reference counts with its largest budget.
        energy: picojoules of one operation.
        device: where to run; by default where each model lies.
        progress: called after each batch with the model's name, the batches done and their
            number (0 where the loader does not know it).

    Returns:
        The table; an ANN repeats its single answer at every budget.

    Raises:
        SpiketuneError: on no models, steps below 1, an unknown reference, an empty, one-shot or
            shuffling loader, labels outside a model's classes, or an answer that is not a number.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 1, 2, 2), st.Ternary(steps=8))
        >>> test = [(torch.rand(20, 1, 2, 2), torch.randint(3, (20,)))]
        >>> table = sweep({"ann": ann, "ternary": snn}, test, steps=8)
        >>> len(table.rows), table.rows[0].agreement
        (16, 100.0)
    """
    if not isinstance(models, Mapping):
        raise SpiketuneError(
            f"models must be named, not a bare {type(models).__name__}; give {{'name': network}}"
        )
    budgets = _budgets(steps)
    chosen = _reference(models, reference)
    require_steps(models, budgets[-1])
    batches = Batches(loader)
    target = None if device is None else torch.device(device)
    order = sorted(models, key=lambda name: name != chosen)  # what others are compared with first
    found: dict[str, _Found] = {}
    for name in order:
        expected = found[chosen].predicted if chosen in found else None
        found[name] = _evaluate(
            name, models[name], batches,
            budgets=budgets, expected=expected, device=target, progress=progress,
        )  # fmt: skip
    anchor = _energy(found[chosen].runner, budgets[-1], energy) if chosen else None
    return Table(
        rows=tuple(
            _result(
                name,
                models[name],
                found[name],
                place=place,
                budget=budget,
                energy=energy,
                anchor=anchor,
            )
            for name in models
            for place, budget in enumerate(budgets)
        ),
        budgets=budgets,
        reference=chosen,
        energy=energy,
        device=", ".join(sorted({_device_name(f.device) for f in found.values()})),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


@dataclass(frozen=True)
class _Found:
    """What one pass over the images found."""

    runner: Runner
    hits: tuple[int, ...]
    agreed: tuple[int, ...]
    predicted: Tensor
    seconds: float
    megabytes: float | None
    device: torch.device


def _evaluate(
    name: str,
    model: nn.Module,
    batches: Batches,
    *,
    budgets: tuple[int, ...],
    expected: Tensor | None,
    device: torch.device | None,
    progress: Progress | None,
) -> _Found:
    run: Runner | None = None
    seconds = 0.0
    predicted, labels = [], []
    with placed(name, model, device) as place:
        peak = PeakMemory(place)
        for count, (images, truth) in enumerate(batches, start=1):
            images = images.to(place)
            if run is None:  # built at the first batch, outside the time and the memory taken
                run = runner(name, model, budgets, images[:1])
            with peak:
                answers, taken = timed(partial(run.answers, images), place)
            seconds += taken
            check_answers(name, answers, truth)
            predicted.append(answers.argmax(2).cpu())
            labels.append(truth.cpu())
            if progress is not None:
                progress(name, count, len(batches))
    assert run is not None  # an empty loader has been refused
    chosen = torch.cat(predicted, 1)
    return _Found(
        run,
        _matches(chosen, torch.cat(labels), budgets),
        _matches(chosen, chosen[-1] if expected is None else expected, budgets),
        chosen[-1],
        seconds,
        peak.megabytes,
        place,
    )


def _matches(predicted: Tensor, wanted: Tensor, budgets: tuple[int, ...]) -> tuple[int, ...]:
    """Return for each budget how many images are answered as wanted."""
    counts = (predicted == wanted).sum(1)
    return tuple(counts.expand(len(budgets)).tolist())


def check_answers(name: str, answers: Any, truth: Tensor) -> None:
    """Refuse answers that are not numbers ``[T, B, classes]`` for classes that hold the labels."""
    if not isinstance(answers, Tensor):
        raise SpiketuneError(
            f"{name!r} gives no scores [images, classes] but a {type(answers).__name__}; give a "
            "classifier, or compare what unroll() returns yourself"
        )
    if answers.dim() != 3 or answers.shape[1] != len(truth):
        raise SpiketuneError(
            f"{name!r} answers {len(truth)} images with shape {list(answers.shape[1:])}, not "
            "[images, classes]; give a classifier"
        )
    if bool(answers.isnan().any()):
        raise SpiketuneError(
            f"{name!r} answers NaN; check that its weights are finite and that the images are "
            "scaled as in training"
        )
    low, high, classes = int(truth.min()), int(truth.max()), answers.shape[2]
    if low < 0 or high >= classes:
        raise SpiketuneError(
            f"labels run from {low} to {high}, but {name!r} answers {classes} classes "
            f"(0 to {classes - 1}); use the label numbers it was trained with"
        )


def _budgets(steps: int | Sequence[int]) -> tuple[int, ...]:
    wanted = range(1, steps + 1) if isinstance(steps, int) else steps
    budgets = tuple(sorted({int(budget) for budget in wanted}))
    if not budgets or budgets[0] < 1:
        raise SpiketuneError(f"steps must be at least 1, not {steps!r}")
    return budgets


def _reference(models: Mapping[str, nn.Module], named: str | None) -> str | None:
    if not models:
        raise SpiketuneError(
            "no models to compare; give a mapping such as {'ann': ann, 'snn': snn}"
        )
    for name, model in models.items():
        if not isinstance(model, nn.Module):
            raise SpiketuneError(
                f"{name!r} is a {type(model).__name__}, not a network; give a torch.nn.Module"
            )
    if named is not None and named not in models:
        raise SpiketuneError(f"no model is called {named!r}; choose from {', '.join(models)}")
    dense = (name for name, model in models.items() if not isinstance(model, SpikingNetwork))
    return named or next(dense, None)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _energy(run: Runner, steps: int, energy: EnergyModel) -> float:
    _, accumulates, macs = run.spent(steps)
    return energy.nanojoules(macs=macs, accumulates=accumulates)


def _result(
    name: str,
    model: nn.Module,
    found: _Found,
    *,
    place: int,
    budget: int,
    energy: EnergyModel,
    anchor: float | None,
) -> Result:
    images = len(found.predicted)
    low, high = wilson(found.hits[place], images)
    spikes, accumulates, macs = found.runner.spent(budget)
    spent = energy.nanojoules(macs=macs, accumulates=accumulates)
    return Result(
        model=name,
        kind=found.runner.kind,
        steps=budget,
        images=images,
        top1=100 * found.hits[place] / images,
        low=low,
        high=high,
        agreement=None if anchor is None else 100 * found.agreed[place] / images,
        spikes_per_neuron=spikes,
        accumulates=accumulates,
        macs=macs,
        energy_nj=spent,
        energy_ratio=spent / anchor if anchor else None,
        seconds=found.seconds,
        images_per_second=images / found.seconds,
        peak_memory_mb=found.megabytes,
        **_origin(model),
    )


def _origin(model: nn.Module) -> _Origin:
    """Return how a model was made, as far as it says so."""
    about = model.about if isinstance(model, SpikingNetwork) else {}
    return {
        "method": str(about["method"]) if "method" in about else None,
        "calibration_images": _number(about.get("calibration_images"), int),
        "training_images": _number(about.get("training_images"), int),
        "epochs": _number(about.get("epochs"), float),
        "tuned_steps": _number(about.get("tuned_steps"), int),
        "preparation_seconds": _number(about.get("seconds"), float),
    }


def _number(value: str | int | float | None, kind: type[N]) -> N | None:
    return kind(value) if isinstance(value, int | float) else None
