"""What of a run goes into its checkpoint, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spiketune.snn.settings import encode

from . import checkpoint as storage
from .batches import outline
from .randomness import restore
from .run import Run


class Saving:
    """The checkpoint of a run, where it is to have one.

    Args:
        run: about to start.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.path = run, run.plan.checkpoint

    def open(self, resume: bool) -> None:
        """Go on from the checkpoint, or make sure that there is none; nothing is written."""
        path = self.path
        if path is None:
            return
        self.network = storage.fingerprint(self.run.snn)
        self.settings = _settings(self.run)
        if resume:
            self._resume(path)
        else:
            self.run.processes.alone(lambda: storage.require_free(path))

    @contextmanager
    def begun(self, resume: bool) -> Iterator[None]:
        """Write the first checkpoint; take it away again if the run fails before an update.

        What it started with may have to change then, and it holds nothing to go on from.
        """
        if not resume:
            self.save()
        try:
            yield
        except Exception:
            if self.path and self.run.processes.lead and not (resume or self.run.begun):
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
            raise

    def save(self) -> None:
        """Write everything that the next update depends on."""
        path, run = self.path, self.run
        if path is None:
            return
        state = storage.Checkpoint(
            network=self.network,
            settings=self.settings,
            about=run.about,
            history=run.history,
            tally=run.tally,
            model=run.snn.state_dict(),
            average=None if run.average is None else run.average.tensors,
            optimizer=run.optimizer.state_dict(),
            floors=run.floors,
            generators=run.processes.everywhere(run.streams),
        )
        run.processes.alone(lambda: storage.write(path, state))

    def _resume(self, path: Path) -> None:
        run, found = self.run, storage.read(path)
        storage.check_fits(path, found, self.network, self.settings)
        run.streams = found.generators[run.processes.rank]
        restore(run.loader, run.streams)
        run.snn.load_state_dict(found.model)
        run.optimizer.load_state_dict(found.optimizer)
        if run.average is not None and found.average is not None:
            run.average.load(found.average)
        run.floors = {k: v.to(run.place.device) for k, v in found.floors.items()}
        run.history, run.tally, run.about = found.history, found.tally, found.about


def _settings(run: Run) -> storage.Settings:
    training = encode(run.plan.training)
    del training["explodes_at"]  # changes no result, and may be what has to change
    return {
        "rule": encode(run.plan.rule),
        "training": training,
        "steps": run.plan.steps,
        "epochs": run.plan.epochs,
        "seed": run.plan.seed,
        **outline(run.loader),
        "bfloat16": run.place.autocast,
        "processes": run.processes.count,
        "teacher": storage.identity(run.plan.teacher),
    }
