"""What a run tells while it goes on: CSV and JSONL files, TensorBoard, the caller's functions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Protocol

from spiketune.snn.files import whole_file

from .errors import TuneError
from .history import Epoch, Update

OnBatch = Callable[[Update], None]
OnEpoch = Callable[[Epoch], None]


class Log(Protocol):
    """What is told of every update and every epoch.

    Example:
        >>> log: Log = Board(Path("runs/board"))  # doctest: +SKIP
    """

    def start(self, updates: int, epochs: int) -> None:
        """Begin after so many updates and whole epochs; forget what was told after them."""

    def update(self, done: Update) -> None:
        """Take note of an update."""

    def epoch(self, done: Epoch) -> None:
        """Take note of an epoch."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True)
class Calls:
    """The caller's own functions.

    Attributes:
        on_batch: called after each update, None for nothing.
        on_epoch: called after each epoch.

    Example:
        >>> epoch = Epoch(
        ...     epoch=1, images=9, loss=0.5, accuracy=0.8, learning_rate=1e-3, seconds=2.0
        ... )
        >>> Calls(on_epoch=lambda done: print(done.loss)).epoch(epoch)
        0.5
    """

    on_batch: OnBatch | None = None
    on_epoch: OnEpoch | None = None

    def update(self, done: Update) -> None:
        """Call the function for updates."""
        if self.on_batch is not None:
            self.on_batch(done)

    def epoch(self, done: Epoch) -> None:
        """Call the function for epochs."""
        if self.on_epoch is not None:
            self.on_epoch(done)


class Files:
    """``updates`` and ``epochs``, each as ``.csv`` and ``.jsonl``, a line as soon as it is known.

    A run that is resumed goes on behind the last line that its checkpoint knows of, so that the
    files are those of a run that never stopped, but for the seconds.

    Args:
        folder: where they go.
        resume: whether files of an earlier run belong to this one.

    Raises:
        TuneError: if there are such files and the run is not resumed, or they cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Files(Path(folder) / "log", resume=False)
        ...     log.start(0, 0)
        ...     log.epoch(Epoch(
        ...         epoch=1, images=9, loss=0.5, accuracy=0.8, learning_rate=1e-3, seconds=2.0
        ...     ))
        ...     log.close()
        ...     print((Path(folder) / "log" / "epochs.csv").read_text().splitlines()[1])
        1,9,0.5,0.8,0.001,2.0,
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self._tables = [_Table(folder, "updates", Update), _Table(folder, "epochs", Epoch)]
        earlier = [table.lines for table in self._tables if table.told]
        if earlier and not resume:
            raise TuneError(
                f"{earlier[0]}: the log of an earlier run; give another log= (--log_to on the "
                "command line) or resume that run"
            )

    def start(self, updates: int, epochs: int) -> None:
        """Open the files behind the lines of so many updates and epochs."""
        for table, known in zip(self._tables, (updates, epochs), strict=True):
            table.open(known)

    def update(self, done: Update) -> None:
        """Write an update."""
        self._tables[0].write(asdict(done))

    def epoch(self, done: Epoch) -> None:
        """Write an epoch."""
        self._tables[1].write(asdict(done))

    def close(self) -> None:
        """Close the files."""
        for table in self._tables:
            table.close()


class _Table:
    """One kind of record, in two files."""

    def __init__(self, folder: Path, name: str, record: type[Update] | type[Epoch]) -> None:
        self.folder, self.key = folder, name[:-1]
        self.lines, self.rows = folder / f"{name}.jsonl", folder / f"{name}.csv"
        self.columns = [field.name for field in fields(record)]
        self._open: list[IO[str]] = []

    @property
    def told(self) -> bool:
        """Whether it holds anything; a start that failed leaves an empty one."""
        return self.lines.exists() and self.lines.stat().st_size > 0

    def open(self, known: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = [record for record in self._earlier() if record[self.key] <= known]
            _replace(self.lines, "".join(map(_line, kept)))
            _replace(self.rows, ",".join(self.columns) + "\n" + "".join(map(self._row, kept)))
            self._open = [path.open("a", encoding="utf-8") for path in (self.lines, self.rows)]
        except OSError as error:
            raise self._failed(error) from error

    def write(self, record: dict[str, Any]) -> None:
        try:
            for file, text in zip(self._open, (_line(record), self._row(record)), strict=True):
                file.write(text)
                file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        for file in self._open:
            with suppress(OSError):  # what a full disk did not take was told when it was written
                file.close()
        self._open = []

    def _earlier(self) -> list[dict[str, Any]]:
        """Return the records of before; a killed run may have left half a line."""
        if not self.lines.exists():
            return []
        found = []
        for line in self.lines.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(record, dict) or set(record) != set(self.columns):
                raise TuneError(
                    f"{self.lines}: not the log of such a run; give another log= (--log_to on the "
                    "command line)"
                )
            found.append(record)
        return found

    def _row(self, record: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerow(record)
        return text.getvalue()

    def _failed(self, error: OSError) -> TuneError:
        return TuneError(
            f"{self.folder}: the log cannot be written ({error}); free some space or give another "
            "log= (--log_to on the command line)"
        )


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


class Board:
    """TensorBoard's event files; needs the extra ``tensorboard``.

    Args:
        folder: where they go.

    Raises:
        TuneError: if the package is not installed.

    Example:
        >>> Board(Path("runs/board"))  # doctest: +SKIP
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TuneError(
                "TensorBoard is not installed; pip install 'spiketune[tensorboard]', or leave "
                "tensorboard= out (--tensorboard on the command line)"
            ) from error
        self._make: Callable[..., Any] = SummaryWriter
        self._folder, self._updates = folder, 0
        self._writer: Any = None

    def start(self, updates: int, epochs: int) -> None:
        """Begin after so many updates; what was shown after them is hidden."""
        self._updates = updates
        self._writer = self._make(str(self._folder), purge_step=updates + 1 if updates else None)

    def update(self, done: Update) -> None:
        """Show an update."""
        self._updates = done.update
        for name in ("loss", "accuracy", "learning_rate", "gradient_norm"):
            self._writer.add_scalar(f"update/{name}", getattr(done, name), done.update)

    def epoch(self, done: Epoch) -> None:
        """Show an epoch, at its last update."""
        for name in ("loss", "accuracy", "validation", "seconds"):
            value = getattr(done, name)
            if value is not None:
                self._writer.add_scalar(f"epoch/{name}", value, self._updates)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()


def make_logs(log: Path | None, tensorboard: Path | None, resume: bool) -> list[Log]:
    """Return the files that are to be told.

    Raises:
        TuneError: if they cannot be.
    """
    files: list[Log] = [] if log is None else [Files(log, resume)]
    boards: list[Log] = [] if tensorboard is None else [Board(tensorboard)]
    return [*files, *boards]
