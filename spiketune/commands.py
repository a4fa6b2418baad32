"""What the command line does, one function a command; arguments and help come from here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

import spiketune as st
from spiketune.compare.runners import require_steps
from spiketune.convert import Method
from spiketune.convert.images import collect

from .options import (
    Images,
    listed,
    method_of,
    points,
    reference,
    require_out,
    require_same_images,
    usable_device,
)
from .precision import agreement
from .progress import bar, bars


def models(
    pattern: str = "*",
    source: Literal["bundled", "pypi", "timm", "torchvision"] | None = None,
) -> None:
    """List the networks that can be loaded, such as `spiketune models --pattern "resnet*"`.

    Args:
        pattern: names to show, with * and ?.
        source: only those from there.
    """
    found = st.list_models(pattern, source)
    if not found:
        raise st.SpiketuneError(f"no network's name matches {pattern!r}; try a wider --pattern")
    for info in found:
        weights = "pretrained" if info.pretrained else "untrained"
        print(f"{info.name:<44} {info.source:<12} {weights:<11} {info.note}".rstrip())


def convert(
    *,
    model: str,
    out: Path,
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 64,
    checkpoint: Path | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    method: Method | None = None,
    recipe: str | None = None,
    steps: int | None = None,
    device: str | None = None,
) -> None:
    """Convert a pretrained network into a spiking one and save it.

    Args:
        model: timm or torchvision name, or a bundled one; `spiketune models` lists them.
        out: .safetensors file to write.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder;
            calibration reads its training split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size.
        checkpoint: local .safetensors or .pth file with its weights.
        pretrained: whether to load trained weights.
        num_classes: outputs, where they differ from the name's own.
        in_chans: channels of the images, where they differ.
        method: Graded, Ternary, Phase, Burst or Binary and its settings, such as
            `--method Ternary --method.steps 8`; Graded by default.
        recipe: a paper's method in place of --method, such as `--recipe rathi2020 --steps 8`;
            `spiketune recipes` lists them.
        steps: step count that --recipe is made for.
        device: cpu, cuda, ...; the CPU by default.
    """
    require_out(out, checkpoint=checkpoint)
    place, config = usable_device(device), _recipe_or(method, recipe, steps)
    ann = st.load_ann(model, pretrained, checkpoint, num_classes, in_chans).to(place)
    # Shuffled, because the first images of a folder are all of one class.
    torch.manual_seed(0)
    images = Images(data=data, root=root, limit=limit, batch=batch)
    loader = images.loader("train", ann, shuffle=True)
    with bar("calibrating") as progress:
        snn = st.to_snn(ann, loader, config, progress=progress)
    st.save(snn, out)
    print(snn.report.summary)
    print(
        f"Balanced on {snn.about['calibration_images']} training images of {data} "
        f"in {snn.about['seconds']:.1f} s; saved as {out}"
    )


def _recipe_or(method: Method | None, recipe: str | None, steps: int | None) -> Method:
    """Return the method that --method names, or --recipe and --steps."""
    if recipe is None:
        if steps is not None:
            raise st.SpiketuneError(
                f"--steps {steps} goes with --recipe; give --method.steps {steps} behind --method"
            )
        return method_of(method)
    if method is not None:
        raise st.SpiketuneError(
            f"--recipe {recipe} is a method with all its settings; leave --method out, or --recipe"
        )
    if steps is None:
        raise st.SpiketuneError(
            f"--recipe {recipe} is made for a number of steps; give --steps, such as --steps 8"
        )
    return st.recipe(recipe, steps)


def sweep(
    *,
    networks: list[str] | str = "",
    recipes: list[str] | str = "",
    recipe_steps: int = 16,
    steps: int = 32,
    within: float = 1.0,
    out: Path = Path("runs/sweep"),
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 64,
    ann: str | None = None,
    ann_checkpoint: Path | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str | None = None,
) -> None:
    """Compare spiking networks at every step budget: accuracy, spikes, operations, energy, time.

    Args:
        networks: .safetensors files of `convert` or `tune`: one, several with commas between
            them, or a list.
        recipes: papers' methods that --ann is converted with first, on training images; named
            like the networks. `spiketune recipes` lists them.
        recipe_steps: step count that the recipes are made for.
        steps: largest budget; all from 1 on come out of one simulation.
        within: points below the ANN at which a budget counts as enough.
        out: folder for table.csv, table.json, curves.png and report.html.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder;
            its test split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size.
        ann: name of the pretrained network, for its own row and the agreement with it.
        ann_checkpoint: local file with its weights.
        precision: of the layers of all networks, the ANN's too; for bfloat16, how far that takes
            the spiking ones from their answers in float32 is shown. Neurons stay in float32.
        device: cpu, cuda, ...; the CPU by default.
    """
    place = usable_device(device)
    methods = {name: st.recipe(name, recipe_steps) for name in listed(recipes)}
    if methods and ann is None:
        raise st.SpiketuneError("recipes need a network to convert; name it with --ann")
    if not 0 <= within <= 100:
        raise st.SpiketuneError(f"within must be from 0 to 100 points, not {within:g}")
    spiking = _networks(listed(networks), taken=(*methods, ann))
    require_steps(spiking, steps)
    compared: dict[str, nn.Module] = {}
    images = Images(data=data, root=root, limit=limit, batch=batch)
    if ann is not None:
        compared[ann] = reference(ann, ann_checkpoint, next(iter(spiking.values()), None))
        compared.update(_converted(compared[ann].to(place), methods, images))
    compared.update(spiking)
    if not compared:
        raise st.SpiketuneError("nothing to compare; give --networks files, --ann, or both")
    require_same_images(compared)
    loader = images.loader("test", next(iter(compared.values())))
    half = torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16")
    with half, bars("simulating", len(compared), len(loader)) as on_batch:
        order = list(compared)
        table = st.sweep(
            compared, loader, steps, device=place,
            progress=lambda name, done, _: on_batch(order.index(name) + 1, done),
        )  # fmt: skip
    print(table)
    if ann is not None:
        print(f"\n{_fewest(table, ann, within)}")
    if precision == "bfloat16":
        for name, network in compared.items():
            if isinstance(network, st.SpikingNetwork):
                print(f"\n{name} in bfloat16, T={steps}: {agreement(network, loader, steps)}.")
    print(f"\nTable, plot and report page: {table.save(out)}/report.html")


def _networks(paths: list[str], taken: tuple[str | None, ...]) -> dict[str, st.SpikingNetwork]:
    """Load files, each under its stem, or under its path where that name is taken."""
    found: dict[str, st.SpikingNetwork] = {}
    for path in map(Path, paths):
        name = path.stem if path.stem not in (*found, *taken) else str(path)
        if name in found:
            raise st.SpiketuneError(f"{path} is named twice; name each network once")
        found[name] = st.load(path)
    return found


def _converted(
    ann: nn.Module, methods: dict[str, Method], images: Images
) -> dict[str, st.SpikingNetwork]:
    """Convert one network with each method, all balanced on the same training images."""
    if not methods:
        return {}
    torch.manual_seed(0)  # of shuffling
    most = max(method.calibration_images for method in methods.values())
    shown = collect(images.loader("train", ann, shuffle=True), most)
    found = {}
    with bars("converting", rounds=1, batches=len(methods), unit="recipe") as on_batch:
        for number, (name, method) in enumerate(methods.items(), 1):
            found[name] = st.to_snn(ann, shown, method)
            on_batch(1, number)
    return found


def _fewest(table: st.Table, ann: str, within: float) -> str:
    """Say for each spiking network the smallest budget that is close enough to the ANN."""
    names = [name for name in table.models if name != ann]
    width = max(map(len, names), default=0)
    lines = [f"Fewest steps within {points(within)} of {ann}:"]
    for name in names:
        best = table.best_budget(name, within)
        lines.append(
            f"  {name:<{width}}  {f'more than {table.budgets[-1]}' if best is None else best}"
        )
    return "\n".join(lines)
