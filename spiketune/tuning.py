"""``spiketune tune``: train a spiking network, on one process or under torchrun on several."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

import spiketune as st
from spiketune.convert.method import brief
from spiketune.finetune import Epoch, Precision, Rule
from spiketune.finetune.distributed import find_processes, own_device
from spiketune.snn import Surrogate

from .options import Images, require_out, teaching, usable_device
from .progress import training_bar
from .start import Start, taught_by
from .untrained import Build

# The option is called --log_to and not --log: torchrun would take that for one of its own.


def tune(
    *,
    network: Path,
    steps: int,
    out: Path,
    epochs: int = 2,
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 64,
    workers: int = 0,
    augment: bool | str = False,
    num_classes: int | None = None,
    build: Build = Build(),  # noqa: B008
    unfold: bool = False,
    calibrate: Surrogate | None = None,
    rule: Rule | None = None,
    training: st.Training | None = None,
    hybrid: str | None = None,
    teacher: str | None = None,
    teacher_checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    log_to: Path | None = None,
    tensorboard: Path | None = None,
    device: str | None = None,
    precision: Precision = "auto",
    seed: int = 0,
) -> None:
    """Fine-tune a converted network to a few time steps, or train an untrained one.

    A checkpoint is written beside the result, after each epoch or more often; --resume true goes
    on from there. On several processes: `torchrun --nproc-per-node 2 -m spiketune tune ...`, where
    --batch is the batch size of one of them.

    Args:
        network: .safetensors file of `convert` or `tune`; or the name of a timm network, to train
            its spiking twin from scratch; or layers as papers write them, such as 32C5-P2-R400,
            the layer of the classes left out.
        steps: step budget to train for.
        out: .safetensors file to write.
        epochs: passes over the training images.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder, or over time
            mnist_saccades, nmnist, dvs_gesture, shd and others; its training and its test split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size.
        workers: processes that prepare the training images; 0 for none beside this one.
        augment: true to shift greyscale and to crop and flip colour images at random; or a policy
            of timm for colour images beside that, such as `rand-m9-mstd0.5`. Mixup, cutmix and
            random erasing are settings of --training.
        num_classes: outputs of a network to train from scratch, where the data do not tell.
        build: how a network to train from scratch is built.
        unfold: put BatchNorm on the currents of a converted network for the training, and fold it
            into the weights again afterwards.
        calibrate: slope that is scaled in every layer, before the first update and on up to 32
            training images, so that the gradient keeps its norm through depth; such as
            `--calibrate Triangle`. The rule leaves it then: SurrogateBPTT without a slope.
        rule: training rule and its settings, such as `--rule SLTT`; SurrogateBPTT by default.
        training: optimizer, rates, loss, ...; `--training.help` lists them.
        hybrid: rule and training of the paper whose recipe the network was converted with,
            rathi2020 or diet2021, in their place; `convert --recipe` converts with it.
        teacher: name of the pretrained network whose answers are learned beside the labels.
        teacher_checkpoint: local file with the teacher's weights; it is up to you then that it
            learned from images prepared as the network's are.
        checkpoint_every: write a checkpoint after so many updates too, not only after each epoch:
            a run that is killed loses no more than that.
        resume: go on from the last checkpoint, exactly as if it had never stopped.
        log_to: folder for updates and epochs as .csv and .jsonl.
        tensorboard: folder for TensorBoard; needs `pip install 'spiketune[tensorboard]'`.
        device: cpu, cuda, ...; the CPU by default.
        precision: auto is bfloat16 autocast on CUDA devices that have it, else float32.
        seed: of shuffling, augmentation, and the first weights of a network trained directly.
    """
    require_out(out, network=network, teacher_checkpoint=teacher_checkpoint)
    start = Start(
        network=network, steps=steps, num_classes=num_classes,
        build=build, unfold=unfold, calibrate=calibrate,
    )  # fmt: skip
    half = taught_by(rule, training, hybrid, epochs=epochs, start=start)
    if teacher is None and teacher_checkpoint is not None:
        raise st.SpiketuneError(
            "--teacher_checkpoint holds weights of a network that --teacher has to name; give both"
        )
    processes = find_processes()
    place = usable_device(str(own_device(device or "cpu", processes)))
    checkpoint = out.with_suffix(".checkpoint")
    torch.manual_seed(seed)  # the first weights of a network trained directly
    snn = start.first(data).to(place)
    if hybrid is not None and processes.lead:
        _say_what_else_converted(snn, hybrid)
    images = Images(
        data=data, root=root, limit=limit, batch=batch, augment=augment, workers=workers
    )
    known = None if teacher is None else teaching(teacher, teacher_checkpoint, snn).to(place)
    snn = start.ready(
        snn, images, half.rule, processes=processes, checkpoint=checkpoint if resume else None
    )
    mixes = bool(half.training.mixup or half.training.cutmix)
    loader = images.loader("train", snn, shuffle=True, even=mixes)
    test = images.loader("test", snn)
    try:
        with training_bar(f"tuning at T={steps}", epochs, shown=processes.lead) as on_batch:
            history = st.tune(
                snn, loader, half.rule, steps=steps, epochs=epochs, training=half.training,
                teacher=known, validate=test, checkpoint=checkpoint,
                checkpoint_every=checkpoint_every, resume=resume, device=place,
                precision=precision, seed=seed, log=log_to, tensorboard=tensorboard,
                on_batch=on_batch, on_epoch=_print_epoch,
            )  # fmt: skip
    except KeyboardInterrupt:
        _say_what_is_kept(checkpoint)
        raise
    if processes.lead:
        st.save(start.done(snn), out)
        last = history.epochs[-1]
        print(f"Test accuracy {last.validation:.2%} at T={steps}; saved as {out}")


def _say_what_is_kept(checkpoint: Path) -> None:
    kept = "Nothing was written yet."
    if checkpoint.exists():
        kept = (
            f"The last checkpoint is {checkpoint}; the same command with --resume true goes on "
            "from there."
        )
    print(f"\nStopped. {kept}", file=sys.stderr)


def _say_what_else_converted(snn: st.SpikingNetwork, hybrid: str) -> None:
    """Warn where a paper's training meets a network that was not converted with its recipe."""
    made = str(snn.about.get("method", ""))
    found = re.search(r"steps=(\d+)", made)
    if made and not made.startswith(brief(st.recipe(hybrid, int(found[1]) if found else 1))):
        print(
            f"Note: --hybrid {hybrid} is the training half of a paper, and this network is no "
            f"`convert --recipe {hybrid}` but {made}; what comes out is not the paper's.",
            file=sys.stderr,
        )


def _print_epoch(epoch: Epoch) -> None:
    validation = "" if epoch.validation is None else f", test accuracy {epoch.validation:.2%}"
    print(
        f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, training accuracy "
        f"{epoch.accuracy:.2%}{validation}, {epoch.seconds:.0f} s"
    )
