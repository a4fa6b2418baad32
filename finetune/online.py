"""Learn one step at a time: what the rules share whose memory does not grow with ``T``.

The network runs step by step. Each step has a loss of its own, ``L[t]/T``, and the rule goes
backward from it at once, through the layers of this step alone: what is carried from step to step
(membranes, and sums of functions) is a constant to the step that takes it over. What comes before
the first neuron, the stem, is computed once; gradients add up in front of it, and one pass at the
end takes them through it. Kept over the steps are the states, the stem, and the sum of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spiketune.snn import (
    SRM,
    Delay,
    Monitor,
    Program,
    SpikingNetwork,
    State,
    Synapse,
    over_leaves,
)
from spiketune.snn.chunk import Moment, States, Values
from spiketune.snn.functions import Sums
from spiketune.snn.readout import Mean

from .errors import TuneError
from .rules import Batch, Learn, Outcome, Task


class Online(Program):
    """A network's graph in which no gradient passes from one step to the next, nor into the stem.

    Args:
        snn: the network; its parameters are shared.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn = st.twin(ann, 4, (4,))
        >>> program, image = Online(snn), torch.rand(2, 4)
        >>> steps = snn.outputs(image, 4, chunk=1, program=program)
        >>> torch.equal(torch.cat(list(steps)).mean(0), snn(image))
        True
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__(snn.net.graph, snn.net)
        self._cuts: list[tuple[Tensor, Tensor]] = []

    def stem(self, image: Tensor) -> Values:
        """Compute the stem, and hand out copies of it that gather gradients."""
        # The first step may be one of those that nothing is learned from.
        with torch.enable_grad():
            values = super().stem(image)
        self._cuts = []
        return {node: over_leaves(self._cut, value) for node, value in values.items()}

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[object, States]:
        """Run one step; the states after it are constants."""
        sent, after = super().run(stem, states, moment, monitor=monitor)
        return sent, {name: detached(state) for name, state in after.items()}

    def finish(self) -> None:
        """Take what has been gathered in front of the stem through it."""
        met = [(value, copy.grad) for value, copy in self._cuts if copy.grad is not None]
        self._cuts = []
        if met:
            # Not through the task: these gradients come from losses that it has scaled already.
            torch.autograd.backward([value for value, _ in met], [grad for _, grad in met])

    def _cut(self, value: object) -> object:
        # A weight gathers by itself, and what needs no gradient gathers none.
        if not isinstance(value, Tensor) or value.is_leaf:
            return value
        copy = value.detach().requires_grad_()
        self._cuts.append((value, copy))
        return copy


def detached(state: State | Sums) -> State | Sums:
    """Return a state whose tensors are constants.

    Example:
        >>> detached(State(torch.ones(1, requires_grad=True))).membrane.requires_grad
        False
    """
    if isinstance(state, Sums):
        inputs = tuple(value.detach() for value in state.inputs)
        return state._replace(inputs=inputs, answer=state.answer.detach())
    tracer = None if state.tracer is None else state.tracer.detach()
    extra = tuple(part.detach() for part in state.extra)
    return state._replace(membrane=state.membrane.detach(), tracer=tracer, extra=extra)


def by_steps(
    snn: SpikingNetwork, task: Task, program: Online, draw: Callable[[], set[int]]
) -> Learn:
    """Return the way to learn that goes backward after every step.

    Args:
        snn: the network.
        task: what it is to learn; its criterion sees one step at a time, ``[1, B, classes]``.
        program: runs the network.
        draw: returns the steps to learn from, counted from 0; asked once a batch.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=2, in_chans=1, image_size=32)
        >>> task = Task(steps=2, criterion=lambda outputs, _: outputs.sum())
        >>> learn = by_steps(snn, task, Online(snn), lambda: {0, 1})
        >>> list(learn(Batch(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))).answers.shape)
        [2, 10]
    """

    # A function of its own, so that nothing of a step outlives it.
    def step(outputs: Iterator[Tensor], batch: Batch, learns: bool) -> Outcome:
        with torch.set_grad_enabled(learns):
            sent = next(outputs)
            loss = task.criterion(sent, batch) / task.steps
        if learns:
            task.backward(loss)
        else:
            # What autocast keeps of weights it has cast here has no gradient, in some torches.
            torch.clear_autocast_cache()
        return Outcome(loss.detach(), sent[0].detach())

    def learn(batch: Batch) -> Outcome:
        chosen = draw()
        outputs = snn.outputs(batch.images, task.steps, chunk=1, program=program)
        loss, total = step(outputs, batch, 0 in chosen)
        for number in range(1, task.steps):
            now, sent = step(outputs, batch, number in chosen)
            loss, total = loss + now, total + sent
        program.finish()
        return Outcome(loss, total / task.steps)

    return learn


def require_steps(snn: SpikingNetwork, rule: str) -> None:
    """Refuse a network whose single steps are no answers, or cannot be run by themselves.

    Raises:
        TuneError: naming what stands in the way, and the remedy.
    """
    if snn.drive is not None:
        raise TuneError(
            f"{rule} compares every step's output with the labels, but in this network the image "
            f"acts for {snn.drive} steps only and later outputs are corrections; tune with "
            "SurrogateBPTT(), or convert with a method without a drive"
        )
    if not isinstance(snn.readout, Mean):
        raise TuneError(
            f"{rule} learns from every step alike, as the mean of all steps counts them, but this "
            f"network is read by {snn.readout}; set snn.readout = Mean(), or tune with "
            "SurrogateBPTT()"
        )
    for name, neuron in snn.neurons():
        if neuron.whole:
            raise TuneError(
                f"{name}: {type(neuron).__name__} computes all its steps at once, but {rule} runs "
                "them one by one; tune with SurrogateBPTT()"
            )
    for place, unit in snn.net.named_modules():
        if isinstance(unit, SRM | Delay) or (isinstance(unit, Synapse) and unit.delayed):
            raise TuneError(
                f"{place}: {type(unit).__name__} lets what arrives act in later steps only, but "
                f"{rule} goes backward within each step; tune with SLAYER() or SurrogateBPTT()"
            )
