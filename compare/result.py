"""One line of a comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one model does with one step budget. Operations and energy are for one image.

    Attributes:
        model: its name.
        kind: ``ann``, or the kind of spike: ``binary``, ``ternary``, ...
        steps: the budget; every step counts, the first ones included.
        images: test images.
        top1: percent of images answered right.
        low: lower end of the 95 % interval (Wilson), percent.
        high: upper end of it.
        agreement: percent of images answered as the reference answers them.
        spikes_per_neuron: spikes a neuron within the budget; None for an ANN.
        accumulates: additions that spikes cause within the budget.
        macs: multiply-accumulates within the budget.
        energy_nj: estimate in nanojoules; see ``EnergyModel``.
        energy_ratio: the estimate over the reference's.
        seconds: wall time inside the model for all images at the largest budget, spike counting
            included, loading of images left out.
        images_per_second: images over seconds.
        peak_memory_mb: peak growth of memory inside the model, the largest of all batches
            (activations and membranes, no weights, no images); see ``PeakMemory``.
        method: how it was made, in the maker's words.
        calibration_images: images that calibration saw.
        training_images: images that training saw.
        epochs: how often it saw them, all trainings together.
        tuned_steps: the budget it was trained at last.
        preparation_seconds: wall time of its conversion and its training, validation included.

    Example:
        >>> Result(model="ann", kind="ann", steps=1, images=100, top1=90.0, low=82.6, high=94.5,
        ...        accumulates=0.0, macs=1000, energy_nj=4.6, seconds=0.5,
        ...        images_per_second=200.0).top1
        90.0
    """

    model: str
    kind: str
    steps: int
    images: int
    top1: float
    low: float
    high: float
    accumulates: float
    macs: int
    energy_nj: float
    seconds: float
    images_per_second: float
    agreement: float | None = None
    spikes_per_neuron: float | None = None
    energy_ratio: float | None = None
    peak_memory_mb: float | None = None
    method: str | None = None
    calibration_images: int | None = None
    training_images: int | None = None
    epochs: float | None = None
    tuned_steps: int | None = None
    preparation_seconds: float | None = None

    @property
    def spiking(self) -> bool:
        """Whether the model spikes, so that its budget matters."""
        return self.kind != "ann"
