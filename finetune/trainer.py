"""The trainer: any registered rule, one loop, a checkpoint after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from spiketune.snn import SpikingNetwork, evaluating
from spiketune.snn.settings import encode

from . import checkpoint as storage
from .about import tuned
from .batches import Loader, Place, Precision, count, find_place, sizes, unpack
from .bounds import floors, keep_within
from .errors import TuneError
from .history import Epoch, History
from .losses import ask, criterion
from .randomness import generators, restore, seeded
from .rules import Batch, Rule, Task, prepare, require_neurons
from .training import Training, make_optimizer, make_schedule

OnBatch = Callable[[int, int, float], None]
OnEpoch = Callable[[Epoch], None]


def tune(
    snn: SpikingNetwork,
    loader: Loader,
    rule: Rule,
    *,
    steps: int,
    epochs: int,
    teacher: nn.Module | None = None,
    training: Training | None = None,
    validate: Loader | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> History:
    """Train a spiking network in place and return what happened.

    Afterwards ``snn.steps`` is ``steps``, ``snn.about`` says how it was tuned too (``method``,
    ``seconds`` and ``epochs`` add up over trainings), and the network is in evaluation mode.
    Interrupted or failed, it keeps the weights of the last update and its old ``steps``, and the
    checkpoint of the last whole epoch stays on disk.

    The run is reproducible from ``seed`` wherever its randomness comes from torch or Python's
    ``random``; the global generators are put back after each epoch. Worker processes kept alive
    between epochs (``persistent_workers``) and numpy in the main process are beyond its reach.

    Args:
        snn: converted or untrained, not folded.
        loader: yields ``(images, labels, ...)``; shuffled as it likes.
        rule: settings of a registered rule, such as ``SurrogateBPTT()``.
        steps: step budget ``T`` to train for.
        epochs: passes over the loader; the learning rate's cosine spans them all.
        teacher: network whose answers are learned beside the labels; left as it was.
        training: optimizer, rates, loss.
        validate: images whose accuracy is taken after every epoch.
        checkpoint: file to write before the first and after every epoch.
        resume: go on from ``checkpoint``, exactly as if the run had never stopped. Settings, the
            teacher's tensors, the batch size and the number of images must be those of the start;
            another data set of the same size cannot be told from the first one.
        device: where to move the network; it stays where it is by default.
        precision: ``auto`` is bfloat16 autocast on CUDA devices that have it, else float32.
        seed: of shuffling, augmentation and the rule's own draws.
        on_epoch: called after each epoch, its checkpoint written.
        on_batch: called after each update with epoch and batch, from 1, and the loss.

    Returns:
        The history of all epochs, those before a resume included.

    Raises:
        TuneError: on anything that cannot be trained, with the remedy.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> x, labels = torch.rand(16, 1, 2, 2), torch.arange(16) % 3
        >>> snn = st.to_snn(ann, x, st.Ternary(steps=8))
        >>> history = tune(snn, [(x, labels)], st.SurrogateBPTT(), steps=4, epochs=2, teacher=ann)
        >>> len(history.epochs), snn.steps
        (2, 4)
    """
    _check(snn, teacher, steps=steps, epochs=epochs, checkpoint=checkpoint, resume=resume)
    training = training or Training()
    place = find_place(snn, None if device is None else torch.device(device), precision)
    run = _Run(
        snn, loader, rule, Task(steps=steps, criterion=criterion(training, snn.read)), place,
        training=training, epochs=epochs, seed=seed, teacher=teacher, validate=validate,
        on_batch=on_batch,
    )  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        run.open(path, resume)
    try:
        with nullcontext() if teacher is None else evaluating(teacher):
            run.train(epochs, path, on_epoch)
    finally:
        snn.eval()
        run.optimizer.zero_grad()
    snn.steps = steps
    # Not the network's own, which may hold this very run where a finished one is resumed.
    snn.about = tuned(run.about, run.history, rule, steps=steps, training=training)
    return run.history


def _check(
    snn: SpikingNetwork,
    teacher: nn.Module | None,
    *,
    steps: int,
    epochs: int,
    checkpoint: str | Path | None,
    resume: bool,
) -> None:
    for name, value in (("steps", steps), ("epochs", epochs)):
        if value < 1:
            raise TuneError(f"{name} must be at least 1, not {value}")
    require_neurons(snn)
    if resume and checkpoint is None:
        raise TuneError("resume needs the checkpoint to go on from; give checkpoint=PATH")
    if teacher is snn:
        raise TuneError("a network cannot be its own teacher; give the ANN it was made from")


class _Run:
    """One run under way: what an epoch needs, and what a checkpoint holds."""

    def __init__(
        self,
        snn: SpikingNetwork,
        loader: Loader,
        rule: Rule,
        task: Task,
        place: Place,
        *,
        training: Training,
        epochs: int,
        seed: int,
        teacher: nn.Module | None,
        validate: Loader | None,
        on_batch: OnBatch | None,
    ) -> None:
        self.snn, self.loader, self.task, self.place = snn, loader, task, place
        self.seed, self.teacher, self.validate, self.on_batch = seed, teacher, validate, on_batch
        self.clip_grad = training.clip_grad
        self.batches = count(loader)
        if validate is not None:
            count(validate, "validation loader")
        self.learn = prepare(snn, rule, task)
        self.optimizer = make_optimizer(snn, training)
        self.schedule = make_schedule(self.optimizer, training, self.batches * epochs)
        self.floors = floors(snn)
        self.history, self.about = History(), dict(snn.about)
        self.settings: storage.Settings = {
            "rule": encode(rule),
            "training": encode(training),
            "steps": task.steps,
            "epochs": epochs,
            "seed": seed,
            **sizes(loader),
            "bfloat16": place.autocast,
        }

    def open(self, path: Path, resume: bool) -> None:
        """Go on from the checkpoint at ``path``, or write the first one there."""
        self.network = storage.fingerprint(self.snn)
        self.settings["teacher"] = storage.identity(self.teacher)
        if not resume:
            if path.exists():
                raise TuneError(
                    f"{path}: holds an earlier run; pass resume=True (--resume true on the command "
                    "line) to go on with it, or give another checkpoint= (another --out)"
                )
            self.save(path)
            return
        found = storage.read(path, self.place.device)
        storage.check_fits(path, found, self.network, self.settings)
        restore(self.loader, found.generators)
        self.snn.load_state_dict(found.model)
        self.optimizer.load_state_dict(found.optimizer)
        self.floors, self.history, self.about = found.floors, found.history, found.about

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        state = storage.Checkpoint(
            network=self.network,
            settings=self.settings,
            about=self.about,
            history=self.history,
            model=self.snn.state_dict(),
            optimizer=self.optimizer.state_dict(),
            floors=self.floors,
            generators=[generator.get_state() for generator in generators(self.loader)],
        )
        storage.write(path, state)

    def train(self, epochs: int, path: Path | None, on_epoch: OnEpoch | None) -> None:
        """Train the epochs still to do."""
        while len(self.history.epochs) < epochs:
            done = self.epoch(len(self.history.epochs) + 1)
            self.history = History((*self.history.epochs, done))
            if path is not None:
                self.save(path)
            if on_epoch is not None:
                on_epoch(done)

    def epoch(self, number: int) -> Epoch:
        """Train on every batch once and return what came of it."""
        start = time.perf_counter()
        total = right = images = 0.0
        with seeded(self.seed, number, self.place.device):
            self.snn.train()
            for place, raw in enumerate(self.loader, 1):
                batch = self._batch(raw, f"epoch {number}, batch {place}")
                loss, correct = self._update(batch, number, place)
                total += loss * len(batch.images)
                right += correct
                images += len(batch.images)
            self.snn.eval()
            validation = None if self.validate is None else self._accuracy(self.validate)
        return Epoch(
            epoch=number,
            images=int(images),
            loss=total / images,
            accuracy=right / images,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=time.perf_counter() - start,
            validation=validation,
        )

    def _batch(self, raw: Sequence[Tensor], where: str) -> Batch:
        images, labels = unpack(raw, self.place, where)
        with self.place.precision():
            return Batch(images, labels, ask(self.teacher, images, self.place.classes))

    def _update(self, batch: Batch, epoch: int, place: int) -> tuple[float, int]:
        """Learn from one batch; return its loss and how many answers were right."""
        self.schedule.step_update((epoch - 1) * self.batches + place - 1)
        self.optimizer.zero_grad()
        with self.place.precision():
            outcome = self.learn(batch)
        norm = nn.utils.clip_grad_norm_(self._trained(), self.clip_grad or math.inf)
        loss = outcome.loss.item()
        # A membrane that is not a number never fires: the loss may look well while the gradient,
        # and with the next update every weight, is lost.
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rate = self.optimizer.param_groups[0]["lr"]
            raise TuneError(
                f"epoch {epoch}, batch {place}: the loss is {loss:.4g} with a gradient of norm "
                f"{norm:.4g} at a learning rate of {rate:.2g}; lower it, for example "
                f"Training(learning_rate={rate / 10:.1g}) (--training.learning_rate on the command "
                "line), and check the images for nan"
            )
        self.optimizer.step()
        keep_within(self.snn, self.floors)
        if self.on_batch is not None:
            self.on_batch(epoch, place, loss)
        return loss, int((outcome.answers.argmax(1) == batch.labels).sum())

    def _trained(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _accuracy(self, loader: Loader) -> float:
        """Return the share of a loader's images that the network answers rightly."""
        right = images = 0
        with torch.no_grad(), self.place.precision():
            for number, raw in enumerate(loader, 1):
                x, labels = unpack(raw, self.place, f"validation batch {number}")
                right += int((self.snn(x, self.task.steps).argmax(1) == labels).sum())
                images += len(x)
        return right / images
