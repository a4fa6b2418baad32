"""spiketune: convert pretrained networks into spiking ones, fine-tune them, compare budgets.

Example:
    >>> import spiketune as st
    >>> ann = st.load_ann("digits_resnet")
    >>> train = st.load_data("digits", "train", cfg=ann.pretrained_cfg)
    >>> snn = st.to_snn(ann, train.tensors[0], st.Ternary(steps=8))
    >>> snn.report.neurons > 0
    True
"""

from spiketune.compare import Table, sweep
from spiketune.convert import MSE, Binary, Max, Percentile, Ternary, check, to_snn
from spiketune.finetune import SurrogateBPTT, Training, tune
from spiketune.snn import (
    ConversionError,
    SpikingNetwork,
    SpiketuneError,
    costs,
    load,
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

__all__ = [
    "MSE",
    "Binary",
    "ConversionError",
    "Max",
    "Percentile",
    "SpiketuneError",
    "SpikingNetwork",
    "SurrogateBPTT",
    "Table",
    "Ternary",
    "Training",
    "check",
    "costs",
    "data_info",
    "list_data",
    "list_models",
    "load",
    "load_ann",
    "load_data",
    "photographs",
    "save",
    "spiking",
    "sweep",
    "to_snn",
    "tune",
    "twin",
]
