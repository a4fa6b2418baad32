"""One gradient out of several batches and several processes.

A rule goes backward from the mean loss ``L_b`` over the ``n_b`` images of a batch. The update of
all batches ``b`` of a group, in all processes, needs ``Σ_b n_b ∇L_b / Σ_b n_b``: what the batch
of all their images would give, as far as layers and loss see one image at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .distributed import Processes


class Gradients:
    """Adds up what the batches of a group ask of the parameters.

    Args:
        processes: those that train together.

    Example:
        >>> weight = torch.ones((), requires_grad=True)
        >>> gradients = Gradients(Processes())
        >>> gradients.watch(torch.optim.SGD([weight]))
        >>> for batch in (torch.tensor([1.0, 2.0]), torch.tensor([6.0])):
        ...     gradients.begin(len(batch))
        ...     gradients.backward((weight * batch).mean())
        >>> gradients.finish()
        3
        >>> weight.grad
        tensor(3.)
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.parameters: list[Tensor] = []
        self.images = self._unit = 0
        self._scale = 1.0

    def watch(self, optimizer: Optimizer) -> None:
        """Take the parameters to be those that the optimizer moves."""
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def begin(self, images: int) -> None:
        """Take the next batch of the group to have so many images."""
        # Relative to the first one: equal batches are not scaled at all, whatever their size.
        self._unit = self._unit or images
        self.images += images
        self._scale = images / self._unit

    def backward(self, loss: Tensor) -> None:
        """Go backward from the mean loss of the batch, or a part of it."""
        torch.autograd.backward(loss if self._scale == 1.0 else loss * self._scale)

    def finish(self) -> int:
        """Turn what was added up into the gradient of the mean loss; return the images in it."""
        images = round(self.processes.total(float(self.images))[0])
        factor = self._unit / images
        present = self._present()
        for parameter in present:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        found = [parameter.grad for parameter in present if parameter.grad is not None]
        if factor != 1.0:
            for gradient in found:
                gradient.mul_(factor)
        self.processes.add_up(found)
        self.images = self._unit = 0
        return images

    def norm(self) -> Tensor:
        """Return the norm of the whole gradient, a scalar; not finite if anything in it is not."""
        found = [p.grad for p in self.parameters if p.grad is not None]
        return nn.utils.get_total_norm(found)

    def clip(self, largest: float | None, norm: Tensor) -> None:
        """Shorten the gradient, whose norm is known, to ``largest``; None for no bound."""
        if largest is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)

    def _present(self) -> list[Tensor]:
        """Return the parameters that have a gradient in any process."""
        here = [float(parameter.grad is not None) for parameter in self.parameters]
        anywhere = self.processes.total(*here)
        return [p for p, seen in zip(self.parameters, anywhere, strict=True) if seen]
