"""Pretrained networks and data sets, ready to be converted, tuned and compared."""

from __future__ import annotations

from .ann import load_ann
from .catalogue import ModelInfo, list_models
from .data import load_data
from .data_sets import DataInfo, data_info, list_data
from .errors import DataError, ModelError
from .event_frames import EventFrames
from .events import Bins, to_events, to_frames
from .neurons import LeakyNeuron, NeuronKind, ParallelNeuron, ParametricNeuron, PlainNeuron
from .photographs import photographs
from .rate_neurons import RateNeuron
from .saccades import Saccades, saccade_events, saccades
from .sew import sew, sew_resnet
from .speech import Hearing, hear
from .spiking import spiking, twin
from .stems import small_stem
from .vgg import AverageVGG

__all__ = [
    "AverageVGG",
    "Bins",
    "DataError",
    "DataInfo",
    "EventFrames",
    "Hearing",
    "LeakyNeuron",
    "ModelError",
    "ModelInfo",
    "NeuronKind",
    "ParallelNeuron",
    "ParametricNeuron",
    "PlainNeuron",
    "RateNeuron",
    "Saccades",
    "data_info",
    "hear",
    "list_data",
    "list_models",
    "load_ann",
    "load_data",
    "photographs",
    "saccade_events",
    "saccades",
    "sew",
    "sew_resnet",
    "small_stem",
    "spiking",
    "to_events",
    "to_frames",
    "twin",
]
