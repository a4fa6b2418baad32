"""Read the files that event cameras and silicon ears left, as they are published."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .events import EVENT, Events, as_events

__all__ = ["EXTRA", "gesture_trials", "open_h5", "read_aedat", "read_gesture", "read_nmnist"]

EXTRA = "pip install 'spiketune[events]'"
END_OF_HEADER = b"#!END-HEADER\r\n"
PACKET = struct.Struct("<hhiiiiii")  # type, source, size, time offset, overflow, three counts
POLARITY = 1
EVENT_BYTES = 8
LAP = 2**13  # µs that an overflow mark of N-MNIST adds to all times after it
OVERFLOW_ROW = 240


def read_nmnist(path: str | Path) -> Events:
    """Read a ``.bin`` file of N-MNIST (or N-Caltech101): 5 bytes an event.

    They are x (8 bits), y (8), polarity (1) and time in µs (23, the highest bit first).

    Args:
        path: the file.

    Returns:
        Its events.

    Raises:
        DataError: The file is empty or cut within an event.

    Source:
        Orchard, Jayawant, Cohen, Thakor 2015, and the description of the format that comes with
        the data. Rows of 240 mark that the time counter ran over.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "00001.bin")
        ...     _ = file.write_bytes(bytes([3, 7, 0x80, 0x01, 0x02]))
        ...     read_nmnist(file).tolist()
        [(258, 3, 7, 1)]
    """
    content = _bytes(Path(path))
    if not content or len(content) % 5:
        raise DataError(
            f"{path} holds {len(content)} bytes, which is not 5 an event; fetch it again"
        )
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).T.astype(np.int64)
    marks = y == OVERFLOW_ROW
    events = np.empty(len(x), EVENT)
    events["t"] = ((high & 127) << 16 | middle << 8 | low) + LAP * marks.cumsum()
    events["x"], events["y"], events["p"] = x, y, high >> 7
    timed: Events = events[~marks]
    return timed


def read_aedat(path: str | Path) -> Events:
    r"""Read the polarity events of an AEDAT 3.1 file, such as a session of DVS Gesture.

    After the text header come packets: 28 bytes of header, then 8 bytes an event: validity (1
    bit), polarity (1), y (15), x (15), and the time in µs (32).

    Args:
        path: the file.

    Returns:
        Its valid events.

    Raises:
        DataError: The file is of another format or cut short.

    Source:
        iniVation's description of AEDAT 3.1. tonic 1.7 has a reader of it that fails.

    Example:
        >>> import tempfile, pathlib
        >>> event = struct.pack("<Ii", 5 << 17 | 6 << 2 | 3, 9)
        >>> packet = PACKET.pack(1, 0, 8, 4, 0, 1, 1, 1) + event
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "user01_led.aedat")
        ...     _ = file.write_bytes(b"#!AER-DAT3.1\r\n" + END_OF_HEADER + packet)
        ...     read_aedat(file).tolist()
        [(9, 5, 6, 1)]
    """
    content = _bytes(Path(path))
    start = content.find(END_OF_HEADER) + len(END_OF_HEADER)
    if not content.startswith(b"#!AER-DAT3") or start < len(END_OF_HEADER):
        raise DataError(f"{path} does not start with a header of AEDAT 3.1; fetch it again")
    packets = []
    while start < len(content):
        if len(content) < start + PACKET.size:
            raise DataError(f"{path} ends within the header of a packet; fetch it again")
        kind, _, size, _, laps, capacity, number, _ = PACKET.unpack_from(content, start)
        start += PACKET.size
        whole = 0 <= number <= capacity and size >= (EVENT_BYTES if kind == POLARITY else 1)
        if not whole or len(content) < start + size * capacity:
            raise DataError(
                f"{path} has {len(content) - start} bytes left where a packet promises "
                f"{number} of {capacity} events of {size} bytes; fetch it again"
            )
        if kind == POLARITY:
            pairs = np.frombuffer(content, "<u4", number * size // 4, start)
            packets.append(_polarity(pairs.reshape(number, -1), laps))
        start += size * capacity
    if not packets:
        raise DataError(f"{path} has no polarity events; name a recording of an event camera")
    return np.concatenate(packets)


def gesture_trials(path: str | Path) -> list[tuple[int, int, int]]:
    r"""Read when which gesture was made, from the ``_labels.csv`` beside a session.

    Args:
        path: the ``.aedat`` file.

    Returns:
        Class from 0 on, first and last microsecond of each trial.

    Raises:
        DataError: There is no such table, or it is of another form, or a trial ends before it
            begins.

    Source:
        Amir et al. 2017, "A low power, fully event-based gesture recognition system"; the
        classes count from 1 in the files.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     session = pathlib.Path(folder, "user01_led.aedat")
        ...     table = "class,startTime_usec,endTime_usec\n3,100,900\n"
        ...     _ = session.with_name("user01_led_labels.csv").write_text(table)
        ...     gesture_trials(session)
        [(2, 100, 900)]
    """
    table = Path(path).with_name(f"{Path(path).stem}_labels.csv")
    trials: list[tuple[int, int, int]] = []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                first, last = int(row["startTime_usec"]), int(row["endTime_usec"])
                trials.append((int(row["class"]) - 1, first, last))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{table} is no table of class, startTime_usec and endTime_usec "
            f"({type(error).__name__}: {error}); fetch it again"
        ) from error
    for label, first, last in trials:
        if last <= first:
            raise DataError(
                f"{table} has a trial of class {label + 1} that lasts from {first} to {last} µs, "
                "which is no time; fetch it again"
            )
    return trials


def read_gesture(path: str | Path) -> Events:
    """Read a gesture of DVS Gesture from a ``.npy`` file, as tonic leaves them.

    The array has the columns x, y, polarity and time in milliseconds.

    Args:
        path: the file.

    Returns:
        Its events.

    Raises:
        DataError: The file is of another format or cut short.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "0.npy")
        ...     np.save(file, np.array([[5, 6, 1, 2.5]]))
        ...     read_gesture(file).tolist()
        [(2500, 5, 6, 1)]
    """
    try:
        columns = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no array or cut short ({error}); fetch it again") from error
    if columns.ndim != 2 or columns.shape[1] != 4:
        raise DataError(
            f"{path} has the shape {[*columns.shape]} instead of [events, 4]; fetch it again"
        )
    x, y, p, t = columns.astype(np.float64).T
    return as_events(np.stack((np.rint(t * 1000), x, y, p), 1), str(path))


def open_h5(path: str | Path) -> Any:
    """Open an ``.h5`` file, as SHD and N-TIDIGITS come in.

    Args:
        path: the file.

    Returns:
        h5py's file.

    Raises:
        DataError: h5py is not installed, or the file is damaged or cut short.

    Example:
        >>> file = open_h5("shd_train.h5")  # doctest: +SKIP
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise DataError(f"{path} needs h5py, which is not installed, {EXTRA}") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged or cut short ({reason}); fetch it again") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); fetch it again") from error


def _polarity(pairs: Any, laps: int) -> Events:
    """Take packed polarity events apart; ``laps`` says how often 31 bits of time ran over."""
    data, events = pairs[:, 0], np.empty(len(pairs), EVENT)
    events["t"] = pairs[:, 1].astype(np.int64) + (laps << 31)
    events["x"], events["y"] = data >> 17, data >> 2 & 0x7FFF
    events["p"] = data >> 1 & 1
    valid: Events = events[(data & 1).astype(bool)]
    return valid
