"""How ``spiketune tune`` builds a network that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import spiketune as st
from spiketune.snn import Norm
from spiketune.snn.network import check_steps
from spiketune.zoo import DataInfo, NeuronKind, is_layered
from spiketune.zoo.layered import Output, Pool
from spiketune.zoo.sew import Connect

# Images up to this size are not cut: timm would enlarge them and cut an eighth away.
_SMALL = 32
# What only networks written as layers have, and what only those of a name do.
_LAYERED = ("pool", "output", "gain", "own_gain", "bias", "grid", "raw_pixels", "single_spike")
_NAMED = ("norm", "connect", "stem_stride")


@dataclass(frozen=True, kw_only=True)
class Build:
    """How a network trained from scratch is built; what is left out is as the library has it.

    Attributes:
        neuron: PlainNeuron, LeakyNeuron, ParametricNeuron (PLIF), ParallelNeuron (PSN), SRMNeuron
            and others, and its settings, such as `--build.neuron.leak 0.9`; PlainNeuron by default.
        norm: BatchNorm on the input currents: SharedBN, TDBN or TEBN; SharedBN by default.
        connect: add, and, or iand for a SEW-ResNet; the plain twin by default.
        stem_stride: stride of a 3x3 stem without max-pool, for small images; the network's own
            stem by default.
        image_size: height and width that images are brought to; the data set's by default.
        synapses: filters in front of the neurons, such as `--build.synapses.tau 3`; none by
            default.
        delays: axonal delays between the layers, such as `--build.delays.maximum 4`; none by
            default.
        pool: of layers such as 32C5-P2-400: mean, sum or max; mean by default.
        output: of layers: spikes, or current for classes that are no neurons; spikes by default.
        gain: of layers' first weights, one number or one each; 1 by default.
        own_gain: of the first weights within recurrent layers; 1 by default.
        bias: that layers start with; without biases by default.
        grid: sides of the grid on which recurrent layers are wired, such as `[5, 5, 16]`; each
            neuron to each by default.
        raw_pixels: whether layers see images from 0 to 1, not scaled as the data set says.
        single_spike: make layers of neurons that fire once, at an exact time, such as
            `--build.single_spike.binary true`; no --build.neuron then.

    Example:
        >>> Build(connect="add", stem_stride=1).given
        ['--build.connect', '--build.stem_stride']
    """

    neuron: NeuronKind | None = None
    norm: Norm | None = None
    connect: Connect | None = None
    stem_stride: int | None = None
    image_size: int | None = None
    synapses: st.Synapses | None = None
    delays: st.Delays | None = None
    pool: Pool | None = None
    output: Output | None = None
    gain: float | list[float] | None = None
    own_gain: float | None = None
    bias: float | None = None
    grid: list[int] | None = None
    raw_pixels: bool | None = None
    single_spike: st.FirstSpikeNeuron | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_steps(self.image_size, "image_size")

    @property
    def given(self) -> list[str]:
        """The options that say something, by name."""
        return [f"--build.{f.name}" for f in fields(self) if getattr(self, f.name) is not None]

    def network(
        self, name: str, steps: int, data: str, num_classes: int | None
    ) -> st.SpikingNetwork:
        """Return the untrained network of that name, sized for the data.

        Raises:
            SpiketuneError: if the data do not tell how many classes there are, and on whatever
                the library refuses.
        """
        info = st.data_info(data)
        classes = info.num_classes if num_classes is None else num_classes
        if num_classes is None and not classes:
            raise st.SpiketuneError(f"how many classes {data} has is not known; give --num_classes")
        make = self._of_layers if is_layered(name) else self._of_a_name
        snn = make(name, classes, steps, info)
        if not (self.raw_pixels or self.single_spike):
            # It is trained on images prepared as the data set says; whoever loads it must know.
            snn.pretrained_cfg.update(mean=list(info.mean), std=list(info.std))
        if info.frames:
            st.add_frames(snn, steps)
        if info.input_size[1] <= _SMALL:
            snn.pretrained_cfg["crop_pct"] = 1.0
        return snn

    def _of_layers(self, name: str, classes: int, steps: int, info: DataInfo) -> st.SpikingNetwork:
        self._refuse(_NAMED, f"{name} is written as layers; it belongs to networks by name")
        channels, *sides = info.input_size
        shape = (channels, *([self.image_size] * 2 if self.image_size else sides))
        if self.neuron is not None and self.single_spike is not None:
            raise st.SpiketuneError(
                "--build.neuron and --build.single_spike both say what fires; leave one out"
            )
        given = {key: getattr(self, key) for key in ("neuron", "synapses", "delays", *_LAYERED)}
        said = {key: value for key, value in given.items() if value is not None}
        said.setdefault("neuron", said.pop("single_spike", None))
        return st.layered(name, classes, steps, shape, **said)

    def _of_a_name(self, name: str, classes: int, steps: int, info: DataInfo) -> st.SpikingNetwork:
        self._refuse(_LAYERED, f"{name} is no network of layers such as 32C5-P2-400")
        how: dict[str, Any] = {
            "in_chans": info.input_size[0],
            "image_size": self.image_size or info.input_size[1],
            "stem_stride": self.stem_stride,
            "neuron": self.neuron,
            "norm": self.norm,
        }
        if self.connect is None:
            snn = st.spiking(name, classes, steps, **how)
        else:
            snn = st.sew_resnet(name, classes, steps, connect=self.connect, **how)
        for part in (self.synapses, self.delays):
            if part is not None:
                part.add(snn)
        return snn

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        given = [f"--build.{name}" for name in names if getattr(self, name) is not None]
        if given:
            raise st.SpiketuneError(f"{', '.join(given)} would do nothing, for {why}")

    def require_own_slope(self, replaced: str | None) -> None:
        """Refuse a neuron with settings of the gradient that something else replaces.

        Args:
            replaced: what sets the slope of every neuron, and what to do; None if nothing does.

        Raises:
            SpiketuneError: naming where the setting belongs.
        """
        if self.neuron is None:
            return
        firing, usual = self.neuron.firing, type(self.neuron)().firing
        if replaced and firing.surrogate != usual.surrogate:
            raise st.SpiketuneError(
                f"{firing.surrogate} of --build.neuron would do nothing, for {replaced}"
            )
        if firing.detach_reset != usual.detach_reset:
            raise st.SpiketuneError(
                "--build.neuron.firing.detach_reset would do nothing, for the rule says whether "
                "the reset has a gradient; give it to --rule"
            )
