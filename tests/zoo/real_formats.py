"""Write small files in the formats the data sets are published in."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Event = tuple[int, int, int, int]  # t, x, y, p
EVENTS: list[Event] = [(0, 3, 4, 1), (70_000, 33, 0, 0), (70_000, 0, 33, 1), (299_999, 17, 5, 0)]
AEDAT = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def nmnist(events: Sequence[Event]) -> bytes:
    """Return 40 bits an event: x, y, polarity, 23 bits of time."""
    return b"".join(bytes([x, y]) + ((p << 23) | t).to_bytes(3, "big") for t, x, y, p in events)


def packet(events: Sequence[Event], *, kind: int = 1, laps: int = 0, valid: int = 1) -> bytes:
    """Return one packet of AEDAT 3.1."""
    count = len(events)
    header = struct.pack("<hhiiiiii", kind, 1, 8, 4, laps, count, count, count * valid)
    packed = [struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t) for t, x, y, p in events]
    return header + b"".join(packed)


def write_idx(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Write images and labels as MNIST's training and test files."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in ("train", "t10k"):
        for part, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            content = header + bytes(values.flatten().tolist())
            (folder / f"{stem}-{part}-ubyte").write_bytes(content)


def tone(frequency: float, rate: int, seconds: float = 0.5) -> NDArray[np.int16]:
    """Return a sine wave of 16 bits."""
    time = np.arange(round(rate * seconds)) / rate
    return (20_000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)


def write_wav(path: Path, samples: NDArray[np.int16], rate: int) -> None:
    """Write RIFF; samples ``[n]`` or ``[n, channels]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def sphere(samples: NDArray[np.int16], rate: int, order: str = "01", **others: str) -> bytes:
    """Return NIST SPHERE, as the discs of TIDIGITS and TI46 have it; ``10`` is big-endian."""
    fields = {
        "sample_count": f"-i {len(samples)}",
        "sample_rate": f"-i {rate}",
        "channel_count": f"-i {1 if samples.ndim == 1 else samples.shape[1]}",
        "sample_n_bytes": "-i 2",
        "sample_byte_format": f"-s2 {order}",
        "sample_coding": "-s3 pcm",
        **others,
    }
    lines = "".join(f"{name} {value}\n" for name, value in fields.items() if value)
    header = f"NIST_1A\n   1024\ndatabase_id -s8 TIDIGITS\n{lines}end_head\n"
    return header.encode().ljust(1024) + samples.astype({"01": "<i2", "10": ">i2"}[order]).tobytes()
