"""Accuracy, agreement, spikes, operations, energy, time and memory against the step budget."""

from .early_exit import ExitResult, fit_exit, measure_exit
from .energy import FP16, FP32, INT8, EnergyModel
from .exit_curve import ExitCurve, exit_curve
from .interval import wilson
from .latency import SingleSpikes
from .meter import Meter
from .result import Result
from .sweeping import Progress, sweep
from .table import Table

__all__ = [
    "FP16",
    "FP32",
    "INT8",
    "EnergyModel",
    "ExitCurve",
    "ExitResult",
    "Meter",
    "Progress",
    "Result",
    "SingleSpikes",
    "Table",
    "exit_curve",
    "fit_exit",
    "measure_exit",
    "sweep",
    "wilson",
]
