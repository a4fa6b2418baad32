"""Pretrained networks and data sets, ready to be converted, tuned and compared."""

from __future__ import annotations

from .ann import load_ann
from .catalogue import ModelInfo, list_models
from .data import load_data
from .data_sets import DataInfo, data_info, list_data
from .errors import DataError, ModelError
from .photographs import photographs
from .spiking import spiking, twin

__all__ = [
    "DataError",
    "DataInfo",
    "ModelError",
    "ModelInfo",
    "data_info",
    "list_data",
    "list_models",
    "load_ann",
    "load_data",
    "photographs",
    "spiking",
    "twin",
]
