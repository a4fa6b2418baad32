"""The trainer: any registered rule, one loop, a checkpoint after every epoch or more often."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from spiketune.snn import SpikingNetwork, evaluating, timed_layers

from .batches import Loader, Precision, find_place
from .distributed import find_processes, own_device
from .errors import TuneError
from .history import History
from .logs import Calls, Log, OnBatch, OnEpoch, make_logs
from .losses import Objective
from .rules import Rule, require_neurons
from .run import Plan, Run
from .saving import Saving
from .training import Training


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
    checkpoint_every: int | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    log: str | Path | None = None,
    tensorboard: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> History:
    """Train a spiking network in place and return what happened.

    Afterwards ``snn.steps`` is ``steps``, ``snn.about`` says how it was tuned too (``method``,
    ``seconds`` and ``epochs`` add up over trainings), and the network is in evaluation mode.
    Interrupted or failed, it keeps the weights of the last update and its old ``steps``, and the
    last checkpoint stays on disk.

    The run is reproducible from ``seed`` wherever its randomness comes from torch, NumPy or
    Python's ``random``; the global generators are put back as they were. Worker processes kept
    alive between epochs (``persistent_workers``) are beyond its reach.

    Under ``torchrun`` every process calls this in the same way and trains on its share of the
    images: see ``finetune.distributed``. Process 0 alone writes files and calls back.

    Args:
        snn: converted or untrained, not folded.
        loader: yields ``(images, labels, ...)``; shuffled as it likes, mixed labels included.
        rule: settings of a registered rule, such as ``SurrogateBPTT()``.
        steps: step budget ``T`` to train for.
        epochs: passes over the loader; the schedule of the learning rate spans them all.
        teacher: network whose answers are learned beside the labels; left as it was.
        training: optimizer, rates, loss.
        validate: images whose accuracy is taken after every epoch.
        checkpoint: file to write before the first and after every epoch; it is taken away again
            where the run fails before its first update.
        checkpoint_every: write it after so many updates too: a run that is killed loses no more.
        resume: go on from ``checkpoint``, exactly as if the run had never stopped. Settings, the
            teacher's tensors, the number of images, the batch size, ``drop_last`` and the kind of
            sampler must be those of the start; another data set of the same size cannot be told
            from the first one. Within an epoch the loader is replayed up to where the run stopped,
            which costs its loading.
        device: where to move the network; it stays where it is by default.
        precision: ``auto`` is bfloat16 autocast on CUDA devices that have it, else float32.
        seed: of shuffling, augmentation and the rule's own draws.
        log: folder for ``updates`` and ``epochs``, each as ``.csv`` and ``.jsonl``.
        tensorboard: folder for TensorBoard's event files; needs the extra ``tensorboard``.
        on_epoch: called after each epoch, its checkpoint written.
        on_batch: called after each update, its checkpoint written.

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
    plan = Plan(
        rule=rule,
        steps=steps,
        epochs=epochs,
        training=training or Training(),
        seed=seed,
        teacher=teacher,
        validate=validate,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        checkpoint_every=checkpoint_every,
    )
    _check(snn, plan, resume)
    processes = find_processes()
    place = find_place(snn, own_device(device, processes), precision)
    processes = replace(processes, device=place.device)
    objective = Objective(snn, plan.training, steps=steps, teacher=teacher)
    run = Run(snn, loader, plan, objective, place=place, processes=processes)
    saving, logs = Saving(run), list[Log]()
    # Whatever may refuse the run comes before the first file: none is to block the next start.
    saving.open(resume)
    processes.alone(lambda: logs.extend(make_logs(_path(log), _path(tensorboard), resume)))
    try:
        with objective, nullcontext() if teacher is None else evaluating(teacher):
            processes.alone(lambda: run.begin(logs))
            with saving.begun(resume):
                run.train(Calls(on_batch, on_epoch) if processes.lead else Calls(), saving.save)
    finally:
        snn.eval()
        run.optimizer.zero_grad()
        for each in logs:
            each.close()
    return run.history


def _check(snn: SpikingNetwork, plan: Plan, resume: bool) -> None:
    for name in ("steps", "epochs", "checkpoint_every"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise TuneError(f"{name} must be at least 1, not {value}")
    if not (isinstance(snn, SpikingNetwork) and timed_layers(snn)):
        require_neurons(snn)
    if resume and plan.checkpoint is None:
        raise TuneError("resume needs the checkpoint to go on from; give checkpoint=PATH")
    if plan.checkpoint_every and plan.checkpoint is None:
        raise TuneError("checkpoint_every needs a file to write; give checkpoint=PATH")
    if plan.teacher is snn:
        raise TuneError("a network cannot be its own teacher; give the ANN it was made from")


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
