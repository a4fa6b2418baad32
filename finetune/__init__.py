"""Training rules, losses, and the trainer."""

from .batches import Loader, Precision
from .errors import TuneError
from .history import Epoch, History
from .rules import Batch, Criterion, Learn, Outcome, Rule, Task, register_rule
from .surrogate_bptt import SurrogateBPTT
from .trainer import OnBatch, OnEpoch, tune
from .training import Training

__all__ = [
    "Batch",
    "Criterion",
    "Epoch",
    "History",
    "Learn",
    "Loader",
    "OnBatch",
    "OnEpoch",
    "Outcome",
    "Precision",
    "Rule",
    "SurrogateBPTT",
    "Task",
    "Training",
    "TuneError",
    "register_rule",
    "tune",
]
