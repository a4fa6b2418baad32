"""How ``spiketune tune`` builds a network that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import spiketune as st
from spiketune.snn import Norm
from spiketune.snn.network import check_steps
from spiketune.zoo import NeuronKind
from spiketune.zoo.sew import Connect

# Images up to this size are not cut: timm would enlarge them and cut an eighth away.
_SMALL = 32


@dataclass(frozen=True, kw_only=True)
class Build:
    """How a network trained from scratch is built; what is left out is as the library has it.

    Attributes:
        neuron: PlainNeuron, LeakyNeuron, ParametricNeuron (PLIF) or ParallelNeuron (PSN), and its
            settings, such as `--build.neuron.leak 0.9`; PlainNeuron by default.
        norm: BatchNorm on the input currents: SharedBN, TDBN or TEBN; SharedBN by default.
        connect: add, and, or iand for a SEW-ResNet; the plain twin by default.
        stem_stride: stride of a 3x3 stem without max-pool, for small images; the network's own
            stem by default.
        image_size: height and width that images are brought to; the data set's by default.

    Example:
        >>> Build(connect="add", stem_stride=1).given
        ['--build.connect', '--build.stem_stride']
    """

    neuron: NeuronKind | None = None
    norm: Norm | None = None
    connect: Connect | None = None
    stem_stride: int | None = None
    image_size: int | None = None

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
        channels, height, _ = info.input_size
        classes = info.num_classes if num_classes is None else num_classes
        if num_classes is None and not classes:
            raise st.SpiketuneError(f"how many classes {data} has is not known; give --num_classes")
        how: dict[str, Any] = {
            "in_chans": channels,
            "image_size": self.image_size or height,
            "stem_stride": self.stem_stride,
            "neuron": self.neuron,
            "norm": self.norm,
        }
        if self.connect is None:
            snn = st.spiking(name, classes, steps, **how)
        else:
            snn = st.sew_resnet(name, classes, steps, connect=self.connect, **how)
        # It is trained on images prepared as the data set says; whoever loads it must know.
        snn.pretrained_cfg.update(mean=list(info.mean), std=list(info.std))
        if info.frames:
            st.add_frames(snn, steps)
        if height <= _SMALL:
            snn.pretrained_cfg["crop_pct"] = 1.0
        return snn

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
