"""Early exit: images whose answer is confident leave the batch, the others go on.

Rate coding answers with ``y(t) = S(t)/t``, ``S(t) = Σ_{k<=t} o(k)``. Neurons keep less than about
one spike to themselves, so ``S(t)`` stays within a constant of ``t y(∞)`` however long it runs.
The class ``a`` that is answered is therefore safe once its lead in the *sums*,

    ``c(t) = S_a(t) - max_{j != a} S_j(t)``,

has passed a constant: one threshold serves all steps. A bound on the margin of ``y`` or on a
softmax of it does not, for what looks confident after two steps has hardly been counted yet.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import inf, isnan
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from .errors import SpiketuneError, StorageError
from .files import whole_file
from .modes import evaluating
from .network import SpikingNetwork, check_steps
from .pieces import Pieces
from .program import Monitor
from .simulation import Simulation

SCHEMA = "spiketune-exit/1"


class Exits(NamedTuple):
    """What images were answered, and when.

    Attributes:
        answers: ``[B, classes]``, of each image at the step at which it left.
        steps: ``[B]``, that step, from 1.

    Example:
        >>> Exits(torch.zeros(1, 3), torch.tensor([4])).steps.float().mean().item()
        4.0
    """

    answers: Tensor
    steps: Tensor


def confidence(outputs: Tensor, curve: Tensor) -> Tensor:
    """Return the lead ``c(t)`` of the class answered after each step, ``[T, B]``.

    Args:
        outputs: raw outputs ``o``, ``[T, B, classes]``, from the first step on.
        curve: the answers read off them, ``[T, B, classes]``.

    Example:
        >>> outputs = torch.tensor([[[1.0, 0.0, 0.5]], [[2.0, 0.0, 0.0]]])
        >>> confidence(outputs, outputs.cumsum(0)).flatten().tolist()
        [0.5, 2.5]
    """
    sums = outputs.cumsum(0)
    answered = curve.argmax(-1, keepdim=True)
    others = sums.scatter(-1, answered, -torch.inf).amax(-1)
    return sums.gather(-1, answered).squeeze(-1) - others


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """When images leave: once they are confident, at the latest after ``steps`` steps.

    Called with a network and images it runs them, in evaluation mode and without gradients. Each
    image gets the answer that ``snn.unroll`` has for it at the step at which it left.

    Attributes:
        confidence: least lead ``c(t)`` to leave with, in the units of the network's outputs summed
            over steps; ``fit_exit`` finds it. Infinity lets no image leave early.
        steps: most steps of an image.
        first: first step after which images may leave.
        every: steps from one look at the answers to the next.

    Raises:
        SpiketuneError: on a confidence that is no number or is ``-inf``, on steps, first or every
            below 1, or a first step beyond ``steps``; when called, on networks that see all steps
            at once or give no scores ``[B, classes]``.

    Source: the accumulated lead as a stopping rule: Wald 1945 (sequential analysis). Rate error
    bounded by ``1/t``: Rueckauer et al. 2017, section 2.1.

    Example:
        >>> import spiketune as st
        >>> ann = st.load_ann("digits_resnet")
        >>> train = st.load_data("digits", "train", cfg=ann).tensors[0]
        >>> test = st.load_data("digits", "test", cfg=ann).tensors[0]
        >>> snn = st.to_snn(ann, train, st.Ternary(steps=16))
        >>> answers, steps = st.EarlyExit(confidence=40.0, steps=16)(snn, test[:100])
        >>> list(answers.shape), bool(steps.min() < steps.max() <= 16)
        ([100, 10], True)
    """

    confidence: float
    steps: int
    first: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        least = self.confidence
        if not isinstance(least, int | float) or isnan(least) or least == -inf:
            raise SpiketuneError(
                f"confidence must be a number, or infinity, not {least}; fit_exit() finds it"
            )
        for name in ("steps", "first", "every"):
            check_steps(getattr(self, name), name)
        if self.first > self.steps:
            raise SpiketuneError(
                f"first must not lie beyond the {self.steps} steps, but is {self.first}"
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps after which images may leave, the last one included.

        Example:
            >>> EarlyExit(confidence=1.0, steps=8, first=3, every=2).looks
            (3, 5, 7, 8)
        """
        return (*range(self.first, self.steps, self.every), self.steps)

    def __call__(self, snn: SpikingNetwork, x: Tensor, *, monitor: Monitor | None = None) -> Exits:
        """Return answers ``[B, classes]`` and steps used ``[B]`` of images ``[B, C, H, W]``.

        ``monitor`` is called as by ``snn.unroll``, with what is still simulated.
        """
        require_steps(snn)
        snn._check_images(x)
        with torch.no_grad(), evaluating(snn):
            run = _Run(snn, x, monitor)
            for look in self.looks:
                run.to(look)
                run.leave(self.confidence if look < self.steps else None)
                if run.finished:
                    break
        return Exits(run.answers, run.steps)

    def save(self, path: str | Path) -> Path:
        """Write the settings as JSON and return the path.

        The file appears whole or not at all.
        """
        path = Path(path)
        # JSON has no infinity.
        least = None if self.confidence == inf else self.confidence
        data = {"schema": SCHEMA, **asdict(self), "confidence": least}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the settings that ``save`` wrote.

        Raises:
            StorageError: if the file is missing, cut short, of another schema or other fields.
        """
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StorageError(f"{path}: no such file; give one that save() wrote") from error
        except ValueError as error:
            raise StorageError(f"{path}: not whole JSON ({error}); fit the exit again") from error
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise StorageError(f"{path}: no {SCHEMA!r} file; fit the exit again")
        if set(data) != {field.name for field in fields(cls)}:
            raise StorageError(f"{path}: not the fields of an EarlyExit; fit the exit again")
        try:
            return cls(**{**data, "confidence": inf if (c := data["confidence"]) is None else c})
        except SpiketuneError as error:
            raise StorageError(f"{path}: {error}") from error


def require_steps(snn: SpikingNetwork) -> None:
    """Refuse a network that cannot stop between two steps.

    Raises:
        SpiketuneError: naming the first neuron that sees all steps at once, or what is no spiking
            network.
    """
    if not isinstance(snn, SpikingNetwork):
        raise SpiketuneError(
            f"a {type(snn).__name__} has no steps to leave after; give the network that to_snn() "
            "returns"
        )
    for name, neuron in snn.neurons():
        if neuron.whole:
            raise SpiketuneError(
                f"{name} is a {type(neuron).__name__}, which computes all its steps at once, so "
                "no image can leave before the last; run all images for the same steps"
            )


def require_scores(outputs: Any) -> Tensor:
    """Return raw outputs ``[T, B, classes]``; refuse what orders no classes.

    Raises:
        SpiketuneError: on outputs of another shape, or several.
    """
    if isinstance(outputs, Tensor) and outputs.dim() == 3 and outputs.shape[-1] > 1:
        return outputs
    raise SpiketuneError(
        "images leave by the lead of one class over the others, but this network gives no scores "
        "[images, classes]; give a classifier, or run all images for the same steps"
    )


class _Run:
    """A batch on its way: who is still in it, what the others were answered."""

    def __init__(self, snn: SpikingNetwork, x: Tensor, monitor: Monitor | None) -> None:
        self._snn = snn
        self._pieces = Pieces(snn.program, x)  # sized to all images, so large enough for fewer
        self._simulation = Simulation(snn.program, x, snn.drive, monitor, self._pieces)
        self._outputs = x.new_zeros(0)
        self._places = torch.arange(len(x), device=x.device)  # of the images still running
        self.steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.answers = x.new_zeros(0)
        self.finished = False

    def to(self, step: int) -> None:
        """Simulate up to a step."""
        simulation = self._simulation
        while simulation.done < step:
            out = require_scores(
                simulation.advance(min(self._pieces.steps, step - simulation.done))
            )
            self._outputs = torch.cat([self._outputs, out]) if len(self._outputs) else out

    def leave(self, least: float | None) -> None:
        """Note the answers of the confident images, of all with None; go on with the others."""
        curve = self._snn.readout(self._outputs, self._snn.drive)
        if not self.answers.numel():
            self.answers = torch.zeros_like(curve[0])
        sure = torch.ones_like(self._places, dtype=torch.bool)
        if least is not None:
            sure = confidence(self._outputs, curve)[-1] >= least
        self.answers[self._places[sure]] = curve[-1, sure]
        self.steps[self._places[sure]] = self._simulation.done
        index = (~sure).nonzero().flatten()
        self.finished = not len(index)
        if not self.finished and len(index) < len(sure):
            self._simulation.keep(index)
            self._places, self._outputs = self._places[index], self._outputs[:, index]
