"""Write files so that they appear whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give a place beside ``path`` to write to; after the block it takes the place of ``path``.

    After an error nothing is left of it, and ``path`` is what it was.

    Args:
        path: the file; its folder is made where missing.
        shared: whether others may write the same file at once: each then has a place of its own.

    Raises:
        OSError: if it cannot be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.txt"
        ...     with whole_file(path) as partial:
        ...         _ = partial.write_text("all of it")
        ...     path.read_text(), len(os.listdir(folder))
        ('all of it', 1)
    """
    own = f".{os.getpid()}-{threading.get_ident()}" if shared else ""
    partial = path.with_name(f"{path.name}{own}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
