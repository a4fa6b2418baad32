"""Pretrained networks and data sets, ready to be converted, tuned and compared."""

from __future__ import annotations

from .ann import load_ann
from .catalogue import ModelInfo, list_models
from .data import load_data
from .data_sets import DataInfo, data_info, list_data
from .delays import Delays
from .errors import DataError, ModelError
from .event_frames import EventFrames
from .events import Bins, to_events, to_frames
from .fit_times import fit_times
from .lateral_neurons import LateralNeuron
from .layered import is_layered, layered
from .neurons import LeakyNeuron, NeuronKind, ParallelNeuron, ParametricNeuron, PlainNeuron
from .photographs import photographs
from .rate_neurons import RateNeuron
from .refractory_neurons import RefractoryNeuron
from .saccades import Saccades, saccade_events, saccades
from .sew import sew, sew_resnet
from .single_spike import single_spike
from .single_spike_neurons import FirstSpikeNeuron
from .speech import Hearing, hear
from .spiking import spiking, twin
from .srm_neurons import SRMNeuron
from .stems import small_stem
from .synapses import Synapses
from .vgg import AverageVGG

__all__ = [
    "AverageVGG",
    "Bins",
    "DataError",
    "DataInfo",
    "Delays",
    "EventFrames",
    "FirstSpikeNeuron",
    "Hearing",
    "LateralNeuron",
    "LeakyNeuron",
    "ModelError",
    "ModelInfo",
    "NeuronKind",
    "ParallelNeuron",
    "ParametricNeuron",
    "PlainNeuron",
    "RateNeuron",
    "RefractoryNeuron",
    "SRMNeuron",
    "Saccades",
    "Synapses",
    "data_info",
    "fit_times",
    "hear",
    "is_layered",
    "layered",
    "list_data",
    "list_models",
    "load_ann",
    "load_data",
    "photographs",
    "saccade_events",
    "saccades",
    "sew",
    "sew_resnet",
    "single_spike",
    "small_stem",
    "spiking",
    "to_events",
    "to_frames",
    "twin",
]
