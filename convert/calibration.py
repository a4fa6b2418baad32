"""Look at the network over the calibration images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spiketune.snn import Monitor, Neuron, SpiketuneError, SpikingNetwork

from .method import Ceiling
from .places import Place
from .thresholds import Histogram

BINS = 2048
BATCH = 64
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Report no progress.

    Example:
        >>> silent(1, 2)
    """


@dataclass(frozen=True)
class Calibration:
    """What a threshold rule or a correction may look at.

    Attributes:
        snn: the network with its drafts or, later, its neurons in place.
        images: ``[N, C, H, W]``.
        places: where its neurons stand, by the names of their nodes.
        steps: steps during which a neuron is driven.
        progress: called with how many passes over a batch are done, and how many there are.
        reference: the network before corrections, for those that compare with the ANN.
        build: what makes the neuron of a threshold, a floor and a ceiling.

    Example:
        >>> import spiketune as st
        >>> from spiketune.convert.places import places
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(9, 4), st.Ternary())
        >>> found = Calibration(
        ...     snn, torch.rand(9, 4), places(snn, "channel"), steps=8, build=lambda *settings: None
        ... )
        >>> next(iter(found.histograms().values())).counts.sum(1).tolist()
        [9, 9, 9]
    """

    snn: SpikingNetwork
    images: Tensor
    places: dict[str, Place]
    steps: int
    progress: Progress = silent
    reference: SpikingNetwork | None = None
    build: Callable[[Tensor, float | None, Ceiling], Neuron | None] = field(kw_only=True)

    @property
    def batches(self) -> tuple[Tensor, ...]:
        """The images, some at a time."""
        return torch.split(self.images, BATCH)

    def neuron(self, place: Place, channels: Tensor) -> Neuron:
        """Return the neuron for a place, balanced to the values ``[C]``.

        Raises:
            ConversionError: if no channel was active.
        """
        draft = place.neuron
        threshold = place.threshold(channels).to(draft.threshold)
        neuron = self.build(threshold, draft.floor, draft.ceiling)
        assert neuron is not None  # the draft was one
        return neuron

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.snn.parameters()).device

    def observe(self, observer: Monitor, *, of: int = 1, done: int = 0) -> None:
        """Run the ANN over all images; this is pass ``done`` of ``of`` for the progress."""
        batches = self.batches
        with torch.no_grad():
            for number, batch in enumerate(batches, 1):
                self.snn.ann(batch.to(self.device), observer)
                self.progress(done * len(batches) + number, of * len(batches))

    def maxima(self) -> dict[str, Tensor]:
        """Return the largest ``|activation|`` of each channel ``[C]``, in one pass.

        Raises:
            SpiketuneError: if an activation is NaN or infinite.
        """
        return {name: moments.top for name, moments in self._moments(passes=1).items()}

    def histograms(self, bins: int = BINS) -> dict[str, Histogram]:
        """Return the histogram of the activation at each neuron, over all the images.

        Two passes: one for the ranges, one for the counts.

        Raises:
            SpiketuneError: if an activation is NaN or infinite.
        """
        found = {name: m.histogram(bins) for name, m in self._moments(passes=2).items()}

        def count(name: str, current: Tensor) -> None:
            if name in found:
                place = self.places[name]
                found[name] = found[name].add(place.rows(place.neuron.activation(current)).abs())

        self.observe(count, of=2, done=1)
        return found

    def _moments(self, passes: int) -> dict[str, _Moments]:
        moments: dict[str, _Moments] = {}

        def note(name: str, current: Tensor) -> None:
            place = self.places.get(name)
            if place is not None:
                found = _Moments.of(place, current, name)
                moments[name] = found.joined(moments[name]) if name in moments else found

        self.observe(note, of=passes)
        return moments


@dataclass(frozen=True)
class _Moments:
    """Largest activation, and sums of the currents, a channel."""

    top: Tensor
    total: Tensor
    squares: Tensor
    count: int

    @classmethod
    def of(cls, place: Place, current: Tensor, name: str) -> _Moments:
        top = place.rows(place.neuron.activation(current)).abs().amax(1)
        if not bool(top.isfinite().all()):
            raise SpiketuneError(
                f"{name}: an activation is not finite on the calibration images; "
                "check their preprocessing and the network's weights"
            )
        rows = place.rows(current)
        # Squares of many small numbers: summed in double.
        return cls(
            top,
            rows.sum(1, dtype=torch.float64),
            rows.square().sum(1, dtype=torch.float64),
            rows.shape[1],
        )

    def joined(self, other: _Moments) -> _Moments:
        return _Moments(
            torch.maximum(self.top, other.top),
            self.total + other.total,
            self.squares + other.squares,
            self.count + other.count,
        )

    def histogram(self, bins: int) -> Histogram:
        mean = self.total / self.count
        deviation = (self.squares / self.count - mean**2).clamp_min(0).sqrt()
        like = self.top
        return Histogram.empty(like, bins, mean.to(like.dtype), deviation.to(like.dtype))
