"""What runs: neurons, surrogate slopes, the time loop, spike counting, save and load."""

from .burst import Burst
from .compiled import CompiledChunks
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
from .early_exit import EarlyExit, Exits
from .errors import ConversionError, SpiketuneError, StorageError
from .frames import Frames, add_frames
from .fused.choices import neuron_path
from .graded import Graded
from .graphed import GraphedChunks
from .modes import evaluating
from .network import SpikingNetwork
from .neurons import IF, LIF, Charging, Neuron, Temporal
from .norms import TDBN, TEBN, Norm, SharedBN, TemporalBatchNorm, ThresholdBatchNorm
from .ops import register_function
from .plif import PLIF, decay_of
from .poisson import Poisson
from .program import Monitor, Program
from .psn import PSN
from .rate_lif import RateLIF
from .reading import read
from .readout import Delayed, Mean, Membrane, Readout
from .report import Report, Row
from .running import Chunks, run_by
from .schedules import Constant, Geometric, Harmonic, Schedule
from .signed import SignedIF
from .soft_lif import SoftLIF, soft_lif
from .storage import load, save
from .surrogate import (
    ATan,
    Linear,
    PiecewiseLinear,
    Rectangle,
    Scaled,
    Sigmoid,
    SuperSpike,
    Surrogate,
    Triangle,
    fire,
)
from .synapse import Synapse, add_synapses, decay_behind
from .trees import leaves, over_leaves

__all__ = [
    "IF",
    "LIF",
    "PLIF",
    "PSN",
    "TDBN",
    "TEBN",
    "ATan",
    "Burst",
    "Charging",
    "Chunks",
    "CompiledChunks",
    "Constant",
    "ConversionError",
    "Costs",
    "Delayed",
    "EarlyExit",
    "Exits",
    "Firing",
    "Frames",
    "Geometric",
    "Graded",
    "GraphedChunks",
    "HardReset",
    "Harmonic",
    "Linear",
    "Mean",
    "Membrane",
    "Monitor",
    "Neuron",
    "Norm",
    "PiecewiseLinear",
    "Poisson",
    "Program",
    "RateLIF",
    "Readout",
    "Rectangle",
    "Report",
    "Row",
    "Scaled",
    "Schedule",
    "SharedBN",
    "Sigmoid",
    "SignedIF",
    "SoftLIF",
    "SoftReset",
    "SpiketuneError",
    "SpikingNetwork",
    "State",
    "StorageError",
    "SuperSpike",
    "Surrogate",
    "Synapse",
    "Temporal",
    "TemporalBatchNorm",
    "ThresholdBatchNorm",
    "Triangle",
    "add_frames",
    "add_synapses",
    "costs",
    "decay_behind",
    "decay_of",
    "evaluating",
    "fire",
    "if_step",
    "leaves",
    "lif_step",
    "load",
    "neuron_path",
    "over_leaves",
    "over_time",
    "read",
    "register_function",
    "run_by",
    "save",
    "signed_if_step",
    "soft_lif",
]
