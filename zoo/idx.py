"""Read the idx files of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError

__all__ = ["read_idx"]

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> Tensor:
    """Read an idx file of unsigned bytes, gzipped or not.

    The header is two zero bytes, the type, the number of dimensions, then each dimension as a
    big-endian 32-bit integer; the values follow in C order.

    Args:
        path: The file.

    Returns:
        The values in the file's shape, uint8.

    Raises:
        DataError: The file is cut short, too long, or of another type.

    Example:
        >>> import tempfile, pathlib
        >>> from spiketune.zoo.idx import read_idx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "labels")
        ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        ...     read_idx(file).tolist()
        [7, 9]
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if _zipped(path) else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}), fetch it again") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(
            f"{path} starts with {content[:4].hex() or 'nothing'} instead of an idx header of "
            "unsigned bytes, fetch it again"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path} ends within its header, fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} holds {len(content) - start} values where its header promises "
            f"{math.prod(shape)}, fetch it again"
        )
    # A bytearray is writable, as torch wants what it shares memory with to be.
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return values[start:].reshape(shape)


def _zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
