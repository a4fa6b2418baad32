"""Save and load spiking networks: tensors as safetensors, everything else as JSON inside it.

Nothing executable is written and nothing executable is read: the graph is a list of names from
the table of operations (``ops``) and of unit types registered here, and a file that names
anything else is refused (promise 7 of DESIGN.md).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack

from .description import describe, rebuild
from .errors import StorageError
from .files import whole_file
from .network import SpikingNetwork


def save(snn: SpikingNetwork, path: str | Path) -> Path:
    """Write a spiking network to one safetensors file and return its path.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Raises:
        StorageError: if it cannot be written there, or holds a unit that no file can.

    Example:
        >>> import spiketune as st, tempfile
        >>> from torch import nn
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 1, 2, 2), st.Ternary(steps=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(save(snn, Path(folder) / "small.safetensors"))
        >>> again.steps
        8
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device would be gone, this file in its place
        raise StorageError(f"{path}: is no regular file; give the path of one to write")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in snn.state_dict().items()}
    # As bytes, because save_file makes files that nobody else may read.
    data = pack(tensors, metadata={"spiketune": json.dumps(describe(snn))})
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); check the path, its "
            "permissions and the disk"
        ) from error
    return path


def load(path: str | Path) -> SpikingNetwork:
    """Read a spiking network that ``save`` wrote.

    Args:
        path: the file.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        StorageError: if the file is missing, cut short, of another kind or schema, or if its
            tensors do not fit its description.

    Example:
        >>> load("missing.safetensors")
        Traceback (most recent call last):
        ...
        spiketune.snn.errors.StorageError: missing.safetensors: no such file; check the path
    """
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned: a tensor in the file lies anywhere, and where it lies decides which kernel
            # runs, so answers would differ by rounding; and the file may change later.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise StorageError(
            f"{path}: not a whole safetensors file ({error}); copy or make it again"
        ) from error
    if "spiketune" not in metadata:
        raise StorageError(
            f"{path}: holds plain weights, no spiking network; give it to load_ann(checkpoint=...)"
        )
    return _rebuild(metadata["spiketune"], tensors, path).eval()


def _rebuild(text: str, tensors: dict[str, torch.Tensor], path: Path) -> SpikingNetwork:
    """Build the described network; its tensors must be those in the file, shape by shape."""
    try:
        data = json.loads(text)
        for name, info in data.get("tensors", {}).items():
            found = tensors.get(f"net.{name}")
            if found is not None and list(found.shape) != info["shape"]:
                raise StorageError(
                    f"{path}: {name} has shape {list(found.shape)}, described as "
                    f"{info['shape']}; the file was changed, make it again"
                )
        snn = rebuild(data, str(path))
        _fill(snn, tensors, path)
        return snn
    except StorageError:
        raise
    except (
        AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        # A description that no version of ours writes: whatever it trips over first.
        raise StorageError(
            f"{path}: its description makes no network ({type(error).__name__}: {error}); "
            "the file was changed, make it again"
        ) from error


def _fill(snn: SpikingNetwork, tensors: dict[str, torch.Tensor], path: Path) -> None:
    held = dict([*snn.named_parameters(), *snn.named_buffers()])
    missing, unexpected = sorted(set(held) - set(tensors)), sorted(set(tensors) - set(held))
    if missing or unexpected:
        raise StorageError(
            f"{path}: its tensors do not fit its description (missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}); the file was changed, make it again"
        )
    for name, target in held.items():
        value = tensors[name]
        if value.shape != target.shape:
            raise StorageError(
                f"{path}: {name} has shape {list(value.shape)}, its unit makes "
                f"{list(target.shape)}; the file was changed, make it again"
            )
        target.data = value
    for name, neuron in snn.neurons():
        if not bool((neuron.threshold > 0).all()):
            raise StorageError(f"{path}: {name} has a threshold not above 0; make the file again")
