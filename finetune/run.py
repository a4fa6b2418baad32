"""A run under way: epochs and updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spiketune.snn import SpikingNetwork
from spiketune.snn.room import within_memory

from .about import tuned
from .averaging import Average
from .batches import Loader, Place, count, counted, unpack
from .blame import advice, blame
from .bounds import floors, keep_within
from .distill import ask
from .distributed import (
    Processes,
    begin_epoch,
    require_equal_lengths,
    require_one_network,
    share,
)
from .errors import TuneError
from .gradients import Gradients
from .history import Epoch, History, Tally, Update
from .logs import Calls, Log
from .losses import Objective
from .mixing import mixing, right_classes
from .optimizers import make_optimizer
from .randomness import mixed, seeded, states
from .rules import Batch, Rule, Task, prepare
from .schedules import make_schedule
from .training import Training
from .validation import accuracy


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run was asked for; its fields are the arguments of ``tune``."""

    rule: Rule
    steps: int
    epochs: int
    training: Training
    seed: int
    teacher: nn.Module | None
    validate: Loader | None
    checkpoint: Path | None
    checkpoint_every: int | None


class Run:
    """One run under way: what the next update depends on.

    Args:
        snn: the network that learns.
        loader: its images.
        plan: what to do with them.
        objective: the criterion.
        place: where the network is.
        processes: those that train together.
    """

    def __init__(
        self,
        snn: SpikingNetwork,
        loader: Loader,
        plan: Plan,
        objective: Objective,
        *,
        place: Place,
        processes: Processes,
    ) -> None:
        self.snn, self.plan, self.place, self.processes = snn, plan, place, processes
        self.loader = share(loader, processes, plan.seed)
        self.batches = count(self.loader)
        require_equal_lengths(self.batches, processes)
        if plan.validate is not None:
            count(plan.validate, "validation loader")
        require_one_network(snn, processes)
        processes.spread(snn)
        self.gradients, self.common = Gradients(processes), torch.Generator()
        task = Task(
            steps=plan.steps,
            criterion=objective,
            backward=self.gradients.backward,
            show=objective.show,
            common=self.common,
            begun=lambda: self.begun,
        )
        self.learn = prepare(snn, plan.rule, task)
        self.optimizer = make_optimizer(snn, plan.training)
        self.gradients.watch(self.optimizer)
        self.updates = math.ceil(self.batches / plan.training.accumulate)
        self.schedule = make_schedule(
            self.optimizer, plan.training, epochs=plan.epochs, updates=self.updates
        )
        self.average = None if plan.training.ema is None else Average(snn, plan.training.ema)
        self.mix = mixing(plan.training, place.classes)
        self.floors = floors(snn)
        self.history, self.tally, self.about = History(), Tally(), dict(snn.about)
        self.streams = states(self.loader)
        self.logs: Sequence[Log] = ()
        # Of the batches since the last update: what they came to, and the one to suspect.
        self.group, self.suspect = Tally(), torch.empty(0)

    @property
    def done(self) -> int:
        """How many updates were made."""
        within = math.ceil(self.tally.batch / self.plan.training.accumulate)
        return len(self.history.epochs) * self.updates + within

    @property
    def begun(self) -> bool:
        """Whether any update was made."""
        return bool(self.history.epochs or self.tally.images)

    def begin(self, logs: Sequence[Log]) -> None:
        """Open the logs where the run stands; they are told what happens from now on."""
        self.logs = logs
        for log in logs:
            log.start(self.done, len(self.history.epochs))

    def train(self, calls: Calls, save: Callable[[], None]) -> None:
        """Train the epochs still to do, and leave the network as the run was to leave it.

        Args:
            calls: the caller's functions that are told what happens, after a checkpoint is
                written; the logs are before it.
            save: writes a checkpoint, if there is to be one.
        """
        self.calls, self.save = calls, save
        while len(self.history.epochs) < self.plan.epochs:
            done = self.epoch(len(self.history.epochs) + 1)
            self.history = History((*self.history.epochs, done))
            self.tally, self.streams = Tally(), states(self.loader)
            for log in self.logs:
                log.epoch(done)
            save()
            calls.epoch(done)
        if self.average is not None:
            self.snn.load_state_dict(self.average.tensors)
        plan, self.snn.steps = self.plan, self.plan.steps
        # Not the network's own account, which may hold this very run where it is resumed.
        self.snn.about = tuned(
            self.about, self.history, plan.rule, steps=plan.steps, training=plan.training
        )

    def epoch(self, number: int) -> Epoch:
        """Train on every batch once, those skipped that a checkpoint has done already."""
        self.start = time.perf_counter() - self.tally.seconds
        skipped = self.tally.batch
        begin_epoch(self.loader, number)
        self.optimizer.zero_grad()
        with self._seeded(number):
            self.snn.train()
            for batch, raw in enumerate(counted(self.loader, self.batches, f"epoch {number}"), 1):
                if batch > skipped:
                    self._batch(raw, number, batch)
            self.snn.eval()
        validation = self._validation(number)
        (seconds,) = self.processes.total(time.perf_counter() - self.start)
        return Epoch(
            epoch=number,
            images=self.tally.images,
            loss=self.tally.loss / self.tally.images,
            accuracy=self.tally.right / self.tally.images,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=seconds / self.processes.count,
            validation=validation,
        )

    def _seeded(self, *place: int) -> AbstractContextManager[None]:
        rank = f"process {self.processes.rank}"
        return seeded(self.plan.seed, *place, rank, device=self.place.device)

    def _batch(self, raw: Sequence[Tensor], epoch: int, number: int) -> None:
        """Learn from one batch, and make an update of it if it closes a group."""
        where = f"epoch {epoch}, batch {number}"
        self.common.manual_seed(mixed(self.plan.seed, epoch, number, "common"))
        with self._seeded(epoch, number):
            images, labels = unpack(raw, self.place, where)
            if self.mix is not None:
                images, labels = self.mix(images, labels, where)
            self.gradients.begin(len(images))
            steps = self.plan.steps
            with self.place.precision(), within_memory(self.snn, images, steps, chunk=steps):
                taught = ask(self.plan.teacher, images, self.place.classes)
                outcome = self.learn(Batch(images, labels, taught))
            loss = outcome.loss.item()
            right = outcome.answers.argmax(1) == right_classes(labels)
            if math.isfinite(self.group.loss):
                self.suspect = images
            self.group.add(len(images), loss=loss * len(images), right=int(right.sum()))
            # The caller's functions too may draw at random without moving the loader's stream.
            if number % self.plan.training.accumulate == 0 or number == self.batches:
                self.tally.batch = number
                self._update(epoch, number, where)

    def _update(self, epoch: int, number: int, where: str) -> None:
        """Move the weights by what the batches of a group, in all processes, have asked for."""
        self.schedule.step_update(self.done - 1)
        images = self.gradients.finish()
        norm = self.gradients.norm()
        loss, right = self.processes.total(self.group.loss, float(self.group.right))
        self._check(loss / images, float(norm), where)
        self.gradients.clip(self.plan.training.clip_grad, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        keep_within(self.snn, self.floors)
        self.processes.average_norms(self.snn)
        if self.average is not None:
            self.average.update(self.snn, self.done)
        self.tally.add(images, loss=loss, right=round(right))
        self.tally.seconds = time.perf_counter() - self.start
        self.group = Tally()
        done = Update(
            update=self.done,
            epoch=epoch,
            batch=number,
            batches=self.batches,
            images=images,
            loss=loss / images,
            accuracy=right / images,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=float(norm),
            seconds=self.tally.seconds,
        )
        for log in self.logs:
            log.update(done)
        every = self.plan.checkpoint_every
        if every and self.done % every == 0 and number < self.batches:
            self.save()
        self.calls.update(done)

    def _check(self, loss: float, norm: float, where: str) -> None:
        """Stop a run that broke down, before its weights move.

        A membrane that is not a number never fires: the loss may look well while the gradient, and
        with the next update every weight, is lost.
        """
        training = self.plan.training
        bound = (training.explodes_at or math.inf) * math.log(max(2, self.place.classes))
        if math.isfinite(loss) and math.isfinite(norm) and loss <= bound:
            return
        rate = self.optimizer.param_groups[0]["lr"]
        named = blame(self.snn, self.suspect, self.plan.steps, self.place.precision())
        raise TuneError(
            f"{where}: the loss is {loss:.4g} with a gradient of norm {norm:.4g} at a learning "
            f"rate of {rate:.2g}, and {named}; "
            f"{advice(training.learning_rate, training.clip_grad, self.place.autocast)}"
        )

    def _validation(self, epoch: int) -> float | None:
        loader = self.plan.validate
        if loader is None:
            return None
        network = self.snn if self.average is None else self.average.network
        # All processes seeded alike: a validation loader that shuffles does so in step.
        with seeded(self.plan.seed, epoch, "validation", device=self.place.device):
            return accuracy(network, loader, self.plan.steps, self.place, self.processes)
