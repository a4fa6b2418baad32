"""Read sound files: RIFF wav and NIST SPHERE of 16 bit here, others through soundfile."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

__all__ = ["Samples", "read_audio"]

Samples = NDArray[np.float32]
SPHERE = b"NIST_1A\n"
FULL = 2**15


def read_audio(path: str | Path) -> tuple[Samples, int]:
    r"""Read a sound file; of several channels the mean.

    Linear 16-bit RIFF and SPHERE files need nothing else; other codings are left to soundfile.

    Args:
        path: the file.

    Returns:
        Samples in [-1, 1), and how many there are a second.

    Raises:
        DataError: The file is damaged, cut short or empty, or of a coding that needs soundfile
            and it is not installed.

    Source:
        NIST's description of SPHERE: a text header, whose length is its second line, of one field
        a line: name, type (``-i``, ``-s<length>``), value.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "1a.wav")
        ...     fields = "sample_rate -i 20000\nsample_byte_format -s2 10\nend_head\n"
        ...     header = ("NIST_1A\n   1024\n" + fields).ljust(1024).encode()
        ...     _ = file.write_bytes(header + bytes([64, 0, 192, 0]))
        ...     read_audio(file)
        (array([ 0.5, -0.5], dtype=float32), 20000)
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name another file") from error
    read = _sphere if content.startswith(SPHERE) else _riff
    found = read(content, path) or _soundfile(content, path)
    if not found[0].size:
        raise DataError(f"{path} holds no samples; fetch it again")
    return found


def _riff(content: bytes, path: Path) -> tuple[Samples, int] | None:
    """Read linear 16-bit RIFF; None for anything else."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            if file.getsampwidth() != 2:
                return None
            channels, rate, promised = file.getnchannels(), file.getframerate(), file.getnframes()
            data = file.readframes(promised)
    except (wave.Error, EOFError):
        return None
    return _mean(_words(data, "<i2"), channels, promised, path), rate


def _sphere(content: bytes, path: Path) -> tuple[Samples, int] | None:
    """Read linear 16-bit SPHERE; None for its other codings."""
    lines = content[:1024].decode("latin-1").splitlines()
    length = lines[1].strip() if len(lines) > 1 else ""
    if not length.isdecimal() or len(content) < int(length):
        raise DataError(f"{path} ends within its SPHERE header; fetch it again")
    header = content[: int(length)].decode("latin-1").splitlines()[2:]
    fields = {parts[0]: parts[2] for line in header if len(parts := line.split(None, 2)) == 3}
    coding, width = fields.get("sample_coding", "pcm"), fields.get("sample_n_bytes", "2")
    if coding != "pcm" or width != "2":
        return None
    try:
        rate, channels = int(fields["sample_rate"]), int(fields.get("channel_count", "1"))
        order = {"01": "<i2", "10": ">i2"}[fields.get("sample_byte_format", "01")]
        data = content[int(length) :]
        promised = int(fields.get("sample_count", len(data) // (2 * channels)))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"{path} has a SPHERE header without a valid rate, byte order or number of samples "
            f"({error}); fetch it again"
        ) from error
    return _mean(_words(data, order), channels, promised, path), rate


def _words(data: bytes, order: str) -> NDArray[np.int16]:
    return np.frombuffer(data[: len(data) // 2 * 2], order)


def _mean(values: NDArray[np.int16], channels: int, promised: int, path: Path) -> Samples:
    if channels < 1 or len(values) < promised * channels:
        raise DataError(
            f"{path} holds {len(values)} values where its header promises {promised} for each of "
            f"{channels} channels; fetch it again"
        )
    rows = values[: promised * channels].reshape(promised, channels)
    mean: Samples = (rows.mean(1, dtype=np.float64) / FULL).astype(np.float32)
    return mean


def _soundfile(content: bytes, path: Path) -> tuple[Samples, int]:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path} is no linear 16-bit wav or SPHERE file, the only ones read without soundfile: "
            "pip install soundfile, or convert it (SPHERE compressed by shorten: sph2pipe -f wav)"
        ) from error
    try:
        values, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(
            f"{path} is damaged or in a coding that soundfile does not know ({error}); convert it, "
            "SPHERE compressed by shorten by sph2pipe -f wav"
        ) from error
    return values.mean(1), int(rate)
