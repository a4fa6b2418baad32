"""What the answers are compared with: the labels and, by distillation, the teacher's answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import TuneError
from .rules import Batch, Criterion
from .training import Training


def criterion(training: Training, read: Callable[[Tensor], Tensor]) -> Criterion:
    """Return the loss of a run: ``(1 - a) CE + a τ² KL(teacher || network)`` of the answers.

    ``a`` is the distillation weight and ``τ`` its temperature; without a teacher's answers in the
    batch the loss is the cross-entropy alone.

    Args:
        training: what it consists of.
        read: ``outputs [T, B, classes] -> answers [B, classes]``.

    Source: Hinton et al. 2015; the factor τ² keeps the gradients' size as τ changes.

    Example:
        >>> batch = Batch(torch.zeros(1, 1, 4, 4), torch.tensor([1]))
        >>> loss = criterion(Training(), lambda outputs: outputs.mean(0))
        >>> round(loss(torch.zeros(4, 1, 2), batch).item(), 4)
        0.6931
    """
    share, temperature = training.distillation, training.temperature

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        answers = read(outputs)
        hard = functional.cross_entropy(
            answers, batch.labels, label_smoothing=training.label_smoothing
        )
        if batch.taught is None:
            return hard
        soft = functional.kl_div(
            functional.log_softmax(answers / temperature, dim=1),
            functional.log_softmax(batch.taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - share) * hard + share * temperature**2 * soft

    return loss


def ask(teacher: nn.Module | None, images: Tensor, classes: int) -> Tensor | None:
    """Return the teacher's answers ``[B, classes]``, computed on the teacher's own device.

    Raises:
        TuneError: if the teacher has another number of classes.
    """
    if teacher is None:
        return None
    own = next(teacher.parameters(), images)
    with torch.no_grad():
        answers: Tensor = teacher(images.to(own.device, own.dtype))
    if answers.shape != (len(images), classes):
        raise TuneError(
            f"the teacher answers {list(answers.shape)} to {len(images)} images, the network "
            f"{[len(images), classes]}; use the network that was converted as the teacher"
        )
    return answers.to(images.device, images.dtype)
