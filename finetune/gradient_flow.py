"""How the gradient flows back through a spiking network, cut at the spikes of every neuron."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from spiketune.snn import Neuron, SpikingNetwork, State, Surrogate, evaluating, leaves
from spiketune.snn.network import check_steps
from spiketune.snn.neurons import Through

from .batches import require_images
from .errors import TuneError
from .randomness import seeded
from .rules import require_neurons
from .unfold import require_rate_coding

Turn = Callable[[Surrogate, float], Surrogate]


def gradient_norms(
    snn: SpikingNetwork, images: Tensor, *, steps: int, seed: int = 0
) -> dict[str, float]:
    """Return ``‖∂L/∂y‖`` of each neuron's output ``y [T, B, ...]``, first to last.

    ``L`` is the sum of the answers with random weights; BatchNorm takes the batch's statistics.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> found = gradient_norms(snn, torch.rand(8, 1, 32, 32), steps=4)
        >>> len(found), found["layer4_0_act2_relu"] > 0
        (12, True)
    """
    require_slopes(snn)
    seen: list[Tensor] = []

    def through(neuron: Neuron, current: Tensor, state: State) -> tuple[Tensor, State]:
        # Kept where all weights before are frozen, too.
        current = current if current.requires_grad else current.detach().requires_grad_()
        spikes, state = neuron.run(current, state)
        seen.append(spikes)
        return spikes, state

    with learning(snn):
        loss = _loss(snn, images, steps, seed, through)
        grads = torch.autograd.grad(loss, seen, allow_unused=True)
    names = [name for name, _ in snn.neurons()]
    return {
        name: 0.0 if grad is None else math.sqrt(square(grad))
        for name, grad in zip(names, grads, strict=True)
    }


class Site:
    """One neuron with what reached it, and what is known of the gradient at its spikes.

    Example:
        >>> from spiketune.snn import IF, Firing, SuperSpike
        >>> neuron = IF(torch.tensor(1.0), firing=Firing(surrogate=SuperSpike(alpha=1.0)))
        >>> current = torch.full((2, 1), 0.6)
        >>> Site(neuron, current, neuron.start(current)).spikes.tolist()
        [[0.0], [1.0]]
    """

    def __init__(self, neuron: Neuron, current: Tensor, state: State) -> None:
        self.neuron, self.current, self.state = neuron, current, state
        self.base = neuron.firing.surrogate
        with torch.no_grad():
            spikes, self.after = neuron.run(current, state)
        self.spikes = spikes.requires_grad_()  # a leaf: currents of later neurons end here
        self.name = ""
        self.received: Tensor | None = None
        self.wanted = 0.0  # square of the norm that it should have received
        self.passed: float | None = None  # square of the norm at its current, None if nowhere

    def receive(self, part: Tensor | None, share: float = 1.0) -> None:
        """Add one part of the gradient; ``share`` times it is what it should have been."""
        if part is not None:
            self.received = part if self.received is None else self.received + part
            self.wanted += share**2 * square(part)

    def turn(self, turn: Turn, factor: float) -> None:
        """Set the neuron's slope to its first one, turned by a factor."""
        slope = self.base if factor == 1.0 else turn(self.base, factor)
        self.neuron.firing = replace(self.neuron.firing, surrogate=slope)

    def send(self, feeders: Sequence[Site]) -> Sequence[Tensor | None]:
        """Return the gradients that the neuron, as it is now, sends to the spikes before it."""
        if not (self.current.requires_grad and feeders):
            return [None] * len(feeders)
        current = self.current.detach().requires_grad_()
        spikes, _ = self.neuron.run(current, self.state)
        (delta,) = torch.autograd.grad(spikes, current, self.received)
        self.passed = square(delta)
        spikes_before = [site.spikes for site in feeders]
        return torch.autograd.grad(
            self.current, spikes_before, delta, retain_graph=True, allow_unused=True
        )


def sites(snn: SpikingNetwork, images: Tensor, steps: int, seed: int) -> list[Site]:
    """Run forward once, cut at every neuron's spikes; give the last ones the loss's gradient."""
    found: list[Site] = []

    def through(neuron: Neuron, current: Tensor, state: State) -> tuple[Tensor, State]:
        found.append(Site(neuron, current, state))
        return found[-1].spikes, found[-1].after

    loss = _loss(snn, images, steps, seed, through)
    parts = torch.autograd.grad(loss, [site.spikes for site in found], allow_unused=True)
    for site, (name, _), part in zip(found, snn.neurons(), parts, strict=True):
        site.name = name
        site.receive(part)
    return found


@contextmanager
def learning(snn: SpikingNetwork) -> Iterator[None]:
    """Let the network run as in training; statistics, modes and gradients come back as they were.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> with learning(snn.eval()):
        ...     snn.training
        True
        >>> snn.training
        False
    """
    kept = {name: buffer.clone() for name, buffer in snn.named_buffers()}
    through = {neuron: neuron.through for _, neuron in snn.neurons()}
    # Not for its evaluation mode: it brings every module's own mode back.
    with evaluating(snn), torch.enable_grad():
        snn.train()
        try:
            yield
        finally:
            for neuron, before in through.items():
                neuron.through = before
            for name, buffer in snn.named_buffers():
                buffer.data.copy_(kept[name])


def require_slopes(snn: SpikingNetwork) -> None:
    """Refuse a network whose neurons cannot each be given a slope.

    Raises:
        TuneError: with the place and the remedy.
    """
    require_neurons(snn)
    require_rate_coding(snn, "the flow of gradients")
    seen: dict[int, str] = {}
    for name, neuron in snn.neurons():
        if id(neuron) in seen:
            raise TuneError(
                f"{name} and {seen[id(neuron)]} are one neuron called twice, which cannot have "
                "two slopes; make the network with a neuron for each call"
            )
        seen[id(neuron)] = name


def square(x: Tensor) -> float:
    """Return ``Σ x²``.

    Example:
        >>> square(torch.tensor([3.0, 4.0]))
        25.0
    """
    # In double: the squares of small gradients leave the range of float32.
    return float(x.detach().double().square().sum())


def _loss(snn: SpikingNetwork, images: Tensor, steps: int, seed: int, through: Through) -> Tensor:
    """Run forward, neurons replaced by ``through``, and weigh the answers at random."""
    require_images(images)
    check_steps(steps)
    for _, neuron in snn.neurons():
        neuron.through = through
    generator = torch.Generator().manual_seed(seed)
    total = images.new_zeros(())
    # What draws in training, as Poisson input does, is to draw the same for the same seed.
    with seeded(seed, "gradient flow", device=images.device):
        (sent,) = snn.outputs(images, steps)  # one chunk, while gradients are kept
    for out in leaves(sent):
        answer = snn.read(out)
        weight = torch.randn(answer.shape, generator=generator, dtype=torch.float64)
        total = total + (answer * weight.to(answer)).sum()
    return total
