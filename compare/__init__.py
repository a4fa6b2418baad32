"""Accuracy, agreement, spikes, operations, energy, time and memory against the step budget."""

from .energy import FP16, FP32, INT8, EnergyModel
from .interval import wilson
from .meter import Meter
from .result import Result
from .sweeping import Progress, sweep
from .table import Table

__all__ = [
    "FP16",
    "FP32",
    "INT8",
    "EnergyModel",
    "Meter",
    "Progress",
    "Result",
    "Table",
    "sweep",
    "wilson",
]
