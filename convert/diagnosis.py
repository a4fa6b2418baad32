"""What the doctor finds: numbers a layer, as a table, as JSON, as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from math import log10
from pathlib import Path

# Below this signal-to-error ratio a layer's answer differs by a third of its own size.
LOW = 10.0
PARTS = ("inherited", "clipping", "quantisation", "unevenness")


@dataclass(frozen=True, kw_only=True)
class LayerFinding:
    """What goes wrong at one neuron layer.

    With ``z`` the mean current that really arrives, ``a`` the activation in the ANN, ``f`` the
    neuron's activation and ``Q`` what it can say of a constant current:
    ``answer - a = (f(z) - a) + (clip f(z) - f(z)) + (Q(z) - clip f(z)) + (answer - Q(z))``.
    The parts' names are inherited, clipping, quantisation, unevenness; each is given as an energy,
    the sum of squares over that of ``a``.

    Attributes:
        path: of the activation in the network; of the neuron, where a module holds several.
        neuron: type of the neuron.
        error: energy of all that the answer differs by.
        inherited: from layers before.
        clipping: beyond the neuron's range.
        quantisation: between the neuron's levels.
        unevenness: of timing: spikes sent too early, or not sent yet.
        levels: answers within the range, None where they are without number.
        per: whether thresholds differ from ``channel`` to channel or are one for the ``layer``.
        channels: how many there are.
        worst: channel with most of the clipping.
        worst_share: its part of the clipping, 0 to 1.
        dead: channels that are never active in the ANN.
        silent: channels that are active in the ANN and never in the spiking network.
        saturated: channels in which more than one value in a hundred lies beyond the range.
        spikes: a neuron and image.

    Example:
        >>> layer = LayerFinding(path="act1", neuron="IF", error=0.02, inherited=0.0,
        ...     clipping=0.01, quantisation=0.03, unevenness=0.0, levels=8, per="layer",
        ...     channels=4, worst=2, worst_share=0.9, dead=(), silent=(), saturated=(2,),
        ...     spikes=1.5)
        >>> layer.share("clipping"), round(layer.snr, 2)
        (0.25, 16.99)
    """

    path: str
    neuron: str
    error: float
    inherited: float
    clipping: float
    quantisation: float
    unevenness: float
    levels: float | None
    per: str
    channels: int
    worst: int
    worst_share: float
    dead: tuple[int, ...]
    silent: tuple[int, ...]
    saturated: tuple[int, ...]
    spikes: float

    @property
    def snr(self) -> float:
        """Signal-to-error ratio in dB, at most 120."""
        return -10 * log10(max(self.error, 1e-12))

    @property
    def own(self) -> float:
        """Energy of the error that this layer adds by itself."""
        return self.clipping + self.quantisation + self.unevenness

    def share(self, part: str) -> float:
        """Return a part's energy as a share of that of all four, 0 to 1."""
        energies = [float(getattr(self, name)) for name in PARTS]
        return float(getattr(self, part)) / sum(energies) if sum(energies) else 0.0


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where the error comes from, layer by layer; ``str(diagnosis)`` is a table with advice.

    Attributes:
        layers: in the order in which the network runs.
        steps: ``T``.
        drive: steps during which the image acts, None for always.
        images: how many were looked at.
        agreement: share of them answered as the ANN does, read as the mean of all outputs, in
            percent; None for no classifier.
        method: how the network was converted.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> found = st.doctor(ann, torch.rand(9, 4), st.Ternary(steps=8))
        >>> [layer.path for layer in found.layers], found.steps
        (['1'], 8)
    """

    layers: tuple[LayerFinding, ...]
    steps: int
    drive: int | None
    images: int
    agreement: float | None
    method: str

    @property
    def first_fall(self) -> int | None:
        """Place of the first layer below 10 dB, else of the one with the greatest fall."""
        low = [n for n, layer in enumerate(self.layers) if layer.snr < LOW]
        if low or not self.layers:
            return low[0] if low else None
        # The first layer falls from an image without any error; it is no news that it does.
        falls = [
            (before.snr - layer.snr, n)
            for n, (before, layer) in enumerate(
                zip(self.layers, self.layers[1:], strict=False), start=1
            )
        ]
        return max(falls, key=lambda fall: fall[0])[1] if falls else 0

    @cached_property
    def advice(self) -> tuple[str, ...]:
        """What to change, in sentences, the most important first."""
        from .advice import advise

        return tuple(advise(self))

    def __str__(self) -> str:
        width = max([5, *(len(layer.path) for layer in self.layers)])
        head = (
            f"{'layer':<{width}}  {'neuron':<8}  SNR dB  inherited  clipping  quantised  "
            "uneven  dead  silent  saturated  spikes/neuron"
        )
        rows = [
            f"{layer.path:<{width}}  {layer.neuron:<8}  {layer.snr:>6.1f}  "
            f"{layer.share('inherited'):>9.1%}  {layer.share('clipping'):>8.1%}  "
            f"{layer.share('quantisation'):>9.1%}  {layer.share('unevenness'):>6.1%}  "
            f"{len(layer.dead):>4}  {len(layer.silent):>6}  {len(layer.saturated):>9}  "
            f"{layer.spikes:>13.2f}"
            for layer in self.layers
        ]
        said = (
            "" if self.agreement is None else f", {self.agreement:.1f} % answered as the ANN does"
        )
        foot = f"{self.images:,} images at T={self.steps}{said}; {self.method}".rstrip("; ")
        return "\n".join([head, "-" * len(head), *rows, foot, "", *self.advice])

    def to_json(self) -> str:
        """Return everything as JSON."""
        layers = [
            {**asdict(layer), "snr": layer.snr, "shares": {p: layer.share(p) for p in PARTS}}
            for layer in self.layers
        ]
        data = {
            **asdict(self),
            "layers": layers,
            "first_fall": self.first_fall,
            "advice": self.advice,
        }
        return json.dumps(data, indent=1, allow_nan=False)

    def plot(self, path: str | Path) -> Path:
        """Draw ratio, shares and spikes of every layer, and write a PNG.

        Raises:
            SpiketuneError: where matplotlib is missing, or the network has no neurons.
        """
        from .doctor_plot import draw

        return draw(self, Path(path))
