"""Where each image of a batch lies in every value of a graph, so that some of them can be taken.

A value holds its images along one dimension, of size ``outer B inner`` for a batch of ``B``: image
``b`` owns the places ``(o B + b) inner + i``. Windows of images are ``inner`` rows, ``[B W, ...]``;
attention that puts its tokens first makes them ``outer``, ``[L B, ...]``. A reshape leaves a value
in memory as it is, so it changes neither what stands before an image nor what stands behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .chunk import leads
from .ops import RESHAPES
from .program import Program


@dataclass(frozen=True)
class Rows:
    """Where the images lie in a value.

    Attributes:
        shape: of the value for one image.
        dim: dimension along which the images lie.
        outer: times that the batch is repeated along it.
        inner: neighbouring places along it that belong to one image.

    Example:
        >>> windows = Rows(shape=(2,), dim=0, outer=1, inner=2)
        >>> windows.take(torch.arange(6), torch.tensor([0, 2])).tolist()
        [0, 1, 4, 5]
    """

    shape: tuple[int, ...]
    dim: int
    outer: int
    inner: int

    def of(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the value for so many images."""
        return (*self.shape[: self.dim], batch * self.shape[self.dim], *self.shape[self.dim + 1 :])

    def take(self, value: Tensor, index: Tensor) -> Tensor:
        """Return the places of the images ``index``."""
        # Not index_select, which would lose a channels-last memory.
        if self.outer * self.inner == 1:
            return value[(slice(None),) * self.dim + (index,)]
        around = value.shape[: self.dim], value.shape[self.dim + 1 :]
        parts = value.reshape(*around[0], self.outer, -1, self.inner, *around[1])
        taken: Tensor = parts[(slice(None),) * (self.dim + 1) + (index,)]
        return taken.flatten(self.dim, self.dim + 2)


def rows_of(program: Program, image: Tensor) -> dict[Node, Rows | str]:
    """Return where the images lie in each value that grows with the batch.

    Where that cannot be told, or not as ``Rows``, a text says why. Runs as an ANN on zeros.

    Args:
        program: of the network.
        image: one image ``[1, ...]``, for shape, type and device.

    Example:
        >>> from spiketune.snn.reading import read
        >>> x = torch.rand(2, 3, 4)
        >>> net = read(torch.nn.Flatten(0, 1), x)
        >>> [(rows.outer, rows.inner) for rows in rows_of(Program(net.graph, net), x[:1]).values()]
        [(1, 1), (1, 3)]
    """
    two, three = (
        program.shapes(torch.zeros_like(image).expand(count, *image.shape[1:])) for count in (2, 3)
    )
    found: dict[Node, Rows | str] = {}
    for node in program.nodes:
        small, large = _first(two[node]), _first(three[node])
        if small != large and isinstance(small, tuple):
            found[node] = _rows(node, small, large, found)
    return found


def _first(shape: Any) -> Any:
    """Return the shape of the first part of a value that a node cut into several."""
    return shape[0] if isinstance(shape, tuple) and shape and isinstance(shape[0], tuple) else shape


def _rows(
    node: Node, two: tuple[int, ...], three: tuple[int, ...], found: dict[Node, Rows | str]
) -> Rows | str:
    sources = {n: found[n] for n in node.all_input_nodes if n in found}
    for source in sources.values():
        if isinstance(source, str):
            return source
    growing = [dim for dim, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
    dim = growing[0]
    each = three[dim] - two[dim]
    if len(growing) > 1 or two[dim] != 2 * each:
        return "more than a batch's images lie along a dimension"
    # A unit may stand between images that changed places and their way back.
    if node.meta.get("along") and dim == 0 and any(map(leads, sources)):
        return "images are cut, joined or moved along the batch"
    shape = (*two[:dim], each, *two[dim + 1 :])
    if each == 1:
        return Rows(shape, dim, 1, 1)
    mine = Rows(shape, dim, 1, each)
    outers = {_outer(node, theirs, mine) for theirs in sources.values() if isinstance(theirs, Rows)}
    outer = outers.pop() if len(outers) == 1 else None
    if outer is None or each % outer:
        return "it is not known which rows belong to which image"
    return Rows(shape, dim, outer, each // outer)


def _outer(node: Node, theirs: Rows, mine: Rows) -> int | None:
    """Return how often the batch is repeated as an input has it, None where it cannot tell."""
    if node.target in RESHAPES:
        before = prod(theirs.shape[: theirs.dim]) * theirs.outer
        outer, rest = divmod(before, prod(mine.shape[: mine.dim]))
        return None if rest else outer
    return theirs.outer if theirs.shape[theirs.dim] == mine.shape[mine.dim] else None
