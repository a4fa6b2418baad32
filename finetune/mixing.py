"""Mixup, cutmix and random erasing, timm's own, on the batches as they come.

Mixup replaces the image ``x_i`` by ``λ x_i + (1 - λ) x_j``, cutmix pastes a box of ``x_j`` into
it, ``j`` the image as far from the end of the batch as ``i`` is from its beginning, ``λ`` from
``Beta(α, α)``; the labels become the same shares of both classes. Random erasing fills a box with
noise and leaves the label.

Sources: Zhang et al. 2018 (mixup); Yun et al. 2019 (cutmix); Zhong et al. 2020 (random erasing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from .errors import TuneError

if TYPE_CHECKING:
    from .training import Training

Mix = Callable[[Tensor, Tensor, str], tuple[Tensor, Tensor]]
MIX_OPTIONS = ("cutmix_minmax", "prob", "switch_prob", "mode", "correct_lam")


def check_mixing(mixup: float, cutmix: float, options: Mapping[str, object]) -> None:
    """Refuse settings of mixup that nothing would use.

    Raises:
        TuneError: naming them.

    Example:
        >>> check_mixing(0.2, 0.0, {"mode": "pair"})
        >>> check_mixing(0.0, 0.0, {"mode": "pair"})
        Traceback (most recent call last):
        ...
        spiketune.finetune.errors.TuneError: mix_options act with mixup or cutmix above 0 only; ...
    """
    if options and not (mixup or cutmix):
        raise TuneError("mix_options act with mixup or cutmix above 0 only; set one of them")
    unknown = [key for key in options if key not in MIX_OPTIONS]
    if unknown:
        raise TuneError(
            f"mixup has no setting {', '.join(unknown)}; it has {', '.join(MIX_OPTIONS)}"
        )
    if "switch_prob" in options and not (mixup and cutmix):
        raise TuneError("switch_prob chooses between mixup and cutmix; set both above 0")
    if options.get("mode", "batch") not in ("batch", "pair", "elem"):
        raise TuneError(f"mode must be batch, pair or elem, not {options['mode']!r}")


def mixing(training: Training, classes: int) -> Mix | None:
    """Return what is done to every batch before the network learns from it; None for nothing.

    The function takes ``images [B, C, H, W]``, ``labels [B]`` and where it is, for messages; it
    returns new images, and labels as shares ``[B, classes]`` where images were mixed. It draws
    from the global generators of torch, NumPy and Python.
    """
    mix, erase = _mixer(training, classes), _eraser(training)
    if mix is None and erase is None:
        return None

    def change(images: Tensor, labels: Tensor, where: str) -> tuple[Tensor, Tensor]:
        images = images.clone()  # timm works in place, and these may be the caller's own
        if erase is not None:
            images = erase(images)
        return (images, labels) if mix is None else mix(images, labels, where)

    return change


def _eraser(training: Training) -> Callable[[Tensor], Tensor] | None:
    if not training.erase:
        return None
    from timm.data.random_erasing import RandomErasing

    make: Callable[..., Callable[[Tensor], Tensor]] = RandomErasing
    return lambda images: make(training.erase, mode="pixel", device=images.device)(images)


def _mixer(training: Training, classes: int) -> Mix | None:
    if not (training.mixup or training.cutmix):
        return None
    from timm.data.mixup import Mixup

    make: Callable[..., Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = Mixup
    # Labels are smoothed by the loss, which does it to mixed and to plain ones alike.
    mixup = make(
        mixup_alpha=training.mixup,
        cutmix_alpha=training.cutmix,
        label_smoothing=0.0,
        num_classes=classes,
        **training.mix_options,
    )

    def mix(images: Tensor, labels: Tensor, where: str) -> tuple[Tensor, Tensor]:
        if len(images) % 2:
            raise TuneError(
                f"{where}: mixup pairs images, so a batch must be even, and this one has "
                f"{len(images)}; use drop_last=True or another batch size"
            )
        if labels.dim() > 1:
            raise TuneError(
                f"{where}: the loader mixes its labels already; leave mixup and cutmix at 0"
            )
        mixed, shares = mixup(images, labels)
        return mixed, shares.to(images.dtype)

    return mix


def right_classes(labels: Tensor) -> Tensor:
    """Return class numbers ``[B]``: of mixed labels ``[B, classes]`` the one with most weight.

    Example:
        >>> import torch
        >>> right_classes(torch.tensor([[0.2, 0.8, 0.0]])).tolist()
        [1]
        >>> right_classes(torch.tensor([2])).tolist()
        [2]
    """
    return labels.argmax(1) if labels.dim() > 1 else labels
