"""What runs: neurons, surrogate slopes, the time loop, spike counting, save and load."""

from .burst import Burst
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
from .graded import Graded
from .modes import evaluating
from .network import SpikingNetwork
from .neurons import IF, LIF, Neuron, SignedIF, Temporal
from .ops import register_function
from .poisson import Poisson
from .program import Monitor, Program
from .reading import read
from .readout import Delayed, Mean, Membrane, Readout
from .report import Report, Row
from .schedules import Constant, Geometric, Harmonic, Schedule
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
from .trees import leaves, over_leaves

__all__ = [
    "IF",
    "LIF",
    "ATan",
    "Burst",
    "Constant",
    "ConversionError",
    "Costs",
    "Delayed",
    "Firing",
    "Geometric",
    "Graded",
    "HardReset",
    "Harmonic",
    "Mean",
    "Membrane",
    "Monitor",
    "Neuron",
    "PiecewiseLinear",
    "Poisson",
    "Program",
    "Readout",
    "Rectangle",
    "Report",
    "Row",
    "Schedule",
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
    "leaves",
    "lif_step",
    "load",
    "over_leaves",
    "over_time",
    "read",
    "register_function",
    "save",
    "signed_if_step",
]
