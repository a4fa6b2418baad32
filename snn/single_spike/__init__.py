"""Networks in which a neuron fires at most once, at a time that is computed exactly.

Such a network is a ``SpikingNetwork`` whose stem holds spike times: ``Latency`` turns images into
times, ``TimedConv2d``, ``EarliestPool2d`` and ``TimedLinear`` times into times, and ``Race``, its
only unit over steps, the times of the classes into answers at every latency.
"""

from .crossing import Credit
from .latency import Latency
from .pooling import EarliestPool2d
from .psp import PSP, Knot, KnotPSP, LinearPSP, RampPSP, StepPSP, TrianglePSP
from .race import Race
from .runs import Times, race_of, spike_times_of, timed_layers
from .timed import Timed, TimedConv2d, TimedLinear

__all__ = [
    "PSP",
    "Credit",
    "EarliestPool2d",
    "Knot",
    "KnotPSP",
    "Latency",
    "LinearPSP",
    "Race",
    "RampPSP",
    "StepPSP",
    "Timed",
    "TimedConv2d",
    "TimedLinear",
    "Times",
    "TrianglePSP",
    "race_of",
    "spike_times_of",
    "timed_layers",
]
