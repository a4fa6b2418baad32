"""What runs: neurons, surrogate slopes, the time loop, spike counting, save and load."""

from .alpha import alpha_filter
from .burst import Burst
from .compiled import CompiledChunks
from .cost import Costs, costs
from .delay import Delay
from .delays import add_delays
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
from .lateral import Lateral
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
from .recurrent import Recurrent, add_recurrence, reservoir
from .refractory import Refractory
from .report import Report, Row
from .running import Chunks, run_by
from .schedules import Constant, Geometric, Harmonic, Schedule
from .signed import SignedIF
from .single_spike import (
    PSP,
    Credit,
    EarliestPool2d,
    Knot,
    KnotPSP,
    Latency,
    LinearPSP,
    Race,
    RampPSP,
    StepPSP,
    Timed,
    TimedConv2d,
    TimedLinear,
    Times,
    TrianglePSP,
    race_of,
    spike_times_of,
    timed_layers,
)
from .soft_lif import SoftLIF, soft_lif
from .srm import SRM
from .storage import load, save
from .surrogate import (
    ATan,
    Laplace,
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
    "PSP",
    "SRM",
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
    "Credit",
    "Delay",
    "Delayed",
    "EarliestPool2d",
    "EarlyExit",
    "Exits",
    "Firing",
    "Frames",
    "Geometric",
    "Graded",
    "GraphedChunks",
    "HardReset",
    "Harmonic",
    "Knot",
    "KnotPSP",
    "Laplace",
    "Latency",
    "Lateral",
    "Linear",
    "LinearPSP",
    "Mean",
    "Membrane",
    "Monitor",
    "Neuron",
    "Norm",
    "PiecewiseLinear",
    "Poisson",
    "Program",
    "Race",
    "RampPSP",
    "RateLIF",
    "Readout",
    "Rectangle",
    "Recurrent",
    "Refractory",
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
    "StepPSP",
    "StorageError",
    "SuperSpike",
    "Surrogate",
    "Synapse",
    "Temporal",
    "TemporalBatchNorm",
    "ThresholdBatchNorm",
    "Timed",
    "TimedConv2d",
    "TimedLinear",
    "Times",
    "Triangle",
    "TrianglePSP",
    "add_delays",
    "add_frames",
    "add_recurrence",
    "add_synapses",
    "alpha_filter",
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
    "race_of",
    "read",
    "register_function",
    "reservoir",
    "run_by",
    "save",
    "signed_if_step",
    "soft_lif",
    "spike_times_of",
    "timed_layers",
]
