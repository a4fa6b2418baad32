"""Read weight files as data only, and load them strictly."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor, nn

from .errors import ModelError

__all__ = ["load_strictly", "misfit", "read_checkpoint"]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
# A training checkpoint keeps several state dicts; the averaged weights are the ones published.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
SHOWN = 3


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a local ``.safetensors`` or torch file without executing anything.

    Args:
        path: The file. A torch file may hold the state dict itself, or a dict which has it under
            ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, as timm writes them.

    Returns:
        Parameter and buffer names to tensors, on the CPU, without ``module.`` prefixes.

    Raises:
        ModelError: The file is missing, a directory, damaged, or holds something else.

    Example:
        >>> import tempfile, torch
        >>> from spiketune.zoo.checkpoint import read_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.w": torch.ones(2)}}, f"{folder}/a.pth")
        ...     read_checkpoint(f"{folder}/a.pth")
        {'w': tensor([1., 1.])}
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ModelError(f"checkpoint {path} is a folder, name the weight file{_weights_in(path)}")
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist, name an existing weight file")
    if path.suffix == ".safetensors":
        return clean_tensors(_read_safetensors(path), path)
    if path.suffix in TORCH_SUFFIXES:
        return clean_tensors(_read_torch(path), path)
    raise ModelError(
        f"checkpoint {path} ends in {path.suffix or 'nothing'!r}, "
        f"name a .safetensors file or a torch file ({', '.join(TORCH_SUFFIXES)})"
    )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load every tensor of the file into the network, or explain why they do not fit.

    Args:
        model: The network; left untouched if the file does not fit.
        state: What ``read_checkpoint`` returned.
        name: The network's name, for the message.
        path: The file's path, for the message.

    Raises:
        ModelError: A key is missing, unexpected or of another shape.

    Example:
        >>> from pathlib import Path
        >>> from torch import nn
        >>> from spiketune.zoo.checkpoint import load_strictly
        >>> net = nn.Linear(2, 1)
        >>> load_strictly(net, nn.Linear(2, 1).state_dict(), "linear", Path("a.pth"))
    """
    if problem := misfit(model, state):
        raise ModelError(f"checkpoint {path} does not fit {name}: {problem}")
    model.load_state_dict(state, strict=True)


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Describe how a state dict differs from a network's, and the remedy; empty if it fits.

    Args:
        model: The network.
        state: Names to tensors.

    Returns:
        The first few missing, unexpected and wrongly shaped keys and what to do, or ``""``.

    Example:
        >>> from torch import nn
        >>> from spiketune.zoo.checkpoint import misfit
        >>> misfit(nn.Linear(2, 1), nn.Linear(2, 1).state_dict())
        ''
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    found = []
    if missing:
        found.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected:
        found.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    if reshaped:
        shapes = [f"{k} {[*state[k].shape]} for {[*own[k].shape]}" for k in reshaped]
        found.append(f"{len(reshaped)} of another shape ({_first(shapes)})")
    if not found:
        return ""
    return "; ".join(found) + "; " + _remedy(model, state, reshaped, len(missing + unexpected))


def clean_tensors(content: object, path: Path) -> dict[str, Tensor]:
    """Unwrap a checkpoint's content down to names and tensors.

    Args:
        content: What the file held.
        path: The file's path, for the message.

    Returns:
        Names to tensors.

    Raises:
        ModelError: The content is no state dict.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from spiketune.zoo.checkpoint import clean_tensors
        >>> clean_tensors({"model": {"w": torch.ones(1)}}, Path("a.pth"))
        {'w': tensor([1.])}
    """
    if isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        state = content if inner is None else inner
        if state and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            return dict(clean_state_dict(state))
        held = f"a dict with the keys {_first([str(key) for key in content])}"
    else:
        held = f"a {type(content).__name__}"
    raise ModelError(
        f"checkpoint {path} holds {held} instead of weights, "
        "save it with torch.save(model.state_dict(), path)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(_damaged(path, error)) from error


def _read_torch(path: Path) -> object:
    try:
        # timm's training script keeps its arguments, a plain namespace, beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"checkpoint {path} is damaged or needs code to be read ({_line(error)}), "
            "save the bare weights again with torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise ModelError(_damaged(path, error)) from error


def _damaged(path: Path, error: BaseException) -> str:
    size = path.stat().st_size
    return (
        f"checkpoint {path} ({size} bytes) is damaged or cut short ({_line(error)}), "
        "fetch or save it again"
    )


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(". ")


def _weights_in(folder: Path) -> str:
    suffixes = (".safetensors", *TORCH_SUFFIXES)
    names = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
    return f" in it, such as {_first(names)}" if names else "; there is none in it"


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _remedy(model: nn.Module, state: Mapping[str, Tensor], reshaped: list[str], others: int) -> str:
    """Name num_classes= or in_chans= where only the head or the stem differ."""
    cfg: Mapping[str, object] = getattr(model, "pretrained_cfg", {})
    heads, stems = _layers(cfg.get("classifier")), _layers(cfg.get("first_conv"))
    rest = [key for key in reshaped if key.rpartition(".")[0] not in heads + stems]
    if others or rest or not reshaped:
        return (
            "load it into the network it was saved from, with the same num_classes= and in_chans="
        )
    hints = []
    if head := next((k for k in reshaped if k.rpartition(".")[0] in heads), ""):
        hints.append(f"num_classes={state[head].shape[0]}")
    if stem := next((k for k in reshaped if k.rpartition(".")[0] in stems), ""):
        hints.append(f"in_chans={state[stem].shape[1]}")
    return f"ask for {' and '.join(hints)}"


def _layers(names: object) -> list[str]:
    if isinstance(names, str):
        return [names]
    return [str(name) for name in names] if isinstance(names, list | tuple) else []
