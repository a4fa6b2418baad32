"""How the chunks of a network's steps are run: as they stand, or recorded once and done again.

``run_by`` chooses for one network. A way is a dataclass of settings; what was recorded lies on the
network, is forgotten with its graph, and enters neither files nor copies. Answers are the same up
to rounding, with which a spike may move where a membrane meets its threshold.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from .chunk import Moment, States, Values
from .errors import SpiketuneError
from .functions import Sums
from .graded import Graded
from .poisson import Poisson
from .program import Monitor, Program
from .recording import is_watched, kind_of
from .schedules import Constant

if TYPE_CHECKING:
    from .network import SpikingNetwork


class Runner(Protocol):
    """Runs the chunks of some images: a ``Program``, ``Pieces`` of one, or ``Repeating``."""

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[Any, States]:
        """Run a chunk of steps; see ``Program.run``."""


@dataclass(frozen=True, kw_only=True)
class Chunks(ABC):
    """A way to run chunks; see ``run_by``.

    Example:
        >>> import spiketune as st
        >>> isinstance(st.CompiledChunks(), Chunks)
        True
    """

    @abstractmethod
    def start(self, snn: SpikingNetwork) -> Recordings:
        """Return what will hold the recordings of a network, of which there are none yet."""

    def require(self, snn: SpikingNetwork) -> None:
        """Refuse a network that cannot be run so.

        Raises:
            SpiketuneError: naming the unit that stands in the way.
        """
        for name, unit in snn.net.named_modules():
            if getattr(unit, "whole", False):
                raise SpiketuneError(
                    f"{name} is a {type(unit).__name__}, which computes all its steps at once, so "
                    "there are no chunks to record; leave run_by out for this network"
                )
            if isinstance(unit, Poisson):
                raise SpiketuneError(
                    f"{name} is a Poisson, whose spikes are drawn step by step, so no chunk is "
                    "like another; leave run_by out for this network"
                )


def run_by(snn: SpikingNetwork, chunks: Chunks | None) -> None:
    """Choose how a network runs its chunks of steps, in the network itself.

    The choice holds while nothing needs a closer look: with gradients, a monitor or hooks, in
    training, for rules and ``EarlyExit`` chunks run as they stand, and so does the first batch of
    each shape, for a recording pays when a shape comes again. It is kept by ``copy.deepcopy``, not
    by ``save``.

    Args:
        snn: the network.
        chunks: ``CompiledChunks(...)`` or ``GraphedChunks(...)``; None for chunks as they stand.

    Raises:
        SpiketuneError: on what is no spiking network or no way to run chunks, and on a network that
            sees all steps at once, draws its spikes by chance, or lies on a device that cannot
            record.

    Example:
        >>> import torch, spiketune as st
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8))
        >>> run_by(snn, st.CompiledChunks())
        >>> snn.chunks
        CompiledChunks(mode='default', most=64)
    """
    if not hasattr(snn, "chunks"):
        raise SpiketuneError(
            f"a {type(snn).__name__} has no steps to run; give the network that to_snn() returns"
        )
    if not isinstance(chunks, Chunks | None):
        raise SpiketuneError(
            f"chunks are not run by {chunks!r}; give CompiledChunks(), GraphedChunks() or None"
        )
    if chunks is not None:
        chunks.require(snn)
    snn.chunks = chunks
    snn.refresh()


class Recordings(ABC):
    """What was recorded of a network's chunks so far; subclasses say how.

    Attributes:
        net: of the network.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        self.net = snn.net
        self._met: set[Hashable] = set()
        self._made_for: object = None
        self._broken = False

    def runner(self, plain: Runner, x: Tensor) -> Runner:
        """Return what runs the chunks of some images, given what runs them as they stand."""
        if self._broken or is_watched(self.units().values()):
            return plain
        made_for = self.depends_on()
        if made_for != self._made_for:
            self._met.clear()
            self.forget()
            self._made_for = made_for
        kind = kind_of(x)
        known = kind in self._met
        self._met.add(kind)
        return Repeating(self, plain, kind, first=not known)

    def units(self) -> dict[str, nn.Module]:
        """Return the modules that the graph calls, and those inside them, by name."""
        called = {str(node.target) for node in self.net.graph.find_nodes(op="call_module")}
        return {
            f"{path}.{name}": unit
            for path in sorted(called)
            for name, unit in self.net.get_submodule(path).named_modules()
        }

    def depends_on(self) -> object:
        """Return what recordings are made for, besides what they are given: all settings."""
        return [(name, type(unit), _settings(unit)) for name, unit in self.units().items()]

    @abstractmethod
    def forget(self) -> None:
        """Let all recordings go."""

    @abstractmethod
    def seen(self, kind: Hashable, states: States) -> None:
        """Take note of the states after the first chunk of images of a new kind."""

    @abstractmethod
    def run(
        self, plain: Runner, kind: Hashable, stem: Values, states: States, moment: Moment
    ) -> tuple[Any, States]:
        """Run a chunk of images of a known kind as ``Program.run`` does, recorded if need be.

        What was given stays as it was, should this fail.
        """

    def give_up(self, error: Exception) -> None:
        """Run chunks as they stand from now on, and say why."""
        self._broken = True
        self.forget()
        said = (str(error).strip() or "no reason given").splitlines()[0]
        warnings.warn(
            f"chunks run as they stand, for none could be recorded ({type(error).__name__}: "
            f"{said}); mend that for speed, or run_by(snn, None) to silence this",
            stacklevel=2,
        )


class Repeating:
    """Runs the chunks of some images by recordings, or as they stand where these cannot serve.

    Attributes:
        plain: runs them as they stand, as for fewer of the images.
    """

    def __init__(
        self, recordings: Recordings, plain: Runner, kind: Hashable, *, first: bool
    ) -> None:
        self._recordings, self.plain, self._kind, self._first = recordings, plain, kind, first

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[Any, States]:
        """Run a chunk of steps, as ``Program.run`` does."""
        if monitor is None and not self._first:
            try:
                return self._recordings.run(self.plain, self._kind, stem, states, moment)
            # What is wrong with the chunk itself shows again where it runs as it stands.
            except Exception as error:
                self._recordings.give_up(error)
                self._first = True
        out, after = self.plain.run(stem, states, moment, monitor=monitor)
        if not states:
            self._recordings.seen(self._kind, after)
        return out, after


def settled(program: Program, states: States, drive: int | None) -> States:
    """Return states of which none counts further than a step still depends on.

    Once the image has ceased to act, the same is done at every step.

    Example:
        >>> import torch, spiketune as st
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 4), st.Graded(steps=8))
        >>> (name, neuron), = snn.neurons()
        >>> _, state = neuron(torch.rand(5, 1, 8))
        >>> state.count, settled(snn.program, {name: state}, snn.drive)[name].count
        (5, 1)
    """
    nodes = {node.name: node for node in program.body if node.name in states}
    found = dict(states)
    for name, state in states.items():
        last = drive
        if not isinstance(state, Sums):
            unit = program.unit(nodes[name])
            plain = isinstance(unit, Graded) and unit.schedule == Constant()
            last = unit.drive if plain else None
        if last and state.count > last:
            found[name] = state._replace(count=last)
    return found


def _settings(unit: nn.Module) -> tuple[object, ...]:
    """Return all of a module that is no tensor of its own, and the names of those that are."""
    plain = {name: one for name, one in vars(unit).items() if not name.startswith("_")}
    named = [(name, id(one) if isinstance(one, Tensor) else one) for name, one in plain.items()]
    return named, [*unit._parameters], [*unit._buffers]
