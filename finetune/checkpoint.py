"""A run's whole state in one file, read back exactly.

The file holds tensors, numbers and text only and is read with ``weights_only=True``: data, never
code. It is written beside its place, flushed to the disk and then moved there: whatever interrupts
the run, SIGKILL or a full disk, the last whole checkpoint stays, and none is ever half there.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiketune.snn import SpikingNetwork
from spiketune.snn.description import describe
from spiketune.snn.files import whole_file

from .about import About
from .errors import TuneError
from .history import Epoch, History, Tally

FORMAT = "spiketune-finetune/4"
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run goes on from.

    Attributes:
        network: fingerprint of the network's structure.
        settings: what the run was asked for, as JSON data.
        about: how the network was made, before this run.
        history: the epochs done.
        tally: where the run stands in the epoch under way, and what that came to so far.
        model: the network's tensors.
        average: those of the averaged network, None without one.
        optimizer: the optimizer's state. The schedule has none: it follows from the position.
        floors: smallest threshold of each neuron.
        generators: for each process the states of its loader's own random generators as the epoch
            under way began; all other randomness follows from the seed and the position.
    """

    network: str
    settings: Settings
    about: About
    history: History
    tally: Tally
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    floors: dict[str, Tensor]
    generators: list[list[Tensor]]


def fingerprint(snn: SpikingNetwork) -> str:
    """Return a hash of the network's structure: its graph, units, slopes, and what trains.

    Taken when the rule has got the network ready; the tensors themselves are left out.
    """
    data = describe(snn)
    for key in ("steps", "about", "report"):
        del data[key]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def identity(teacher: nn.Module | None) -> str | None:
    """Return a teacher's class and a checksum over all its tensors, the same on every device.

    Example:
        >>> identity(nn.Flatten())
        'Flatten 00000000'
    """
    if teacher is None:
        return None
    mark = 0
    for tensor in teacher.state_dict().values():
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            mark = zlib.crc32(plain.numpy().data, mark)
    return f"{type(teacher).__name__} {mark:08x}"


def require_free(path: Path) -> None:
    """Refuse a path where a run would write over another one.

    Raises:
        TuneError: if there is a file.
    """
    if path.exists():
        if _finished(path):
            raise TuneError(
                f"{path}: holds an earlier run, which is finished; delete it to start anew, or "
                "give another checkpoint= (another --out on the command line)"
            )
        raise TuneError(
            f"{path}: holds an earlier run; pass resume=True (--resume true on the command line) "
            "to go on with it, or give another checkpoint= (another --out)"
        )


def _finished(path: Path) -> bool:
    """Whether all epochs of the run that a file holds are done."""
    try:
        found = read(path)
    except TuneError:  # of another kind
        return False
    return len(found.history.epochs) == found.settings.get("epochs")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint whole, or leave the one before it.

    Raises:
        TuneError: if the file cannot be written.
    """
    names = set(Checkpoint.__dataclass_fields__) - {"history", "tally"}
    data = {name: getattr(checkpoint, name) for name in names}
    data |= {"history": asdict(checkpoint.history), "tally": asdict(checkpoint.tally)}
    try:
        with whole_file(path) as partial:
            torch.save({"format": FORMAT, **data}, partial)
            _flush(partial)
        _flush(path.parent)
    except (OSError, RuntimeError) as error:
        kept = "the one before it is kept" if path.exists() else "none was written"
        raise TuneError(
            f"{path}: the checkpoint cannot be written ({_first_line(error)}) and {kept}; free "
            "some space or give another path"
        ) from error


def _flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk before going on."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _first_line(error: BaseException) -> str:
    # torch names the line of its own code first.
    return re.sub(r"^\[enforce fail at .*?\][ .]*", "", str(error)).split("\n", 1)[0]


def read(path: Path) -> Checkpoint:
    """Read a checkpoint that ``write`` wrote, its tensors on the CPU.

    Raises:
        TuneError: if there is none, or it is cut short or of another kind.
    """
    if not path.is_file():
        raise TuneError(
            f"{path}: no checkpoint to resume; start the run without resume=True "
            "(without --resume on the command line)"
        )
    damaged = (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except damaged as error:
        raise TuneError(
            f"{path}: not a whole checkpoint, it was cut short or is another kind of file; "
            "delete it and start the run without resume=True (without --resume on the command line)"
        ) from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise TuneError(
            f"{path}: no {FORMAT} checkpoint; give the one that this version's tune wrote, or "
            "start anew with another checkpoint= (another --out on the command line)"
        )
    try:
        history = History(tuple(Epoch(**epoch) for epoch in data.pop("history")["epochs"]))
        return Checkpoint(history=history, tally=Tally(**data.pop("tally")), **data)
    except (KeyError, TypeError) as error:
        raise TuneError(
            f"{path}: its contents are not those of a {FORMAT} checkpoint; start the run anew"
        ) from error


def check_fits(path: Path, checkpoint: Checkpoint, network: str, settings: Settings) -> None:
    """Refuse a checkpoint of another network or of a run with other settings.

    Raises:
        TuneError: naming each setting that differs.
    """
    differences = _differences(checkpoint.settings, settings)
    if differences:
        raise TuneError(
            f"{path}: the run was started with other settings ({'; '.join(differences)}); resume "
            "with the same, or start a run of its own at another checkpoint= (another --out on the "
            "command line)"
        )
    if checkpoint.network != network:
        raise TuneError(
            f"{path}: written for another network; resume with the network it was started with, "
            "or give another checkpoint= (another --out on the command line)"
        )


def _differences(then: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict) and then.get("_type") == now.get("_type"):
        keys = then | now
        return [x for key in keys for x in _differences(then.get(key), now.get(key), key)]
    return [] if then == now else [f"{name} was {_short(then)}, now {_short(now)}"]


def _short(value: Any) -> Any:
    """Return settings as the user writes them, ``Triangle(width=1.0)``."""
    if not isinstance(value, dict):
        return value
    fields = (f"{key}={_short(item)}" for key, item in value.items() if key != "_type")
    return f"{value.get('_type', '')}({', '.join(fields)})"
