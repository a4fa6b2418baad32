"""From ANN to SNN: inspect, rewrite, observe, balance thresholds, replace, correct."""

from .binary import Binary
from .burst import Burst
from .calibration import Calibration
from .ceiling import Ceiling, Rung, ceiling
from .conversion import check, to_snn
from .corrections import BiasCorrection, Correction, PotentialCorrection, WeightCalibration
from .diagnosis import Diagnosis, LayerFinding
from .doctor import doctor
from .graded import Graded
from .method import Method, register_method
from .phase import Phase
from .presets import Recipe, recipe, recipes
from .soft_lif import SpikingLIF
from .ternary import Ternary
from .thresholds import (
    LTB,
    MSE,
    FromDistribution,
    Gaussian,
    Histogram,
    Max,
    Percentile,
    SpikeInput,
    Threshold,
)

__all__ = [
    "LTB",
    "MSE",
    "BiasCorrection",
    "Binary",
    "Burst",
    "Calibration",
    "Ceiling",
    "Correction",
    "Diagnosis",
    "FromDistribution",
    "Gaussian",
    "Graded",
    "Histogram",
    "LayerFinding",
    "Max",
    "Method",
    "Percentile",
    "Phase",
    "PotentialCorrection",
    "Recipe",
    "Rung",
    "SpikeInput",
    "SpikingLIF",
    "Ternary",
    "Threshold",
    "WeightCalibration",
    "ceiling",
    "check",
    "doctor",
    "recipe",
    "recipes",
    "register_method",
    "to_snn",
]
