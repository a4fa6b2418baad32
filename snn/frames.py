"""Input that changes over time: events of a camera or of a microphone, a frame a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from .dynamics import State
from .errors import SpiketuneError
from .network import SpikingNetwork
from .neurons import Temporal
from .placing import put_first
from .single_spike.runs import refuse_times
from .units import register_unit


@register_unit
class Frames(Temporal):
    """Send frame ``t`` of ``[F, ...]`` at step ``t``, and nothing once all have been sent.

    Args:
        frames: ``F``, how many an input holds.
        spikes: whether they are spikes, which cost accumulates where they meet weights; otherwise
            values, which cost multiplications.

    Raises:
        SpiketuneError: on fewer than one frame.

    Example:
        >>> sample = torch.tensor([[1.0, 0.0, 1.0]])  # one input of three frames
        >>> sent, _ = Frames(frames=3)(sample.expand(4, 1, 3))
        >>> sent.flatten().tolist()
        [1.0, 0.0, 1.0, 0.0]
    """

    settings = ("frames", "spikes")

    def __init__(self, *, frames: int, spikes: bool = True) -> None:
        super().__init__()
        if frames < 1:
            raise SpiketuneError(f"frames must be at least 1, not {frames}")
        self.frames, self.spikes = frames, spikes

    @property
    def sends_spikes(self) -> bool:
        """Whether the frames are spikes."""
        return self.spikes

    def ann(self, x: Tensor) -> Tensor:
        """Return the mean of the frames ``[B, F, ...]``."""
        return x.mean(1)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the frames ``[T, B, ...]`` of the next steps of ``x [T, B, F, ...]``."""
        first = 0 if state is None else state.count
        sent = [
            now[:, step] if step < self.frames else torch.zeros_like(now[:, 0])
            for step, now in enumerate(x.unbind(0), start=first)
        ]
        return torch.stack(sent), State(x[-1], count=first + len(x))

    def extra_repr(self) -> str:
        """Say how many."""
        return f"frames={self.frames}, spikes={self.spikes}"


def add_frames(snn: SpikingNetwork, frames: int, *, spikes: bool = True) -> None:
    """Let a network take ``[B, F, C, H, W]``, a frame a step, in the network itself.

    Args:
        snn: a network that takes ``[B, C, H, W]``.
        frames: ``F``; steps beyond see nothing.
        spikes: whether the frames are spikes; see ``Frames``.

    Raises:
        SpiketuneError: on fewer than one frame, or a network that takes frames already or has
            exact spike times.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (2, 2, 2))
        >>> add_frames(snn, 5)
        >>> list(snn(torch.rand(4, 5, 2, 2, 2)).shape)
        [4, 3]
    """
    if any(isinstance(unit, Frames) for unit in snn.modules()):
        raise SpiketuneError("the network takes frames already; build it again for another number")
    refuse_times(snn, "and takes images, not frames; build the network with twin() or layered()")
    put_first(snn.net, Frames(frames=frames, spikes=spikes), "frames")
    snn.input_shape = (frames, *snn.input_shape)
    snn.pretrained_cfg["input_size"] = snn.input_shape
    snn.net = GraphModule(snn.net, snn.net.graph)
    snn.refresh()
