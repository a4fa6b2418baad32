"""The doctor: where a converted network loses what the ANN knew, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isinf

import torch
from torch import Tensor, nn
from torch.fx import Node

from spiketune.snn import Neuron, SpiketuneError, SpikingNetwork, evaluating
from spiketune.snn.network import check_steps
from spiketune.snn.single_spike.runs import refuse_times

from .calibration import Progress
from .conversion import to_snn
from .diagnosis import PARTS, Diagnosis, LayerFinding
from .graded import Graded
from .images import Images, collect
from .levels import levels
from .method import Method
from .places import Place, places
from .walk import Arrival, walk

BATCH = 16
BEYOND = 0.01  # share of a channel's values beyond the range from which it counts as saturated


def doctor(
    network: nn.Module,
    images: Images,
    config: Method | None = None,
    *,
    steps: int | None = None,
    limit: int = 64,
    progress: Progress | None = None,
) -> Diagnosis:
    """Split the error of every neuron layer into what is inherited, clipped, rounded and mistimed.

    Args:
        network: an ANN, which is converted first, balanced on all of the images that the method
            takes; or a spiking network, compared with its own graph as an ANN, in which
            corrections of biases and weights are kept.
        images: training images, a tensor ``[N, C, H, W]`` or a loader of tensors or ``(x, ...)``.
        config: the method to convert an ANN with; ``Graded()`` by default.
        steps: ``T``; the network's own by default.
        limit: images that are looked at, at most.
        progress: called with how many batches are done, and how many there are.

    Returns:
        The diagnosis: a table, a plot, JSON, and advice in words.

    Raises:
        ConversionError: if anything in an ANN has no rule.
        SpiketuneError: on missing images, steps or limit below 1, a method beside a network
            that is converted already, or one of exact spike times.

    Example:
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> found = doctor(ann, torch.rand(20, 4), steps=8)
        >>> found.layers[0].snr > 20, found.layers[0].share("inherited")
        (True, 0.0)
    """
    snn, reference, shown = _networks(network, images, config, check_steps(limit, "limit"))
    steps = check_steps(snn.steps if steps is None else steps)
    like = next(snn.parameters(), shown)
    shown = shown.to(like.device, like.dtype)
    tallies: dict[str, _Tally] = {}
    where = places(snn, "channel")
    ending = _Ending(snn)
    batches = torch.split(shown, BATCH)

    def visit(arrival: Arrival) -> None:
        found = _Tally.of(arrival, where[arrival.name])
        name = arrival.name
        tallies[name] = found if name not in tallies else tallies[name].joined(found)

    with evaluating(snn):
        for number, batch in enumerate(batches, 1):
            walk(snn, batch, steps, visit, look=ending.look, reference=reference)
            if progress is not None:
                progress(number, len(batches))
    return Diagnosis(
        layers=tuple(
            tally.finding(path)
            for tally, path in zip(tallies.values(), _paths(where, tallies), strict=True)
        ),
        steps=steps,
        drive=snn.drive,
        images=len(shown),
        agreement=100 * ending.agreed / ending.seen if ending.seen else None,
        method=str(snn.about.get("method", "")),
    )


def _networks(
    network: nn.Module, images: Images, config: Method | None, limit: int
) -> tuple[SpikingNetwork, SpikingNetwork, Tensor]:
    """Return the network to look at, the one whose graph is the ANN, and the images to show."""
    if isinstance(network, SpikingNetwork):
        if config is not None:
            raise SpiketuneError("the network is converted already; leave the method out")
        refuse_times(network, "and has no ANN to be compared with; see sweep()")
        return network, network, collect(images, limit)
    config = config or Graded()
    shown = collect(images, max(limit, config.calibration_images))
    snn = reference = to_snn(network, shown, config)
    if config.corrections:  # they move the graph's own weights and biases off the ANN's
        reference = to_snn(network, shown, replace(config, corrections=()))
    return snn, reference, shown[:limit]


def _paths(where: dict[str, Place], names: Iterable[str]) -> list[str]:
    """Return where each neuron stands; the neuron's own path where a module holds several."""
    nodes = [where[name].node for name in names]
    paths = Counter(node.meta.get("path", "") for node in nodes)
    return [
        path if path and paths[path] == 1 else str(node.target)
        for node, path in ((node, node.meta.get("path", "")) for node in nodes)
    ]


class _Ending:
    """Compares the network's answer with the ANN's, where it is scores ``[B, classes]``."""

    def __init__(self, snn: SpikingNetwork) -> None:
        (output,) = snn.net.graph.find_nodes(op="output")
        sources = output.all_input_nodes
        self.node = sources[0] if len(sources) == 1 else None
        self.agreed = self.seen = 0

    def look(self, node: Node, ann: Tensor, sent: Tensor) -> None:
        if node is self.node and ann.dim() == 2:
            self.agreed += int((ann.argmax(1) == sent.argmax(1)).sum())
            self.seen += len(ann)


@dataclass
class _Tally:
    """Sums over the images for one layer, a channel each; energies in double."""

    neuron: Neuron
    levels: float
    energies: dict[str, Tensor]
    signal: Tensor
    active: Tensor
    spikes: Tensor
    beyond: Tensor
    count: int

    @classmethod
    def of(cls, at: Arrival, place: Place) -> _Tally:
        neuron = at.neuron
        can = levels(neuron, at.count, len(at.current))
        sent, _ = neuron(at.current)
        said = sent.sum(0) / at.count * (neuron.threshold if neuron.folded else 1)
        ann, came = neuron.activation(at.ann), neuron.activation(at.mean)
        within, best = can.clipped(came), can.quantised(came)
        errors = {
            "error": said - ann,
            "inherited": came - ann,
            "clipping": within - came,
            "quantisation": best - within,
            "unevenness": said - best,
        }
        rows = place.rows(ann)
        return cls(
            neuron,
            can.count,
            {name: _energy(place.rows(error)) for name, error in errors.items()},
            _energy(rows),
            rows.abs().amax(1),
            place.rows(neuron.events(sent).sum(0)).sum(1, dtype=torch.float64),
            place.rows(came != within).sum(1),
            rows.shape[1],
        )

    def joined(self, other: _Tally) -> _Tally:
        return _Tally(
            self.neuron,
            self.levels,
            {name: energy + other.energies[name] for name, energy in self.energies.items()},
            self.signal + other.signal,
            self.active.maximum(other.active),
            self.spikes + other.spikes,
            self.beyond + other.beyond,
            self.count + other.count,
        )

    def finding(self, path: str) -> LayerFinding:
        total = float(self.signal.sum())
        # A layer that is silent in the ANN has no signal: its errors count as they are.
        scale = total if total > 0 else 1.0
        energy = {name: float(e.sum()) / scale for name, e in self.energies.items()}
        clipped = self.energies["clipping"]
        worst = int(clipped.argmax())
        active, spiking = self.active > 0, self.spikes > 0
        return LayerFinding(
            path=path,
            neuron=type(self.neuron).__name__,
            **{name: energy[name] for name in ("error", *PARTS)},
            levels=None if isinf(self.levels) else self.levels,
            per="layer" if self.neuron.threshold.numel() == 1 else "channel",
            channels=len(active),
            worst=worst,
            worst_share=float(clipped[worst] / clipped.sum()) if float(clipped.sum()) else 0.0,
            dead=_which(~active),
            silent=_which(active & ~spiking),
            saturated=_which(self.beyond > BEYOND * self.count),
            spikes=float(self.spikes.sum()) / (self.count * len(active)),
        )


def _energy(rows: Tensor) -> Tensor:
    return rows.double().square().sum(1)


def _which(channels: Tensor) -> tuple[int, ...]:
    return tuple(channels.nonzero().flatten().tolist())
