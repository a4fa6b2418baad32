"""The seam between the trainer and the training rules.

A rule is a frozen settings dataclass and one function registered for it. The function gets the
network ready (surrogates, which parameters train) and returns ``learn``, which the trainer calls
once a batch. How the network runs is up to ``learn``: ``outputs`` below for the plain way, all
steps at once; ``snn.program.run`` where a rule handles the steps itself. A rule that replaces the
gradient of a neuron sets ``neuron.through``. ``learn`` goes backward through ``task.backward``, as
often as it likes, so that the trainer can scale and watch what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from spiketune.snn import Delay, SpikingNetwork, timed_layers

from .errors import TuneError
from .silent import require_teachable


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Base of the settings of every training rule.

    Example:
        >>> from spiketune.finetune import SurrogateBPTT
        >>> isinstance(SurrogateBPTT(), Rule)
        True
    """

    # What the rule trains: neurons over "steps", or layers of one exact spike time each, "times".
    learns: ClassVar[str] = "steps"
    # What to do about neurons that rest a threshold below firing, where the rule's slope is zero.
    remedy = "give the rule a slope that reaches farther, such as ATan() or SuperSpike()"


class Batch(NamedTuple):
    """What a rule learns from at once.

    Attributes:
        images: ``[B, C, H, W]``.
        labels: class numbers ``[B]``; under mixup shares of the classes ``[B, classes]``.
        taught: the teacher's answers ``[B, classes]``, None without a teacher.

    Example:
        >>> import torch
        >>> Batch(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])).taught is None
        True
    """

    images: Tensor
    labels: Tensor
    taught: Tensor | None = None


class Outcome(NamedTuple):
    """What came of one batch.

    Attributes:
        loss: a scalar, for the record; the rule has gone backward already.
        answers: ``[B, classes]``, for the training accuracy.

    Example:
        >>> import torch
        >>> Outcome(torch.tensor(0.5), torch.zeros(2, 10)).loss.item()
        0.5
    """

    loss: Tensor
    answers: Tensor


Criterion = Callable[[Tensor, Batch], Tensor]
Backward = Callable[[Tensor], None]
Show = Callable[[str, Tensor], None]
Learn = Callable[[Batch], Outcome]
Unroll = Callable[[SpikingNetwork, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a rule is to learn.

    Attributes:
        steps: the step budget ``T``.
        criterion: ``(outputs [T, B, classes], batch) -> loss`` of the raw outputs of ``T`` steps;
            labels, and the teacher's answers where there are any.
        backward: goes backward from a loss; gradients add up.
        show: called with a neuron's name and its mean ``[B, ...]``, before the criterion, by a
            rule that stands in for the neurons instead of calling them.
        common: a generator that is seeded for each batch, alike in all processes of a run; for what
            they must draw together. None for torch's own.
        begun: whether an update was made before, as when a run goes on from a checkpoint: what the
            first batch has to show was shown then.

    Example:
        >>> Task(steps=4, criterion=lambda outputs, batch: outputs.sum()).steps
        4
    """

    steps: int
    criterion: Criterion
    backward: Backward = Tensor.backward
    show: Show = lambda name, mean: None
    common: torch.Generator | None = None
    begun: Callable[[], bool] = lambda: False


RuleT = TypeVar("RuleT", bound=Rule)
Prepare = Callable[[SpikingNetwork, RuleT, Task], Learn]

_PREPARE: dict[type[Rule], Prepare[Any]] = {}


def register_rule(rule: type[RuleT]) -> Callable[[Prepare[RuleT]], Prepare[RuleT]]:
    """Register the function that gets a network ready for one type of rule.

    Inside ``learn`` torch's own generator is seeded for the batch, in each process of a run with a
    seed of its own: a rule may draw from it and stays reproducible.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class OneStep(Rule):
        ...     pass
        >>> @register_rule(OneStep)
        ... def one_step(snn: SpikingNetwork, rule: OneStep, task: Task) -> Learn:
        ...     def learn(batch: Batch) -> Outcome:
        ...         sent = outputs(snn, batch.images, 1)
        ...         loss = task.criterion(sent, batch)
        ...         task.backward(loss)
        ...         return Outcome(loss.detach(), snn.read(sent).detach())
        ...     return learn
    """

    def register(prepare: Prepare[RuleT]) -> Prepare[RuleT]:
        _PREPARE[rule] = prepare
        return prepare

    return register


def prepare(snn: SpikingNetwork, rule: Rule, task: Task) -> Learn:
    """Get the network ready for ``rule`` and return what to call with each batch.

    Raises:
        TuneError: if the rule is unknown, says that it cannot train this network, or sets slopes
            that leave a part of it silent for ever; on delays as long as the run.
    """
    if type(rule) not in _PREPARE:
        known = ", ".join(sorted(known.__name__ for known in _PREPARE))
        raise TuneError(f"{rule!r} is not a training rule; use an instance of one of {known}")
    _require_kind(snn, rule)
    _require_arrival(snn, task.steps)
    for _, neuron in snn.neurons():
        neuron.through = None  # an earlier rule's gradient
    learn = _PREPARE[type(rule)](snn, rule, task)
    require_teachable(snn, task.steps, remedy=rule.remedy)
    return learn


def _require_arrival(snn: SpikingNetwork, steps: int) -> None:
    """Refuse delays behind which nothing arrives within the run."""
    for place, unit in snn.net.named_modules():
        longest = int(unit.steps().max()) if isinstance(unit, Delay) else 0
        if longest >= steps:
            raise TuneError(
                f"{place}: delays of up to {longest} steps in a run of {steps}: what is sent so "
                "late never arrives; train for more steps, or build it with a smaller maximum"
            )


def _require_kind(snn: SpikingNetwork, rule: Rule) -> None:
    """Refuse neurons over steps where a rule trains spike times, and the reverse."""
    name, timed = type(rule).__name__, next(iter(timed_layers(snn)), None)
    if rule.learns == "times" and timed is None:
        raise TuneError(
            f"{name} trains networks of exact spike times; build one with single_spike([...], "
            "input_shape), or train this one with SurrogateBPTT()"
        )
    if rule.learns == "steps" and timed is not None:
        raise TuneError(
            f"{timed} sends one spike a neuron at an exact time, which {name} cannot train; use "
            "STiDi(), or build the network with twin(ann, steps, input_shape)"
        )


def outputs(snn: SpikingNetwork, images: Tensor, steps: int) -> Tensor:
    """Return the raw outputs of all steps ``[T, B, classes]``, gradients kept.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> list(outputs(snn, torch.rand(2, 1, 32, 32), 3).shape)
        [3, 2, 10]
    """
    return torch.cat(list(snn.outputs(images, steps)))


def through_time(snn: SpikingNetwork, task: Task, unroll: Unroll = outputs) -> Learn:
    """Return the plain way to learn: all steps forward, one loss, backward through all steps.

    Args:
        snn: the network.
        task: what it is to learn.
        unroll: returns the raw outputs of all steps, gradients kept.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=2, in_chans=1, image_size=32)
        >>> learn = through_time(snn, Task(steps=2, criterion=lambda outputs, _: outputs.sum()))
        >>> list(learn(Batch(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))).answers.shape)
        [2, 10]
    """

    def learn(batch: Batch) -> Outcome:
        sent = unroll(snn, batch.images, task.steps)
        loss = task.criterion(sent, batch)
        task.backward(loss)
        return Outcome(loss.detach(), snn.read(sent.detach()))

    return learn


def require_neurons(snn: SpikingNetwork) -> None:
    """Refuse what is no spiking network, has no neurons, or whose thresholds were folded away.

    Raises:
        TuneError: naming the neuron and the remedy.
    """
    given: object = snn
    if not isinstance(given, SpikingNetwork):
        raise TuneError(
            f"{type(given).__name__} is no spiking network; make one of it with to_snn(ann, "
            "images), or with twin(ann, steps, input_shape) to train it from scratch"
        )
    neurons = list(snn.neurons())
    if not neurons:
        raise TuneError(
            "the network has no neurons, so a spiking rule has nothing to train; "
            "convert it with to_snn first"
        )
    for name, neuron in neurons:
        if neuron.folded:
            raise TuneError(
                f"{name}: its threshold was folded into the weights and no longer changes with "
                "them; give the network as it was before fold()"
            )
