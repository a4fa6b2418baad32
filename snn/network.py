"""``SpikingNetwork``: a graph with neurons in it, run for some steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from .errors import SpiketuneError
from .modes import evaluating
from .neurons import Neuron
from .pieces import Pieces
from .program import Instead, Monitor, Program
from .readout import Mean, Readout
from .report import Report
from .room import within_memory
from .running import Chunks, Recordings, Runner
from .simulation import Simulation
from .trees import over_leaves

# Enough steps at once to keep the convolutions busy, few enough that memory does not grow with T.
CHUNK = 8


class SpikingNetwork(nn.Module):
    """A drop-in ``nn.Module``: images in, the mean answer after ``steps`` steps out.

    The answer after ``t`` steps is ``y(t) = 1/t Σ_{k<=t} o(k)`` of the outputs ``o``; with
    ``drive = D`` image and biases act during the first ``D`` steps only, and
    ``y(t) = 1/min(t, D) Σ_{k<=t} o(k)``. Every call starts from fresh membranes.

    A network that returns tensors in tuples, lists or dicts answers in the same structure.

    Args:
        net: graph of known operations and units (see ``ops`` and ``neurons``).
        steps: default number of steps, ``T``.
        input_shape: ``(C, H, W)`` of the images it was made for.
        drive: steps during which image and biases act; None for always.
        readout: how the answer is read off the outputs; their mean by default.
        report: what became what.
        pretrained_cfg: preprocessing of the images as timm names it (``input_size``, ``mean``,
            ``std``, ...), so that whoever loads the network knows how to feed it.
        about: how it was made, as plain data: ``method``, ``calibration_images``, ``seconds``,
            ``spikes`` (binary or ternary); kept in files and shown beside results.

    Attributes:
        chunks: how chunks of steps are run, as ``run_by`` chose; None for as they stand.

    Raises:
        SpiketuneError: on steps or drive below 1.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 1, 2, 2), st.Ternary(steps=8))
        >>> list(snn(torch.rand(5, 1, 2, 2)).shape), list(snn.unroll(torch.rand(5, 1, 2, 2)).shape)
        ([5, 3], [8, 5, 3])
    """

    def __init__(
        self,
        net: GraphModule,
        *,
        steps: int,
        input_shape: tuple[int, ...],
        drive: int | None = None,
        readout: Readout = Mean(),  # noqa: B008 (frozen)
        report: Report | None = None,
        pretrained_cfg: dict[str, Any] | None = None,
        about: dict[str, str | int | float] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.steps = check_steps(steps)
        self.drive = None if drive is None else check_steps(drive, "drive")
        self.readout = readout
        self.input_shape = input_shape
        self.report = report or Report(())
        self.pretrained_cfg = {"input_size": input_shape, **plain_cfg(pretrained_cfg)}
        self.about = dict(about or {})
        self.chunks: Chunks | None = None
        self._program: Program | None = None
        self._recordings: Recordings | None = None

    @property
    def program(self) -> Program:
        """The graph, sorted and ready to run; made at first use."""
        if self._program is None:
            self._program = Program(self.net.graph, self.net)
        return self._program

    def refresh(self) -> None:
        """Forget the sorted graph, after the graph or its units have been exchanged."""
        self._program = self._recordings = None

    def shapes(self, batch: int = 1) -> dict[Node, Any]:
        """Return every value's shape, and every size's number, for so many images.

        Runs once on zeros, in evaluation mode so that no statistics move.
        """
        like = next(iter(self.parameters()), torch.empty(()))
        image = torch.zeros(batch, *self.input_shape, device=like.device, dtype=like.dtype)
        with torch.no_grad(), evaluating(self):
            return self.program.shapes(image)

    def neurons(self) -> Iterator[tuple[str, Neuron]]:
        """Yield the name of each neuron's node, as monitors see it, and the neuron."""
        for node, neuron in self.neuron_nodes():
            yield node.name, neuron

    def neuron_nodes(self) -> Iterator[tuple[Node, Neuron]]:
        """Yield each node of the graph that calls a neuron, and the neuron."""
        for node in self.net.graph.find_nodes(op="call_module"):
            unit = self.net.get_submodule(node.target)
            if isinstance(unit, Neuron):
                yield node, unit

    def forward(self, x: Tensor, steps: int | None = None) -> Any:
        """Return the answer ``[B, classes]`` after ``steps`` steps, ``self.steps`` by default."""
        steps = check_steps(self.steps if steps is None else steps)
        if not isinstance(self.readout, Mean):
            return over_leaves(lambda curve: curve[-1], self.unroll(x, steps))
        chunks = self.outputs(x, steps)
        total = over_leaves(lambda out: out.sum(0), next(chunks))
        for chunk in chunks:
            total = over_leaves(lambda so_far, out: so_far + out.sum(0), total, chunk)
        return over_leaves(lambda sent: sent / min(steps, self.drive or steps), total)

    def read(self, outputs: Tensor) -> Tensor:
        """Return the answer ``[B, ...]`` that raw outputs ``[T, B, ...]`` of all steps give."""
        return self.readout(outputs, self.drive)[-1]

    def unroll(
        self,
        x: Tensor,
        steps: int | None = None,
        *,
        chunk: int | None = None,
        monitor: Monitor | None = None,
    ) -> Any:
        """Return the whole curve: ``curve[t]`` is the answer after ``t + 1`` steps.

        Args:
            x: images ``[B, C, H, W]``.
            steps: ``T``; the network's own by default.
            chunk: steps computed at once; changes memory and speed, never the answer.
            monitor: called with each unit's name and output ``[T', B, ...]``, chunk by chunk.

        Returns:
            Answers ``[T, B, classes]``, in the structure that the network returns.

        Raises:
            SpiketuneError: on steps below 1 or images of another shape.
        """
        steps = check_steps(self.steps if steps is None else steps)
        chunks = list(self.outputs(x, steps, chunk=chunk, monitor=monitor))
        outputs = over_leaves(lambda *parts: torch.cat(parts), *chunks)
        return over_leaves(lambda out: self.readout(out, self.drive), outputs)

    def outputs(
        self,
        x: Tensor,
        steps: int,
        *,
        chunk: int | None = None,
        monitor: Monitor | None = None,
        program: Program | None = None,
    ) -> Iterator[Any]:
        """Yield the raw outputs ``[T', B, classes]`` chunk by chunk; see ``unroll``.

        ``program`` runs the graph in the place of the network's own, as training rules do that go
        backward in another way.
        """
        self._check_images(x)
        program = program or self.program
        if chunk is not None:
            check_steps(chunk, "chunk")
        # While gradients are kept, chunks would save nothing: the whole history stays in memory.
        whole = torch.is_grad_enabled() or any(neuron.whole for _, neuron in self.neurons())
        own = program is self.program and not self.training
        pieces = Pieces(program, x) if own and not whole and chunk is None else None
        longest = chunk or (pieces.steps if pieces else steps if whole else CHUNK)
        runner: Runner = pieces or program
        if own and not whole:
            runner = self._recorded(runner, x)
        with within_memory(self, x, steps, chunk=longest):
            run = Simulation(program, x, self.drive, monitor, runner)
        while run.done < steps:
            with within_memory(self, x, steps, chunk=longest):
                out = run.advance(min(longest, steps - run.done))
            yield out

    def _recorded(self, plain: Runner, x: Tensor) -> Runner:
        if self.chunks is None:
            return plain
        if self._recordings is None:
            self._recordings = self.chunks.start(self)
        return self._recordings.runner(plain, x)

    def ann(
        self, x: Tensor, observe: Monitor | None = None, *, instead: Instead | None = None
    ) -> Any:
        """Return what the network tends to: its own graph with activations in place of neurons.

        Args:
            x: images ``[B, C, H, W]``.
            observe: called with the name and the input ``[B, ...]`` of each unit.
            instead: answers ``[B, ...]`` in the place of the activations, given the name, the unit
                and its input.
        """
        self._check_images(x)
        return self.program.ann(x, observe, instead=instead)

    def fold(self) -> SpikingNetwork:
        """Return a copy whose spikes are bare numbers: θ moved into the weights that follow."""
        from .folding import fold

        return fold(self)

    def _check_images(self, x: Tensor) -> None:
        if tuple(x.shape) == self.input_shape:
            raise SpiketuneError(
                f"one image of shape {list(x.shape)} given, not a batch; give x.unsqueeze(0)"
            )
        if tuple(x.shape[1:]) != self.input_shape:
            raise SpiketuneError(
                f"images of shape {list(x.shape)} given, but the network was made for "
                f"[B, {', '.join(map(str, self.input_shape))}]; resize them, or convert the "
                "network again with images of this size"
            )
        expected = next(iter(self.parameters()), x).dtype
        if x.dtype != expected:
            raise SpiketuneError(
                f"images of type {x.dtype} given to a network of {expected}; convert one with .to()"
            )
        # A NaN membrane never fires: without this check such images would get a finite answer.
        if not bool(x.isfinite().all()):
            raise SpiketuneError(
                "the images hold NaN or infinity; check how they were loaded and normalised"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as data, like a saved file: a traced graph would be generated code otherwise.
        from .description import describe, revive

        return revive, (describe(self), self.state_dict(), self.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        from copy import deepcopy

        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        state = {**self.__dict__, "_program": None, "_recordings": None}
        clone.__dict__.update({key: deepcopy(value, memo) for key, value in state.items()})
        return clone


def plain_cfg(cfg: object) -> dict[str, Any]:
    """Return what matters for preprocessing of a timm-style configuration, as plain data.

    Example:
        >>> plain_cfg({"mean": (0.5,), "url": "https://..."})
        {'mean': [0.5]}
    """
    if not isinstance(cfg, dict):
        return {}
    wanted = ("num_classes", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    found = {key: cfg[key] for key in wanted if cfg.get(key) is not None}
    return {k: list(v) if isinstance(v, list | tuple) else v for k, v in found.items()}


def check_steps(steps: int, name: str = "steps") -> int:
    """Return ``steps`` if it is at least 1.

    Example:
        >>> check_steps(4)
        4
    """
    if not isinstance(steps, int) or steps < 1:
        raise SpiketuneError(f"{name} must be a whole number, at least 1, not {steps}")
    return steps
