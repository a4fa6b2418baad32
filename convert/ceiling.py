"""What a number of levels can reach at best, without simulating a single step.

The neurons of ``Ternary(steps=L, drive=L)`` come to rest at the answers of the ANN with the
quantiser ``Q(z) = θ/L clip(floor(L z/θ + 1/2), 0, L)`` in their place; where a neuron sends a
signed value, ``Q(z) = θ/L sign(z) floor(L |z|/θ + 1/2)``. One pass through that ANN gives the
accuracy that no number of steps exceeds by more than chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spiketune.snn import Neuron, SpiketuneError, Temporal, evaluating
from spiketune.snn.network import check_steps
from spiketune.snn.program import Instead

from .calibration import BATCH
from .conversion import to_snn
from .images import Images, collect
from .levels import levels as levels_of
from .method import Granularity
from .ternary import Ternary
from .thresholds import MSE, Threshold


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One number of levels.

    Attributes:
        levels: ``L``.
        top1: accuracy of the quantised ANN in percent.
        agreement: images that it answers as the ANN does, in percent.

    Example:
        >>> Rung(levels=8, top1=97.0, agreement=99.0).levels
        8
    """

    levels: int
    top1: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What each number of levels can reach; ``str(ceiling)`` is a table.

    Attributes:
        rows: levels rising.
        ann: accuracy of the ANN in percent.
        images: how many were tested.

    Example:
        >>> row = Rung(levels=8, top1=97.0, agreement=99.0)
        >>> print(Ceiling(rows=(row,), ann=97.5, images=200))
        levels  top-1 %  agree %
        ------  -------  -------
             8    97.00     99.0
           ANN    97.50    100.0
        200 images; the limit of Ternary(steps=L, drive=L) for L levels
    """

    rows: tuple[Rung, ...]
    ann: float
    images: int

    def enough(self, within: float = 1.0) -> int | None:
        """Return the fewest levels whose accuracy is within so many points of the ANN's."""
        # Accuracies are ratios of whole numbers: the slack is for rounding only.
        floor = self.ann - within - 1e-9
        return next((row.levels for row in self.rows if row.top1 >= floor), None)

    def __str__(self) -> str:
        cells = [(str(row.levels), row.top1, row.agreement) for row in self.rows]
        lines = ["levels  top-1 %  agree %", "------  -------  -------"]
        lines += [
            f"{name:>6}  {top1:>7.2f}  {agree:>7.1f}"
            for name, top1, agree in [*cells, ("ANN", self.ann, 100.0)]
        ]
        foot = f"{self.images:,} images; the limit of Ternary(steps=L, drive=L) for L levels"
        return "\n".join([*lines, foot])

    def to_json(self) -> str:
        """Return the numbers as JSON."""
        return json.dumps(asdict(self), indent=1)


def ceiling(
    ann: nn.Module,
    loader: Iterable[Sequence[Any]] | Dataset[Any],
    levels: int | Iterable[int],
    *,
    calibration: Images,
    per: Granularity = "channel",
    threshold: Threshold = MSE(),  # noqa: B008
) -> Ceiling:
    """Test the ANN whose activations are quantised as ``Ternary(steps=L, drive=L)`` says them.

    Args:
        ann: any network that ``to_snn`` converts.
        loader: test images, ``(x, y, ...)`` with class indices ``y``; read once. A data set of
            such pairs does, too.
        levels: ``L``, one or several.
        calibration: training images for the thresholds, as for ``to_snn``.
        per: one threshold a ``channel`` or a ``layer``.
        threshold: rule that balances the thresholds.

    Returns:
        Accuracy and agreement with the ANN for each number of levels.

    Raises:
        ConversionError: if anything in the network has no rule.
        SpiketuneError: on levels below 1, a loader without images and labels, or a network that
            is no classifier.

    Example:
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> x = torch.rand(20, 4)
        >>> found = ceiling(ann, [(x, ann(x).argmax(1))], [2, 64], calibration=x)
        >>> found.ann, [row.levels for row in found.rows]
        (100.0, [2, 64])
    """
    wanted = sorted({levels} if isinstance(levels, int) else set(levels))
    if not wanted:
        raise SpiketuneError("no levels given; give one or several, such as levels=[4, 8, 16]")
    for count in wanted:
        check_steps(count, "levels")
    shown = collect(calibration, Ternary.calibration_images)
    networks = {
        count: to_snn(ann, shown, Ternary(steps=count, drive=count, per=per, threshold=threshold))
        for count in wanted
    }
    hits = dict.fromkeys([0, *wanted], 0)
    agreed = dict.fromkeys(wanted, 0)
    images = 0
    with torch.no_grad(), evaluating(ann):
        for x, y in _labelled(loader, next(ann.parameters(), shown)):
            images += len(x)
            expected = _classes(ann(x), y)
            hits[0] += int((expected == y).sum())
            for count, network in networks.items():
                found = _classes(network.ann(x, instead=at_rest(count)), y)
                hits[count] += int((found == y).sum())
                agreed[count] += int((found == expected).sum())
    if images == 0:
        raise SpiketuneError("the loader is empty; give some test images (x, y)")
    rows = tuple(
        Rung(levels=n, top1=100 * hits[n] / images, agreement=100 * agreed[n] / images)
        for n in wanted
    )
    return Ceiling(rows=rows, ann=100 * hits[0] / images, images=images)


def at_rest(count: int) -> Instead:
    """Return what ``ann(instead=...)`` needs to answer as the neurons do once they are at rest.

    Args:
        count: ``L`` of a network converted with ``Ternary(drive=L)``.

    Example:
        >>> ann = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
        >>> x = torch.rand(9, 4)
        >>> coarse = to_snn(ann, x, Ternary(steps=1, drive=1)).ann(x, instead=at_rest(1))
        >>> all(len(column.unique()) <= 2 for column in coarse.T)
        True
    """

    def answer(name: str, unit: Temporal, current: Tensor) -> Tensor:
        if not isinstance(unit, Neuron):
            return unit.ann(current)
        return levels_of(unit, count, inf).quantised(unit.activation(current))

    return answer


def _labelled(loader: object, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(loader, Dataset):
        loader = DataLoader(loader, batch_size=BATCH)
    if not isinstance(loader, Iterable):
        raise SpiketuneError(
            f"test images of type {type(loader).__name__}; give a loader or a data set of (x, y)"
        )
    for batch in loader:
        pair = isinstance(batch, list | tuple) and len(batch) >= 2
        if not pair or not isinstance(batch[0], Tensor) or not isinstance(batch[1], Tensor):
            raise SpiketuneError(
                f"the loader yields {type(batch).__name__}; make it yield images and labels, (x, y)"
            )
        x, y = batch[:2]
        # Labels of another shape would be compared with every image.
        if y.dim() != 1:
            raise SpiketuneError(
                f"labels of shape {list(y.shape)}; give class indices, one an image"
            )
        yield x.to(like.device, like.dtype), y.to(like.device)


def _classes(answer: Any, labels: Tensor) -> Tensor:
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != len(labels):
        raise SpiketuneError("the network gives no scores [images, classes]; give a classifier")
    return answer.argmax(1)
