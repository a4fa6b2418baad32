"""What runs: neurons, surrogate slopes, the time loop, spike counting, save and load."""

from .cost import Costs, costs
from .dynamics import (
    Firing,
    HardReset,
    SoftReset,
    State,
    if_step,
    lif_step,
    over_time,
    signed_if_step,
)
from .errors import ConversionError, SpiketuneError, StorageError
from .modes import evaluating
from .network import SpikingNetwork
from .neurons import IF, LIF, CumulativeMaxPool2d, Neuron, SignedIF, Temporal
from .program import Monitor, Program
from .reading import read
from .report import Report, Row
from .storage import load, save
from .surrogate import (
    ATan,
    PiecewiseLinear,
    Rectangle,
    Sigmoid,
    SuperSpike,
    Surrogate,
    Triangle,
    fire,
)

__all__ = [
    "IF",
    "LIF",
    "ATan",
    "ConversionError",
    "Costs",
    "CumulativeMaxPool2d",
    "Firing",
    "HardReset",
    "Monitor",
    "Neuron",
    "PiecewiseLinear",
    "Program",
    "Rectangle",
    "Report",
    "Row",
    "Sigmoid",
    "SignedIF",
    "SoftReset",
    "SpiketuneError",
    "SpikingNetwork",
    "State",
    "StorageError",
    "SuperSpike",
    "Surrogate",
    "Temporal",
    "Triangle",
    "costs",
    "evaluating",
    "fire",
    "if_step",
    "lif_step",
    "load",
    "over_time",
    "read",
    "save",
    "signed_if_step",
]
