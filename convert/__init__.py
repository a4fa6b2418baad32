"""From ANN to SNN: inspect, rewrite, observe, balance thresholds, replace."""

from .binary import Binary
from .conversion import check, to_snn
from .method import Method, register_method
from .ternary import Ternary
from .thresholds import MSE, Histogram, Max, Percentile, Threshold

__all__ = [
    "MSE",
    "Binary",
    "Histogram",
    "Max",
    "Method",
    "Percentile",
    "Ternary",
    "Threshold",
    "check",
    "register_method",
    "to_snn",
]
