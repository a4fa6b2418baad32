"""Steps in pieces sized to memory: few at once where values are large, many where they are small.

A network's first values are often hundreds of times as large as its last. One length of chunk for
all of them is too long in front, where buffers fall out of the cache and are handed back to the
system after every use, or too short behind, where a step alone keeps no convolution busy. So the
graph is cut at its necks, where little is passed on, and every part between two necks takes a
chunk's steps in pieces of its own length. No answer changes: a piece is a shorter chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Node

from .chunk import Chunk, Moment, States, Values
from .program import Monitor, Program
from .room import free_memory, numbers_of
from .trees import over_leaves

# Bytes that a value of a piece may always take on a CPU, so that convolutions are kept busy. It
# may take as many, too, as the largest value of one step, for that much is needed anyhow. Twice as
# many gains 2 % of time and costs half of the memory again.
CPU = 2 * 2**20
# Bytes that may always pass a neck in a chunk.
NECK = CPU
# Share of the free memory of a GPU; the values of a piece live beside each other.
SHARE = 1 / 16
# Steps of a chunk at most, a power of two.
LONGEST = 8


class Part(NamedTuple):
    """Neighbouring nodes that take a chunk's steps in pieces of one length.

    Attributes:
        nodes: in order.
        steps: length of a piece.

    Example:
        >>> Part((), 4).steps
        4
    """

    nodes: tuple[Node, ...]
    steps: int


class Pieces:
    """How a program runs its chunks of steps in pieces.

    Args:
        program: the graph to run.
        image: images to run, ``[B, C, H, W]``.
        budget: bytes of the largest value of a piece; by default what suits the device.

    Attributes:
        steps: length of a chunk.
        parts: of the graph, in order.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        >>> snn, x = st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8)), torch.rand(5, 4)
        >>> Pieces(snn.program, x, budget=2 * 5 * 8 * 4).steps  # 2 steps of 5 images
        2
    """

    def __init__(self, program: Program, image: Tensor, *, budget: int | None = None) -> None:
        self.program = program
        sizes = {node: len(image) * size for node, size in _sizes(program, image).items()}
        budget = budget or max(budget_on(image.device), *sizes.values(), 1)
        lengths = [2**power for power in range(LONGEST.bit_length())]
        ways = [(_parts(program, sizes, budget, length), length) for length in lengths]
        # What calls cost that do little goes with their number.
        self.parts, self.steps = min(ways, key=lambda way: _calls(way[0]))

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[Any, States]:
        """Run the body for a chunk of steps, as ``Program.run`` does."""
        whole = Chunk(self.program, stem, moment, owned=True)
        states = dict(states)
        for part in self.parts:
            if part.steps < moment.steps:
                self._in_pieces(part, whole, states, monitor)
            else:
                states |= self.program.advance(whole, part.nodes, states, monitor)
        return self.program.answer(whole), states

    def _in_pieces(self, part: Part, whole: Chunk, states: States, monitor: Monitor | None) -> None:
        """Run one part piece by piece; what it passes on goes to the whole chunk."""
        moment, made = whole.moment, []
        for first in range(0, moment.steps, part.steps):
            steps = min(part.steps, moment.steps - first)
            piece = Chunk(self.program, whole.stem, replace(moment, steps=steps), owned=True)
            piece.values = {
                node: over_leaves(lambda v: _cut(v, first, steps, moment.steps), value)  # noqa: B023
                for node, value in whole.values.items()
            }
            states |= self.program.advance(piece, part.nodes, states, monitor)
            made.append(piece.values)
        for node in set(whole.values) - set(made[-1]):
            del whole.values[node]
        for node in set(made[-1]) - set(whole.values):
            whole.values[node] = over_leaves(
                lambda *some: torch.cat(some), *(values[node] for values in made)
            )


def budget_on(device: torch.device) -> int:
    """Return how many bytes a value of a piece may always take on a device.

    Example:
        >>> budget_on(torch.device("cpu")) == CPU
        True
    """
    if device.type != "cuda":
        return CPU
    free = free_memory(device)
    assert free is not None  # a GPU says
    return int(free * SHARE)


# What the images of a network are shaped as does not change, so this is found once a program.
_known: WeakKeyDictionary[Program, dict[Node, int]] = WeakKeyDictionary()


def _sizes(program: Program, image: Tensor) -> dict[Node, int]:
    """Return the bytes of each value of the body, for one image and step."""
    if program not in _known:
        shapes = program.shapes(image[:1])
        _known[program] = {node: numbers_of(shapes[node]) for node in program.body}
    return {node: most * image.element_size() for node, most in _known[program].items()}


def _parts(program: Program, sizes: dict[Node, int], budget: int, length: int) -> list[Part]:
    """Cut the body at its necks, for chunks of so many steps."""
    found: list[Part] = []
    block: list[Node] = []
    alive: dict[Node, int] = {}
    for node in program.body:
        block.append(node)
        alive[node] = sizes[node]
        for gone in program.last_used(node):
            alive.pop(gone, None)
        # A neck is kept for the whole chunk, and copied there piece by piece.
        if sum(alive.values()) * length > max(NECK, budget) and node is not program.body[-1]:
            continue
        steps = min(length, max(1, budget // max(1, *(sizes[one] for one in block))))
        steps = 2 ** (steps.bit_length() - 1)
        if found and found[-1].steps == steps:
            found[-1] = Part((*found[-1].nodes, *block), steps)
        else:
            found.append(Part(tuple(block), steps))
        block = []
    return found


def _calls(parts: list[Part]) -> float:
    """Return how many calls of nodes a step takes."""
    return sum(len(part.nodes) / part.steps for part in parts)


def _cut(value: Tensor, first: int, steps: int, of: int) -> Tensor:
    """Return some steps of a value that is kept as ``[T*B, ...]`` or ``[T, ...]``."""
    rows = len(value) // of
    return value[first * rows : (first + steps) * rows]
