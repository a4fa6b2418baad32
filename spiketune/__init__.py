"""spiketune: convert pretrained networks into spiking ones, fine-tune them, compare budgets.

Each name is imported when it is first used, so that one room costs no other room's imports.

Example:
    >>> import spiketune as st
    >>> ann = st.load_ann("digits_resnet")
    >>> train = st.load_data("digits", "train", cfg=ann)
    >>> snn = st.to_snn(ann, train.tensors[0], st.Ternary(steps=8))
    >>> snn.report.neurons
    7
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spiketune.compare import Table, sweep
    from spiketune.convert import (
        LTB,
        MSE,
        BiasCorrection,
        Binary,
        Burst,
        Correction,
        Gaussian,
        Graded,
        Max,
        Method,
        Percentile,
        Phase,
        PotentialCorrection,
        SpikeInput,
        Ternary,
        Threshold,
        WeightCalibration,
        ceiling,
        check,
        doctor,
        recipe,
        recipes,
        to_snn,
    )
    from spiketune.finetune import History, Rule, SurrogateBPTT, Training, tune
    from spiketune.snn import (
        Constant,
        ConversionError,
        Delayed,
        Geometric,
        Harmonic,
        Mean,
        Membrane,
        SpiketuneError,
        SpikingNetwork,
        costs,
        load,
        register_function,
        save,
    )
    from spiketune.zoo import (
        data_info,
        list_data,
        list_models,
        load_ann,
        load_data,
        photographs,
        spiking,
        twin,
    )

_ROOMS = {
    "compare": ("Table", "sweep"),
    "convert": (
        "BiasCorrection",
        "Binary",
        "Burst",
        "Correction",
        "Gaussian",
        "Graded",
        "LTB",
        "MSE",
        "Max",
        "Method",
        "Percentile",
        "Phase",
        "PotentialCorrection",
        "SpikeInput",
        "Ternary",
        "Threshold",
        "WeightCalibration",
        "ceiling",
        "check",
        "doctor",
        "recipe",
        "recipes",
        "to_snn",
    ),
    "finetune": ("History", "Rule", "SurrogateBPTT", "Training", "tune"),
    "snn": (
        "Constant",
        "ConversionError",
        "Delayed",
        "Geometric",
        "Harmonic",
        "Mean",
        "Membrane",
        "SpiketuneError",
        "SpikingNetwork",
        "costs",
        "load",
        "register_function",
        "save",
    ),
    "zoo": (
        "data_info",
        "list_data",
        "list_models",
        "load_ann",
        "load_data",
        "photographs",
        "spiking",
        "twin",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "LTB",
    "MSE",
    "BiasCorrection",
    "Binary",
    "Burst",
    "Constant",
    "ConversionError",
    "Correction",
    "Delayed",
    "Gaussian",
    "Geometric",
    "Graded",
    "Harmonic",
    "History",
    "Max",
    "Mean",
    "Membrane",
    "Method",
    "Percentile",
    "Phase",
    "PotentialCorrection",
    "Rule",
    "SpikeInput",
    "SpiketuneError",
    "SpikingNetwork",
    "SurrogateBPTT",
    "Table",
    "Ternary",
    "Threshold",
    "Training",
    "WeightCalibration",
    "ceiling",
    "check",
    "costs",
    "data_info",
    "doctor",
    "list_data",
    "list_models",
    "load",
    "load_ann",
    "load_data",
    "photographs",
    "recipe",
    "recipes",
    "register_function",
    "save",
    "spiking",
    "sweep",
    "to_snn",
    "tune",
    "twin",
]


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"spiketune has no {name!r}; dir(spiketune) lists what it has")
    return getattr(import_module(f"spiketune.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
