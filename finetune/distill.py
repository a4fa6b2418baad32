"""Learn from a teacher: from its answers, and from its features at named places.

timm's distillation tasks (``timm.task``, 1.0.27 and later) do not fit. They call the student
themselves and return one finished loss, while here a rule runs the network over its steps and may
go backward many times; and their features are the single vector in front of the head of a network
with ``forward_features``, which a converted graph no longer has. The divergence of the answers is
theirs to the last digit (tested).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from spiketune.snn import Neuron, SpikingNetwork, State

from .errors import TuneError
from .watch import Watch


@dataclass(frozen=True, kw_only=True)
class Features:
    """``L += w Σ_p mean((x_p - x'_p)²)``: let neurons say what the teacher's activations are.

    ``x_p [B, ...]`` is what the neuron at place ``p`` sends on average, ``Σ_t s_p[t] / min(T, D)``
    of its spikes ``[T, B, ...]`` in the units of the current; ``x'_p`` is the output of the
    teacher's module of that path. The mean runs over images and neurons.

    Attributes:
        at: module paths of activations, such as ``("layer1.0.act2", "layer4.1.act2")``; where a
            module is called several times each call is a place of its own.
        weight: ``w``.

    Raises:
        TuneError: without places, or on a weight that is not above 0.

    Source: Romero et al. 2015 (FitNets), the loss of a hint, here without a regressor: teacher and
    network have the same shapes.

    Example:
        >>> Features(at=("act1",)).weight
        1.0
    """

    at: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.at, tuple) or not self.at:
            raise TuneError(
                f"Features: at must be a tuple of module paths such as ('act1',), not {self.at!r}"
            )
        if self.weight <= 0:
            raise TuneError(f"Features: weight must be above 0, not {self.weight}")


def divergence(answers: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return ``KL(softmax(taught/τ) || softmax(answers/τ))``, the mean over the images.

    Args:
        answers: ``[B, classes]`` of the network.
        taught: ``[B, classes]`` of the teacher.
        temperature: ``τ``.

    Example:
        >>> divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]]), 4.0).item()
        0.0
    """
    return functional.kl_div(
        functional.log_softmax(answers / temperature, dim=1),
        functional.log_softmax(taught / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


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


class Comparison:
    """The features of network and teacher side by side, as long as a run lasts.

    Args:
        snn: the network that learns.
        teacher: the network it learns from.
        features: places and weight.
        steps: the step budget ``T``.

    Raises:
        TuneError: naming the place, if network or teacher has no activation there.
    """

    def __init__(
        self, snn: SpikingNetwork, teacher: nn.Module | None, features: Features, steps: int
    ) -> None:
        if teacher is None:
            raise TuneError(f"{features} needs the teacher to compare with; give teacher=")
        self.teacher, self.weight, self.steps = teacher, features.weight, steps
        self.driven = min(steps, snn.drive or steps)
        self.modules = {place: _module(teacher, place) for place in dict.fromkeys(features.at)}
        self.places = _places(snn, tuple(self.modules))
        self.watch = Watch(
            lambda: [one for one in snn.neurons() if one[0] in self.places], _sent, "Features"
        )
        self._taught: dict[str, list[Tensor]] = {}
        self._hooks: list[RemovableHandle] = []

    def start(self) -> None:
        """Start looking at both networks."""
        self.watch.start()
        self._hooks.append(self.teacher.register_forward_pre_hook(self._anew))
        for place, module in self.modules.items():
            self._hooks.append(module.register_forward_hook(self._keep(place)))

    def stop(self) -> None:
        """Stop looking and forget what was seen."""
        self.watch.stop()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._taught.clear()

    def show(self, name: str, mean: Tensor) -> None:
        """Take the mean ``[B, ...]`` of a neuron that the rule stands in for."""
        if name in self.places:
            self.watch.note(name, mean * self.driven, self.steps)

    def loss(self) -> Tensor:
        """Return what the features of the batch at hand add to the loss."""
        apart = []
        for name, total in zip(self.watch.names, self.watch.take(self.steps), strict=True):
            place, call = self.places[name]
            taught = self._taught.get(place, [])
            mean = total / self.driven
            shapes = [list(one.shape) for one in taught]
            if call >= len(taught) or taught[call].shape != mean.shape:
                raise TuneError(
                    f"Features: {name} sends {list(mean.shape)} at call {call + 1} of {place}, "
                    f"where the teacher has {shapes}; leave {place} out"
                )
            apart.append(functional.mse_loss(mean, taught[call].to(mean.device, mean.dtype)))
        return self.weight * torch.stack(apart).sum()

    def _anew(self, *_: Any) -> None:
        self._taught.clear()

    def _keep(self, place: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # A copy: an activation in place behind this one would write over it.
            self._taught.setdefault(place, []).append(output.detach().clone())

        return hook


def _sent(neuron: Neuron, current: Tensor, sent: Tensor, state: State | None) -> Tensor:
    return sent.sum(0)


def _module(teacher: nn.Module, place: str) -> nn.Module:
    """Return the teacher's activation at a place."""
    modules: dict[str, nn.Module] = dict(teacher.named_modules())
    if place not in modules:
        raise TuneError(f"Features: the teacher has no module {place!r}{_near(place, modules)}")
    if any(True for _ in modules[place].children()):
        raise TuneError(
            f"Features: {place} is a block of the teacher, whose output need not be the "
            "activation; name an activation module inside it"
        )
    return modules[place]


def _places(snn: SpikingNetwork, wanted: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    """Return, by neuron, the place it lies at and which call of the module there it is."""
    calls: dict[str, int] = {}
    found: dict[str, tuple[str, int]] = {}
    for node, _ in snn.neuron_nodes():
        place = str(node.meta.get("path", ""))
        if place in wanted:
            found[node.name] = place, calls.get(place, 0)
        calls[place] = calls.get(place, 0) + 1
    for place in wanted:
        if place not in calls:
            raise TuneError(
                f"Features: the network has no neuron at {place!r}{_near(place, calls)}"
            )
    return found


def _near(place: str, known: dict[str, Any]) -> str:
    near = get_close_matches(place, known, n=3, cutoff=0.3)
    return f"; near it: {', '.join(near)}" if near else "; leave it out"
