"""The table of operations: what each means to a spiking network.

``torch.export`` turns any network into calls of ATen operations. Coverage grows here: an
operation in no table has no rule, and a network that uses it is refused by name. The same table
is the allow-list of ``storage.load``: nothing else in a file is ever called.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import Target

aten = torch.ops.aten

CONVOLUTIONS: set[Target] = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
}

# Linear operations with weights, and where the weight and the bias stand among their arguments.
# Fed with spikes they accumulate; fed with anything else they multiply.
WEIGHTED: dict[Target, tuple[int, int]] = {
    **dict.fromkeys(CONVOLUTIONS, (1, 2)),
    aten.conv_transpose2d.input: (1, 2),
    aten.linear.default: (1, 2),
}

# Linear operations without weights: averages. A spike passes through as a smaller spike.
POOLING: set[Target] = {
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
}

# Sums of activations, in ANN units on both sides.
SUMS: set[Target] = {aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.neg.default}

# Products; linear only while at most one factor is an activation.
SCALINGS: set[Target] = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}

RESHAPES: set[Target] = {aten.flatten.using_ints, aten.reshape.default, aten.view.default}

# Values move, none changes.
SHAPES: set[Target] = {
    *RESHAPES,
    aten.cat.default,
    aten.chunk.default,
    aten.expand.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.permute.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
    aten.upsample_nearest2d.vec,
    operator.getitem,
}

# Plain arithmetic on sizes, the only integers that a graph computes.
SCALARS: set[Target] = {
    aten.sym_size.int,
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
}

# Allowed on spikes in networks trained directly, where the maximum of spikes is a spike.
MAXIMA: set[Target] = {aten.max_pool2d.default}

# Do nothing in evaluation mode and are removed while reading.
IDENTITIES: set[Target] = {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
}

# Do nothing where the type stays the same, and are removed then.
CASTS: set[Target] = {aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout}

RUNNABLE: set[Target] = {*WEIGHTED, *POOLING, *SUMS, *SCALINGS, *SHAPES, *SCALARS, *MAXIMA}

BY_NAME: dict[str, Target] = {str(op): op for op in RUNNABLE}


def _relu(_: Node) -> float | None:
    return None


def _relu6(_: Node) -> float | None:
    return 6.0


def _hardtanh(node: Node) -> float | None:
    given = dict(zip(("min_val", "max_val"), node.args[1:], strict=False))
    bounds = {"min_val": -1.0, "max_val": 1.0, **given, **node.kwargs}
    return _bounds(bounds["min_val"], bounds["max_val"])


def _clamp(node: Node) -> float | None:
    low, high = (*node.args[1:], None, None)[:2]
    return _bounds(node.kwargs.get("min", low), node.kwargs.get("max", high))


def _bounds(low: Any, high: Any) -> float | None:
    if low is None or float(low) != 0.0:
        raise LookupError(f"a clamp from {low} to {high}: only one from 0 is a firing rate")
    return None if high is None else float(high)


# ReLU-like activations: ``clamp(x, 0, ceiling)``. The function reads the ceiling off the node and
# raises LookupError, with what it found, where the clamp is of another kind.
ACTIVATIONS: dict[Target, Callable[[Node], float | None]] = {
    aten.relu.default: _relu,
    aten.relu6.default: _relu6,
    aten.hardtanh.default: _hardtanh,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
}
