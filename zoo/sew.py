"""SEW-ResNet: residual blocks that join spikes to spikes instead of currents to currents.

A block sends ``g(o, x)`` of its own spikes ``o = SN(BN(conv(... x)))`` and of those that entered,
``x``, where the plain twin fires at ``o + x``. With silent (for AND: always firing) last neurons
the block is the identity, forward and backward, at any depth.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from spiketune.snn import Norm, SpikingNetwork

from .errors import ModelError
from .neurons import HARD, NeuronKind, PlainNeuron
from .spiking import twin, untrained

__all__ = ["Connect", "sew", "sew_resnet"]

Connect = Literal["add", "and", "iand"]

# ``g(o, x)``; the twin makes gates of the products.
CONNECT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda sent, entered: sent + entered,
    "and": lambda sent, entered: entered * sent,
    "iand": lambda sent, entered: entered * (1 - sent),
}


def sew_resnet(
    name: str,
    num_classes: int,
    steps: int,
    *,
    connect: Connect = "add",
    in_chans: int = 3,
    image_size: int | None = None,
    stem_stride: int | None = None,
    neuron: NeuronKind | None = None,
    norm: Norm | None = None,
) -> SpikingNetwork:
    """Return an untrained SEW-ResNet with timm's layers, ready for ``tune``.

    Every block begins as the identity. The paper trains with ``SurrogateBPTT(surrogate=ATan(),
    train_thresholds=False)`` at 4 steps, SGD at 0.1 and a cosine over 320 epochs.

    The last neurons of an ADD or IAND block begin a threshold below firing and without current: a
    rule whose slope is zero there (``Triangle()``, ``Linear()``, ``Rectangle()``) could never teach
    the block anything and is refused by ``tune``.

    Args:
        name: any timm ResNet of basic or bottleneck blocks.
        num_classes: outputs.
        steps: step count it will be trained at.
        connect: ``add`` sends ``o + x``, whole numbers; ``and`` sends ``x o`` and ``iand``
            ``x (1 - o)``, which are spikes again.
        in_chans: channels of the images.
        image_size: height and width; the network's own by default.
        stem_stride: stride of a 3x3 stem without max-pool, for small images; the network's own
            stem by default.
        neuron: kind of neuron; integrate-and-fire with a hard reset by default.
        norm: kind of BatchNorm on the input currents, as for ``spiking``.

    Returns:
        The network in training mode, weights as timm initialises them.

    Raises:
        ModelError: on an unknown name, or a network of other blocks.

    Source: Fang et al. 2021 (SEW-ResNet).

    Example:
        >>> snn = sew_resnet("resnet10t", 10, 2, connect="iand", in_chans=1, image_size=32)
        >>> sum(row.became == "gated" for row in snn.report.rows)
        4
    """
    neuron = PlainNeuron(firing=HARD) if neuron is None else neuron
    ann, shape = untrained(name, num_classes, in_chans, image_size, stem_stride)
    joined = sew(ann, connect, drive=neuron.drive() if connect == "and" else 1.0)
    return twin(joined, steps, shape, neuron=neuron, norm=norm, label=f"sew-{connect} {name}")


def sew(ann: nn.Module, connect: Connect = "add", *, drive: float = 1.0) -> ResNet:
    """Return a copy of a timm ResNet whose blocks join behind their last activation.

    What a block has to make another shape of its input gets an activation of its own, and the last
    BatchNorm of every block begins with the weight 0.

    Args:
        ann: any ``timm.models.resnet.ResNet`` of basic or bottleneck blocks.
        connect: as for ``sew_resnet``.
        drive: bias with which the last BatchNorm of an AND block begins: a constant current that
            makes its neurons fire at every step.

    Returns:
        The network; ``twin`` makes a spiking one of it.

    Raises:
        ModelError: on a network of other blocks, or another word for ``connect``.

    Source: Fang et al. 2021 (SEW-ResNet), the three joins and their initialisation.

    Example:
        >>> import timm
        >>> net = sew(timm.create_model("test_resnet"), "and")
        >>> net.layer1[0].block.bn2.bias.unique().item()
        1.0
    """
    if connect not in CONNECT:
        raise ModelError(f"connect must be one of {', '.join(CONNECT)}, not {connect!r}")
    net = deepcopy(ann)
    stages = [getattr(net, f"layer{stage}") for stage in range(1, 5) if isinstance(ann, ResNet)]
    blocks = [(stage, name, block) for stage in stages for name, block in stage.named_children()]
    other = [
        type(block) for _, _, block in blocks if not isinstance(block, BasicBlock | Bottleneck)
    ]
    if not isinstance(net, ResNet) or not blocks or other:
        found = other[0].__name__ if other else type(ann).__name__
        raise ModelError(
            f"{found} is no residual block of timm's ResNet, which SEW is defined on; give a "
            "network such as resnet18, or make the plain twin with spiking()"
        )
    for stage, name, block in blocks:
        stage.add_module(name, _Block(block, connect, drive))
    return net


class _Block(nn.Module):
    """``g(o, x)`` around a block of timm's, whose own shortcut adds nothing."""

    def __init__(self, block: BasicBlock | Bottleneck, connect: Connect, drive: float) -> None:
        super().__init__()
        self.block = block
        downsample = block.downsample
        self.shortcut = None if downsample is None else nn.Sequential(downsample, nn.ReLU())
        block.downsample = _Nothing()
        self.connect = connect
        block.zero_init_last()
        if connect == "and":
            last: Any = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            nn.init.constant_(last.bias, drive)

    def forward(self, x: Tensor) -> Tensor:
        entered = x if self.shortcut is None else self.shortcut(x)
        return CONNECT[self.connect](self.block(x), entered)


class _Nothing(nn.Module):
    """What the inner block adds to its own current; reading a network removes it."""

    def forward(self, x: Tensor) -> float:
        return 0.0
