"""``spiketune exit``: set the confidence with which images leave early, and say what it gives."""

from __future__ import annotations

from pathlib import Path

import spiketune as st

from .options import Images, points, require_out, usable_device
from .progress import bars


def exit(
    *,
    network: Path,
    out: Path,
    steps: int | None = None,
    tolerance: float = 0.0,
    data: str,
    root: Path | None = None,
    limit: int | None = None,
    batch: int = 256,
    device: str | None = None,
) -> None:
    """Set an early exit on training images and try it on test images.

    Images whose answer is confident leave the batch before the others. The setting is saved as
    JSON, for `st.EarlyExit.load(FILE)` in Python.

    Args:
        network: .safetensors file of `convert` or `tune`.
        out: .json file to write.
        steps: most steps of an image; those the network was made for by default.
        tolerance: points of accuracy on the training images that may be lost.
        data: digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or folder;
            the exit is set on its training split and tried on its test split.
        root: folder to look in first; then $SPIKETUNE_DATA, the system's places, a download.
        limit: at most so many images of each split.
        batch: batch size; the larger, the more time is saved.
        device: cpu, cuda, ...; the CPU by default.
    """
    require_out(out, suffix=".json")
    place = usable_device(device)
    snn = st.load(network)
    images = Images(data=data, root=root, limit=limit, batch=batch)
    shown, test = images.loader("train", snn), images.loader("test", snn)
    with bars("simulating", 1, len(shown)) as on_batch:
        found = st.fit_exit(
            snn, shown, steps, tolerance=tolerance, device=place,
            progress=lambda done, _: on_batch(1, done),
        )  # fmt: skip
    found.save(out)
    with bars("trying", 1, len(test)) as on_batch:
        result = st.measure_exit(
            snn, test, found, device=place, progress=lambda done, _: on_batch(1, done)
        )
    print(
        f"Images leave with a confidence of {found.confidence:.4g}, set on training images of "
        f"{data} to lose at most {points(tolerance)}.\n"
        f"On {result.images} test images: {result}.\nSaved as {out}"
    )
