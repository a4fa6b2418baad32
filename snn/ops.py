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

# Products of two signals that stand for weights and inputs at once, as in attention: what arrives
# at either side as spikes is accumulated too.
MATRIX_PRODUCTS: set[Target] = {aten.matmul.default, aten.bmm.default, aten.einsum.default}

# Linear operations without weights: averages. A spike passes through as a smaller spike.
POOLING: set[Target] = {
    aten.avg_pool1d.default,
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
    aten.col2im.default,
    aten.copy.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.flip.default,
    aten.im2col.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.permute.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.slice_scatter.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.stack.default,
    aten.transpose.int,
    aten.unbind.int,
    aten.unfold.default,
    aten.unsqueeze.default,
    aten.upsample_nearest2d.vec,
    operator.getitem,
}

# Behind these, spikes are still spikes.
PASSING: set[Target] = {*POOLING, *SCALINGS, *SHAPES, *SUMS}

# Plain arithmetic on sizes, the only integers that a graph computes.
SCALARS: set[Target] = {
    aten.sym_size.int,
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
}

# Everything else that is known: pure functions, run on the sums of what has arrived. See
# ``functions``; a new one is added here, or by ``register_function``.
FUNCTIONS: set[Target] = {
    *MATRIX_PRODUCTS,
    aten._prelu_kernel.default,
    aten.abs.default,
    aten.addcmul.default,
    aten.amax.default,
    aten.amin.default,
    aten.baddbmm.default,
    aten.bitwise_not.default,
    aten.celu.default,
    aten.clamp.default,
    aten.clamp.Tensor,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.clamp_min.Tensor,
    aten.cos.default,
    aten.cumsum.default,
    aten.elu.default,
    aten.exp.default,
    aten.gelu.default,
    aten.group_norm.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.layer_norm.default,
    aten.leaky_relu.default,
    aten.linalg_vector_norm.default,
    aten.log.default,
    aten.log_softmax.int,
    aten.masked_fill.Scalar,
    aten.max_pool2d.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.mish.default,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.prelu.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.rms_norm.default,
    aten.rsqrt.default,
    aten.scaled_dot_product_attention.default,
    aten.selu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.sin.default,
    aten.softmax.int,
    aten.softplus.default,
    aten.sqrt.default,
    aten.square.default,
    aten.std.correction,
    aten.std.dim,
    aten.tanh.default,
    aten.to.dtype,
    aten.upsample_bicubic2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.var.correction,
    aten.var.dim,
    aten.where.self,
    aten.zeros.default,
}

# Answer with infinity on purpose, where attention is not to look.
MASKS: set[Target] = {aten.masked_fill.Scalar, aten.where.self}

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

# Do nothing where the type stays the same, and are removed then; else all are ``to.dtype``.
CASTS: set[Target] = {
    aten._to_copy.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
}

RUNNABLE: set[Target] = {
    *WEIGHTED, *POOLING, *SUMS, *SCALINGS, *SHAPES, *SCALARS, *FUNCTIONS,
}  # fmt: skip

BY_NAME: dict[str, Target] = {str(op): op for op in RUNNABLE}


def register_function(operation: Target) -> None:
    """Let networks with this operation convert: it runs as a function of accumulated signals.

    The operation must be pure (no randomness, nothing in place), give one tensor, and answer each
    image of a batch by itself. Whoever loads a saved network registers it first, too.

    Most activations need no rule: what is written in torch operations, an ``autograd.Function``
    too, is read through. One that ``torch.export`` cannot read, such as a kernel of one's own or a
    call of NumPy, becomes an operation in five lines, as below.

    Args:
        operation: as the graph names it, such as ``torch.ops.aten.erf.default``, or one of
            your own from ``torch.library.custom_op``.

    Example:
        >>> @torch.library.custom_op("spiketune_doc::wave", mutates_args=())
        ... def wave(x: torch.Tensor) -> torch.Tensor:
        ...     return torch.from_numpy(x.numpy() * 2)  # the activation, called as wave(x)
        >>> _ = wave.register_fake(torch.empty_like)
        >>> register_function(torch.ops.spiketune_doc.wave.default)
        >>> torch.ops.spiketune_doc.wave.default in FUNCTIONS
        True
    """
    FUNCTIONS.add(operation)
    RUNNABLE.add(operation)
    BY_NAME[str(operation)] = operation


Bounds = tuple[float | None, float | None]


def _relu(_: Node) -> Bounds:
    return 0.0, None


def _relu6(_: Node) -> Bounds:
    return 0.0, 6.0


def _hardtanh(node: Node) -> Bounds:
    given = dict(zip(("min_val", "max_val"), node.args[1:], strict=False))
    bounds = {"min_val": -1.0, "max_val": 1.0, **given, **node.kwargs}
    return _bounds(bounds["min_val"], bounds["max_val"])


def _clamp(node: Node) -> Bounds:
    low, high = (*node.args[1:], None, None)[:2]
    return _bounds(node.kwargs.get("min", low), node.kwargs.get("max", high))


def _bounds(low: Any, high: Any) -> Bounds:
    return None if low is None else float(low), None if high is None else float(high)


# Activations that a neuron stands for: ``clamp(x, floor, ceiling)``, read off the node. One whose
# floor is not 0 needs a neuron that sends negative spikes; where there is none it is a function.
ACTIVATIONS: dict[Target, Callable[[Node], Bounds]] = {
    aten.relu.default: _relu,
    aten.relu6.default: _relu6,
    aten.hardtanh.default: _hardtanh,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
}
