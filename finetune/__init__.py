"""Training rules, losses, and the trainer."""

from .batches import Loader, Precision
from .diet import DIET
from .distill import Features
from .errors import TuneError
from .gain import calibrate_gain
from .gradient_flow import gradient_norms
from .history import Epoch, History, Update
from .hybrid import Half, Hybrid, hybrid, hybrids
from .logs import OnBatch, OnEpoch
from .losses import RMP, TET, IMLoss, Loss, MeanCrossEntropy, Objective, Scene, register_loss
from .na import NA
from .ottt import OTTT
from .qcfs import QCFS
from .rate import RateTraining
from .refold import fold_norms
from .rules import Batch, Criterion, Learn, Outcome, Rule, Task, register_rule
from .sltt import SLTT
from .stdb import STDB, Exponential
from .surrogate_bptt import SurrogateBPTT
from .trainer import tune
from .training import Training
from .unfold import unfold

__all__ = [
    "DIET",
    "NA",
    "OTTT",
    "QCFS",
    "RMP",
    "SLTT",
    "STDB",
    "TET",
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
    "Loader",
    "Loss",
    "MeanCrossEntropy",
    "Objective",
    "OnBatch",
    "OnEpoch",
    "Outcome",
    "Precision",
    "RateTraining",
    "Rule",
    "Scene",
    "SurrogateBPTT",
    "Task",
    "Training",
    "TuneError",
    "Update",
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
