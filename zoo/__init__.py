"""Pretrained networks and data sets, ready to be converted, tuned and compared."""

from __future__ import annotations

from .ann import load_ann
from .catalogue import ModelInfo, list_models
from .data import load_data
from .data_sets import DataInfo, data_info, list_data
from .errors import DataError, ModelError
from .neurons import LeakyNeuron, NeuronKind, ParallelNeuron, ParametricNeuron, PlainNeuron
from .photographs import photographs
from .sew import sew, sew_resnet
from .spiking import spiking, twin
from .stems import small_stem
from .vgg import AverageVGG

__all__ = [
    "AverageVGG",
    "DataError",
    "DataInfo",
    "LeakyNeuron",
    "ModelError",
    "ModelInfo",
    "NeuronKind",
    "ParallelNeuron",
    "ParametricNeuron",
    "PlainNeuron",
    "data_info",
    "list_data",
    "list_models",
    "load_ann",
    "load_data",
    "photographs",
    "sew",
    "sew_resnet",
    "small_stem",
    "spiking",
    "twin",
]
