"""What a run learns from: losses of the answers, and losses that look at membranes too."""

from .answers import TET, MeanCrossEntropy
from .counts import SpikeCount
from .loss import Loss, Scene, build, register_loss
from .membranes import RMP, IMLoss, before_firing
from .objective import Objective
from .relative import RelativeTarget
from .trains import SpikeTrain

__all__ = [
    "RMP",
    "TET",
    "IMLoss",
    "Loss",
    "MeanCrossEntropy",
    "Objective",
    "RelativeTarget",
    "Scene",
    "SpikeCount",
    "SpikeTrain",
    "before_firing",
    "build",
    "register_loss",
]
