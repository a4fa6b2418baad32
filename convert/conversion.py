"""The verbs of this room: ``check`` looks, ``to_snn`` converts."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from spiketune.snn import IF, ConversionError, Report, Row, SpikingNetwork, evaluating, read
from spiketune.snn.cost import operation_rows
from spiketune.snn.placing import place_neurons
from spiketune.snn.rules import refusals, refuse, refuse_mixing, rounding

from .method import Method, brief, builder_of
from .observe import Progress, collect, histograms
from .passes import fold_batch_norms, fold_constants, gate_max_pools, move_max_pools
from .thresholds import Histogram


def check(ann: nn.Module, images: Tensor | None = None) -> Report:
    """Report what ``to_snn`` would do with each operation, without converting anything.

    Args:
        ann: any network from images to one tensor.
        images: a batch, for its size; by default the size in ``ann.pretrained_cfg``.

    Returns:
        The report; ``report.refused`` is empty if the network converts completely.

    Raises:
        ConversionError: if the network cannot be read at all.

    Example:
        >>> import timm
        >>> report = check(timm.create_model("test_resnet").eval())
        >>> report.neurons, report.refused
        (12, ())
    """
    example = _example(ann) if images is None else images[:1]
    like = next(ann.parameters(), torch.empty(()))
    net, rows = prepare(ann, example.to(like.device, like.dtype))
    draft = SpikingNetwork(net, steps=1, input_shape=tuple(example.shape[1:]))
    return Report((*rows, *operation_rows(draft)))


def to_snn(
    ann: nn.Module,
    images: Tensor | Iterable[object],
    config: Method,
    *,
    progress: Progress | None = None,
) -> SpikingNetwork:
    """Convert a network; ``ann`` is left untouched.

    BatchNorm is folded, max-pools move, every ReLU-like activation becomes a neuron, and the
    thresholds are balanced on the images. The rewritten graph is compared with the network on
    those images before it is returned: a wrong rewrite raises, it never runs.

    Args:
        ann: any network from images to one tensor.
        images: calibration images, from the training set: a tensor ``[N, C, H, W]``, or a loader
            of tensors or ``(x, ...)``.
        config: a method, such as ``Ternary(steps=16)``.
        progress: called with how many calibration batches are done, and how many there are.

    Returns:
        The spiking network in evaluation mode; ``.report`` says what became what.

    Raises:
        ConversionError: if anything has no rule: module path, what it is, what to do.
        SpiketuneError: on calibration images that are missing or not finite, or if ``config`` is
            no conversion method.

    Example:
        >>> import timm, spiketune as st
        >>> snn = to_snn(timm.create_model("test_resnet"), torch.rand(8, 3, 64, 64), st.Ternary())
        >>> snn.report.neurons
        12
    """
    began = time.perf_counter()
    build = builder_of(config)
    like = next(ann.parameters(), torch.empty(()))
    found = collect(images, config.calibration_images).to(like.dtype)
    net, rows = prepare(ann, found[:1].to(like.device))
    refuse(rows)
    snn = SpikingNetwork(
        net,
        steps=config.steps,
        input_shape=tuple(found.shape[1:]),
        drive=config.drive,
        pretrained_cfg=getattr(ann, "pretrained_cfg", None),
    ).eval()
    _compare(ann, snn, found[:16].to(like.device))
    observed = histograms(snn, found, config.per, progress=progress)
    for node, draft in list(snn.neuron_nodes()):
        threshold = _threshold(observed[node.name], config, node.meta["path"])
        if draft.ceiling is not None:
            threshold = threshold.clamp_max(draft.ceiling)
        shape = (-1, *[1] * (len(node.meta["shape"]) - 2)) if config.per == "channel" else ()
        neuron = build(config, threshold.view(shape).to(like.dtype), draft.ceiling)
        net.set_submodule(str(node.target), neuron.to(like.device))
    net.recompile()
    snn.report = Report((*rows, *operation_rows(snn)))
    snn.about = {
        "method": brief(config),
        "spikes": config.spikes,
        "calibration_images": len(found),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return snn.eval()


def prepare(ann: nn.Module, example: Tensor) -> tuple[GraphModule, list[Row]]:
    """Return the graph with neurons in it, not balanced yet, and the report's rows so far."""
    net = read(ann, example)
    rows = [Row(path, "dropout", "removed", "idle in evaluation") for path in net.meta["removed"]]
    fold_constants(net)
    rows += fold_batch_norms(net)
    rows += move_max_pools(net)
    one = torch.ones((), dtype=example.dtype, device=example.device)
    rows += place_neurons(net, lambda ceiling: IF(one, ceiling=ceiling))  # balanced later
    gated = gate_max_pools(net)
    twice = {row.path for row in gated}
    rows = [row for row in rows if row.became != "moved" or row.path not in twice] + gated
    net = GraphModule(net, net.graph)
    rows += refusals(net)
    return net, rows


def _compare(ann: nn.Module, snn: SpikingNetwork, images: Tensor) -> None:
    """Compare the rewritten graph, activations in place of its neurons, with the network."""
    with torch.no_grad():
        with evaluating(ann):
            expected = ann(images)
        found = snn.ann(images)
        refuse_mixing(snn, images)
    worst = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not worst <= rounding(found.dtype):
        raise ConversionError(
            "",
            f"the rewritten graph differs from the network by {worst:.1e} of its largest answer",
            "check that the network in eval() gives one answer to one image, and report this",
        )


def _threshold(histogram: Histogram, config: Method, path: str) -> Tensor:
    """Balance, and give channels that were never active the largest threshold of the layer."""
    threshold = config.threshold.balance(histogram, config.drive or config.steps)
    silent = threshold <= 0
    if bool(silent.all()):
        raise ConversionError(
            path,
            "no activation above zero on any calibration image",
            "give more images, or check the network's weights",
        )
    return torch.where(silent, threshold.max(), threshold)


def _example(ann: nn.Module) -> Tensor:
    cfg = getattr(ann, "pretrained_cfg", None)
    size = (
        None if cfg is None else cfg.get("input_size") if isinstance(cfg, dict) else cfg.input_size
    )
    if size is None:
        raise ConversionError("", "the size of its images is not known", "give check() a batch")
    return torch.zeros(1, *size)
