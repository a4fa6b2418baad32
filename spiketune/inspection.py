"""The commands that look and judge: what converts, what can be reached, where it is lost."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

import spiketune as st
from spiketune.convert import MSE, Method, Threshold
from spiketune.convert.method import Granularity
from spiketune.snn import Report
from spiketune.snn.fused.available import available
from spiketune.snn.fused.choices import current_path
from spiketune.snn.network import check_steps

from .options import Images, listed, method_of, points, usable_device
from .progress import bar


def check(
    *,
    model: str,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    image_size: int | None = None,
    method: Method | None = None,
    all: bool = False,
    json: Path | None = None,
) -> None:
    """Show what a conversion would do with each operation of a network, without converting it.

    Exits with 1 if anything in it has no rule, or nothing would spike.

    Args:
        model: timm or torchvision name, or a bundled one; `spiketune models` lists them.
        checkpoint: local .safetensors or .pth file with its weights.
        pretrained: whether to load trained weights; the report does not need them.
        num_classes: outputs, where they differ from the name's own.
        in_chans: channels of the images, where they differ.
        image_size: height and width of its images, where they differ from its own.
        method: the method to convert with, such as `--method Binary`; Graded by default.
        all: whether to list every single operation too; `--all` alone will do.
        json: file to write the report to, as well.
    """
    ann = st.load_ann(model, pretrained, checkpoint, num_classes, in_chans)
    batch = None
    if image_size is not None:
        check_steps(image_size, "image_size")
        channels = dict(ann.pretrained_cfg)["input_size"][0]  # type: ignore[arg-type]
        batch = torch.zeros(1, channels, image_size, image_size)
    report = st.check(ann, batch, method_of(method))
    fails = report.refused or not report.neurons
    verdict = "does not convert" if fails else "converts completely"
    print(
        f"{model} {verdict}: {report.neurons} neuron layers, {len(report.refused)} operations "
        f"without a rule, {report.dense_share:.1%} of operations stay dense.\n"
    )
    print(_grouped(report))
    if all:
        print(f"\n{report}")
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(report.to_json())
    if report.refused:
        first = report.refused[0]
        found = Counter(row.found for row in report.refused)
        names = ", ".join(f"{name} x{count}" for name, count in found.most_common())
        raise st.SpiketuneError(
            f"{model} does not convert, no rule for {names}; the first is "
            f"{first.path or 'the network itself'}: {first.note}"
        )
    if not report.neurons:
        raise st.SpiketuneError(
            f"{model} does not convert with {type(method_of(method)).__name__}, which has no "
            "neuron for any of its activations; leave --method out for Graded, whose neurons have "
            "both signs"
        )


def doctor(
    *,
    model: str | None = None,
    network: Path | None = None,
    out: Path = Path("runs/doctor"),
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 64,
    images: int = 64,
    steps: int | None = None,
    checkpoint: Path | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    method: Method | None = None,
    device: str | None = None,
) -> None:
    """Show where a spiking network loses what the ANN knew, layer by layer, and what to change.

    Args:
        model: timm or torchvision name, or a bundled one, to convert first; or give --network.
        network: .safetensors file of `convert` or `tune`, to look at as it is.
        out: folder for doctor.json and doctor.png.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder;
            its training split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size.
        images: how many training images are looked at.
        steps: step count; the network's own by default.
        checkpoint: local .safetensors or .pth file with the weights of --model.
        pretrained: whether to load trained weights for --model.
        num_classes: outputs of --model, where they differ from the name's own.
        in_chans: channels of its images, where they differ.
        method: how --model is converted, such as `--method Ternary --method.steps 8`; Graded by
            default.
        device: cpu, cuda, ...; the CPU by default.
    """
    place = usable_device(device)
    seen: nn.Module
    if (model is None) == (network is None):
        raise st.SpiketuneError(
            "give --model to convert one, or --network with a file; one of them"
        )
    if network is not None:
        seen, config = st.load(network).to(place), None
    else:
        assert model is not None
        seen = st.load_ann(model, pretrained, checkpoint, num_classes, in_chans).to(place)
        config = method_of(method)
    torch.manual_seed(0)  # the first images of a folder are all of one class: shuffled
    loader = Images(data=data, root=root, limit=limit, batch=batch).loader(
        "train", seen, shuffle=True
    )
    with bar("looking") as progress:
        found = st.doctor(seen, loader, config, steps=steps, limit=images, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    (out / "doctor.json").write_text(found.to_json() + "\n")
    print(found)
    print(f"\nNumbers and picture: {out / 'doctor.json'}, {found.plot(out / 'doctor.png')}")


def ceiling(
    *,
    model: str,
    levels: list[int] | int | str = "4,8,16,32",
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 64,
    per: Granularity = "channel",
    threshold: Threshold = MSE(),  # noqa: B008
    within: float = 1.0,
    checkpoint: Path | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    json: Path | None = None,
    device: str | None = None,
) -> None:
    """Show the best that so many levels can reach, without simulating: the quantised ANN.

    Args:
        model: timm or torchvision name, or a bundled one; `spiketune models` lists them.
        levels: one number of levels, several with commas between them, or a list.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder;
            thresholds come from its training split, accuracy from its test split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size.
        per: one threshold a channel or a layer.
        threshold: rule that balances the thresholds, such as `--threshold Percentile`.
        within: points below the ANN at which levels count as enough.
        checkpoint: local .safetensors or .pth file with its weights.
        pretrained: whether to load trained weights.
        num_classes: outputs, where they differ from the name's own.
        in_chans: channels of the images, where they differ.
        json: file to write the numbers to, as well.
        device: cpu, cuda, ...; the CPU by default.
    """
    place = usable_device(device)
    ann = st.load_ann(model, pretrained, checkpoint, num_classes, in_chans).to(place)
    torch.manual_seed(0)  # of shuffling
    images = Images(data=data, root=root, limit=limit, batch=batch)
    found = st.ceiling(
        ann, images.loader("test", ann), [_whole(name) for name in listed(levels)],
        calibration=images.loader("train", ann, shuffle=True), per=per, threshold=threshold,
    )  # fmt: skip
    enough = found.enough(within)
    print(found)
    print(
        f"\nNo number of levels tried comes within {points(within)} of the ANN."
        if enough is None
        else f"\n{enough} levels are the fewest tried within {points(within)} of the ANN."
    )
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(found.to_json() + "\n")


def recipes() -> None:
    """List the papers' methods by name, for `convert --recipe` and `sweep --recipes`."""
    for one in st.recipes():
        print(one)


def _grouped(report: Report) -> str:
    """Return a line for each kind of operation and what becomes of it, the most frequent first."""
    counts = Counter((row.found, row.became) for row in report.rows)
    width = max((len(found) for found, _ in counts), default=5)
    lines = [f"{'found':<{width}}  {'becomes':<8}  count"]
    lines += [
        f"{found:<{width}}  {became:<8}  {count:>5}"
        for (found, became), count in counts.most_common()
    ]
    return "\n".join(lines)


def _whole(name: str) -> int:
    try:
        return int(name)
    except ValueError:
        raise st.SpiketuneError(f"levels must be whole numbers, not {name!r}") from None


def info() -> None:
    """Show versions, devices, and how neurons run here: in kernels or step by step."""
    lines = {
        "spiketune": _version("spiketune"),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "timm": _version("timm"),
        "neurons": f"{current_path()} (SPIKETUNE_NEURONS, or st.neuron_path in Python)",
        **{f"neurons on {device}": words for device, words in available().items()},
    }
    for name, words in lines.items():
        print(f"{name:<16} {words}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its folder
        return "not installed"
