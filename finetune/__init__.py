"""Training rules, losses, and the trainer."""

from .batches import Loader, Precision
from .diet import DIET
from .distill import Features
from .errors import TuneError
from .gain import calibrate_gain
from .gradient_flow import gradient_norms
from .history import Epoch, History, Update
from .hm2bp import HM2BP
from .hybrid import Half, Hybrid, hybrid, hybrids
from .lee import Lee
from .logs import OnBatch, OnEpoch
from .losses import (
    RMP,
    TET,
    IMLoss,
    Loss,
    MeanCrossEntropy,
    Objective,
    RelativeTarget,
    Scene,
    SpikeCount,
    SpikeTrain,
    register_loss,
)
from .na import NA
from .ottt import OTTT
from .qcfs import QCFS
from .rate import RateTraining
from .refold import fold_norms
from .rules import Batch, Criterion, Learn, Outcome, Rule, Task, register_rule
from .slayer import SLAYER
from .sltt import SLTT
from .stdb import STDB, Exponential
from .stidi import STiDi
from .strsbp import STRSBP
from .surrogate_bptt import SurrogateBPTT
from .trainer import tune
from .training import Training
from .tssl import TSSL
from .unfold import unfold
from .weight_growth import WeightGrowth

__all__ = [
    "DIET",
    "HM2BP",
    "NA",
    "OTTT",
    "QCFS",
    "RMP",
    "SLAYER",
    "SLTT",
    "STDB",
    "STRSBP",
    "TET",
    "TSSL",
    "Batch",
    "Criterion",
    "Epoch",
    "Exponential",
    "Features",
    "Half",
    "History",
    "Hybrid",
    "IMLoss",
    "Learn",
    "Lee",
    "Loader",
    "Loss",
    "MeanCrossEntropy",
    "Objective",
    "OnBatch",
    "OnEpoch",
    "Outcome",
    "Precision",
    "RateTraining",
    "RelativeTarget",
    "Rule",
    "STiDi",
    "Scene",
    "SpikeCount",
    "SpikeTrain",
    "SurrogateBPTT",
    "Task",
    "Training",
    "TuneError",
    "Update",
    "WeightGrowth",
    "calibrate_gain",
    "fold_norms",
    "gradient_norms",
    "hybrid",
    "hybrids",
    "register_loss",
    "register_rule",
    "tune",
    "unfold",
]
