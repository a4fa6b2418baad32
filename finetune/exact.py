"""The last neurons' gradient by what the loss truly changes by: ``NA(error="exact")``.

Where a network ends in neurons, its outputs ``a`` are their spikes ``θ s``, filtered or not. With
the neighbours ``sᵏ`` of a spike train (see ``aggregation``) and the outputs ``aᵏ`` that they give

    ``δ[k] = (L(aᵏ) - L(a)) / (θ - u[k])``

where ``L`` is computed anew for each neighbour: ``T N`` times for each image, with ``N`` last
neurons. So that the images of a batch need not all be there each time, the loss must be the mean of
its images' own, as all losses of the answers here are.

Source: Yang, Zhang & Li 2021 (NA, ICML), the difference that their error linearises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import vmap
from torch.fx import Node

from spiketune.snn import LIF, Neuron, SpikingNetwork, Synapse
from spiketune.snn.fused.paths import precise

from .aggregation import Cell, Reach
from .equaliser import Equaliser
from .errors import TuneError
from .neighbours import neighbour_trains
from .rules import Batch, Criterion, Learn, Outcome, Task, Unroll

# From outputs ``[T, B, G, N]``, of ``G`` neighbours an image, to the losses ``[B, G]``.
Losses = Callable[[Tensor], Tensor]
# Values of outputs, of all neighbours together, whose losses are asked at once.
MOST = 2**24


class Ending(NamedTuple):
    """The neurons that a network ends in, and the synapses that filter their spikes, in order."""

    neuron: Neuron
    synapses: tuple[Synapse, ...]

    def outputs(self, spikes: Tensor) -> Tensor:
        """Return the network's outputs ``[T, ...]`` of spikes ``[T, ...]``, False or True."""
        sent = spikes.to(self.neuron.threshold.dtype)
        if not self.neuron.folded:
            sent = sent * self.neuron.threshold
        for synapse in self.synapses:
            sent, _ = synapse(sent)
        return sent


def ending(snn: SpikingNetwork, steps: int) -> Ending:
    """Return what a network ends in.

    Args:
        snn: the network.
        steps: the step budget ``T``.

    Raises:
        TuneError: if it ends in something else than neurons, or not all steps run together.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,))
        >>> st.add_synapses(snn, 2.0, output=True)
        >>> ending(snn, 5).synapses
        (Synapse(tau=2.0),)
    """
    (answer,) = snn.net.graph.find_nodes(op="output")
    source, synapses = answer.args[0], list[Synapse]()
    while isinstance(unit := _unit(snn, source), Synapse):
        synapses.insert(0, unit)
        source = source.args[0]
    if not isinstance(unit, Neuron):
        raise TuneError(
            f"{source}: NA(error='exact') looks at how the loss changes with the spikes that are "
            "the answer, and here the answer is no neuron's own; end the network in neurons, or "
            "train with NA(error='e')"
        )
    if snn.drive is not None and snn.drive < steps:
        raise TuneError(
            f"{source}: with drive={snn.drive} of {steps} steps what later spikes change is not "
            "at hand; train with NA(error='g')"
        )
    return Ending(unit, tuple(synapses))


def learn_exactly(
    snn: SpikingNetwork,
    task: Task,
    unroll: Unroll,
    end: Ending,
    reach: Reach,
    equaliser: Equaliser | None,
) -> Learn:
    """Return the way to learn that goes backward from the last neurons' currents.

    Args:
        snn: the network.
        task: what it is to learn.
        unroll: returns the raw outputs of all steps, gradients kept.
        end: what the network ends in.
        reach: what ``1/(θ - u)`` is taken for.
        equaliser: is told the last layer's gradient; None for none.

    Raises:
        TuneError: from what it returns, if the loss is not the mean of its images' own.

    Example:
        >>> import spiketune as st
        >>> from spiketune.finetune.rules import outputs
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,))
        >>> task = Task(steps=5, criterion=lambda sent, _: sent.square().mean())
        >>> learn = learn_exactly(snn, task, outputs, ending(snn, 5), Reach(), None)
        >>> _ = learn(Batch(torch.rand(2, 4), torch.tensor([0, 1])))
        >>> list(snn.net.get_parameter("0.weight").grad.shape)
        [3, 4]
    """

    def learn(batch: Batch) -> Outcome:
        met: list[Tensor] = []
        with end.neuron.register_forward_pre_hook(lambda _, given: met.append(given[0])):
            sent = unroll(snn, batch.images, task.steps)
        (current,) = met
        with torch.no_grad():
            loss = task.criterion(sent, batch)
            found = exact_gradient(end, reach, current, sent, loss, losses(task.criterion, batch))
        task.backward(_Instead.apply(current, loss, found, equaliser))
        return Outcome(loss, snn.read(sent.detach()))

    return learn


def exact_gradient(
    end: Ending, reach: Reach, current: Tensor, sent: Tensor, loss: Tensor, each: Losses
) -> Tensor:
    """Return ``δ [T, B, ...]``, the gradient at the current of the last neurons.

    Args:
        end: what the network ends in.
        reach: what ``1/(θ - u)`` is taken for.
        current: ``[T, B, ...]``, of all steps.
        sent: the network's outputs ``[T, B, ...]``.
        loss: of the outputs, a scalar.
        each: returns the losses of single images.

    Raises:
        TuneError: if the loss is not the mean of its images' own.
    """
    neuron = end.neuron
    leak = neuron.leak if isinstance(neuron, LIF) else None
    cell = Cell(neuron.threshold, leak, neuron.firing)
    given = precise(neuron, current)
    membrane = neuron.start(given).membrane
    charged, fired, _ = map(torch.stack, cell.run(given, membrane))
    others = map(end.outputs, neighbour_trains(cell, given, membrane))
    changes = true_changes(each, sent, others, loss) / neuron.threshold  # as distances are
    found = changes * reach(1 - charged / neuron.threshold, fired)
    return found.to(current.dtype)


def losses(criterion: Criterion, batch: Batch) -> Losses:
    """Return what gives the loss ``[B, G]`` of each image by itself for outputs ``[T, B, G, N]``.

    Example:
        >>> batch = Batch(torch.zeros(2, 4), torch.tensor([0, 2]))
        >>> each = losses(lambda sent, batch: sent.sum() * batch.labels.sum(), batch)
        >>> each(torch.ones(5, 2, 3, 1)).tolist()
        [[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]]
    """

    def one(sent: Tensor, *about: Tensor) -> Tensor:
        return criterion(sent.unsqueeze(1), Batch(*(part.unsqueeze(0) for part in about)))

    about = [part for part in batch if part is not None]
    of_neighbours = vmap(one, in_dims=(1, *[None] * len(about)))
    of_images = vmap(of_neighbours, in_dims=(1, *[0] * len(about)))

    def each(sent: Tensor) -> Tensor:
        with warnings.catch_warnings():  # what cannot be batched is computed one by one, aloud
            warnings.filterwarnings("ignore", "There is a performance drop")
            found: Tensor = of_images(sent, *about)
        return found

    return each


def true_changes(each: Losses, sent: Tensor, others: Iterable[Tensor], loss: Tensor) -> Tensor:
    """Return by how much the loss changes ``[K, B, ...]`` if one neuron sends something else.

    Args:
        each: returns the losses of single images.
        sent: outputs ``[T, B, ...]``.
        others: ``K`` times what each neuron would send by itself, ``[T, B, ...]``.
        loss: of the outputs, a scalar.

    Raises:
        TuneError: if the loss is not the mean of its images' own.

    Example:
        >>> batch = Batch(torch.zeros(1, 4), torch.zeros(1))
        >>> each = losses(lambda sent, _: sent.sum().square(), batch)
        >>> sent, other = torch.ones(1, 1, 2), torch.tensor([[[0.0, 2.0]]])
        >>> true_changes(each, sent, [other], torch.tensor(4.0))
        tensor([[[-3.,  5.]]])
    """
    before = _own_losses(each, sent, loss)
    steps, images, *shape = sent.shape
    flat = sent.flatten(2).unsqueeze(2)  # [T, B, 1, N]
    each_neuron = torch.eye(flat.shape[-1], dtype=torch.bool, device=sent.device)
    found = []
    for other in others:
        changed = []
        for own in torch.split(each_neuron, max(1, MOST // flat.numel())):
            tried = torch.where(own, other.flatten(2).unsqueeze(2), flat)
            changed.append(each(tried.view(steps, images, len(own), *shape)))
        found.append((torch.cat(changed, dim=1) - before).view(images, *shape))
    return torch.stack(found) / images


def _own_losses(each: Losses, sent: Tensor, loss: Tensor) -> Tensor:
    """Return ``[B, 1]``, the losses of the images as they are."""
    instead = "train with a loss of the answers alone, or with NA(error='e')"
    try:
        found = each(sent.unsqueeze(2))
    except (RuntimeError, TuneError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TuneError(
            "NA(error='exact') asks for the loss of each image by itself, many at once, which "
            f"this loss does not allow ({reason}); {instead}"
        ) from error
    # What is not a number is the trainer's to tell.
    if not torch.allclose(found.mean(), loss.to(found.dtype), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise TuneError(
            "NA(error='exact') asks for the loss of each image by itself, but this batch's loss of "
            f"{loss.item():.6g} is not their mean, {found.mean().item():.6g}; {instead}"
        )
    return found


class _Instead(torch.autograd.Function):
    """The loss, with a gradient at the last currents that was found in another way."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, loss: Tensor, found: Tensor, equaliser: Equaliser | None
    ) -> Tensor:
        ctx.save_for_backward(found)
        ctx.equaliser = equaliser
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (found,) = ctx.saved_tensors
        found = grads[0] * found
        if ctx.equaliser is not None:
            found = ctx.equaliser(found, last=True)
        return found, None, None, None


def _unit(snn: SpikingNetwork, source: object) -> Any:
    if isinstance(source, Node) and source.op == "call_module":
        return snn.net.get_submodule(str(source.target))
    return None
