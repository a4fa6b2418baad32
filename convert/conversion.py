"""The verbs of this room: ``check`` looks, ``to_snn`` converts."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from spiketune.snn import (
    ConversionError,
    Poisson,
    Report,
    Row,
    SpikingNetwork,
    evaluating,
    leaves,
    read,
)
from spiketune.snn.cost import operation_rows
from spiketune.snn.placing import place_encoders, place_neurons, put_poisson
from spiketune.snn.rules import refusals, refuse, refuse_mixing, rounding
from spiketune.snn.unreadable import readable

from .calibration import Calibration, Progress, silent
from .equalise import equalise_ranges
from .graded import Graded
from .images import Images, collect
from .method import Method, brief, builder_of
from .passes import fold_batch_norms, fold_constants, move_max_pools, split_attention
from .places import places


def check(ann: nn.Module, images: Images | None = None, config: Method | None = None) -> Report:
    """Report what ``to_snn`` would do with each operation, without converting anything.

    Args:
        ann: any network of one input, images; it may answer in tuples, lists and dicts.
        images: some images, for their size; by default the size in ``ann.pretrained_cfg``.
        config: the method to convert with; ``Graded()`` by default.

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
    ann = readable(ann)
    example = _example(ann) if images is None else collect(images, 1)
    like = next(ann.parameters(), torch.empty(()))
    config = config or Graded()
    net, rows = prepare(ann, example.to(like.device, like.dtype), config)
    if config.input == "poisson":
        rows.append(put_poisson(net, Poisson(scale=1.0)))
    draft = SpikingNetwork(net, steps=1, input_shape=tuple(example.shape[1:]))
    return Report((*rows, *operation_rows(draft)))


def to_snn(
    ann: nn.Module,
    images: Images,
    config: Method | None = None,
    *,
    progress: Progress | None = None,
) -> SpikingNetwork:
    """Convert a network; ``ann`` is left untouched.

    BatchNorm is folded, max-pools move, every ReLU-like activation becomes a neuron, and the
    thresholds are balanced on the images. The rewritten graph is compared with the network on
    those images before it is returned: a wrong rewrite raises, it never runs.

    Args:
        ann: any network of one input, images; it may answer in tuples, lists and dicts.
        images: calibration images, from the training set: a tensor ``[N, C, H, W]``, a loader of
            tensors or ``(x, ...)``, or a data set, which is sampled all over.
        config: a method, such as ``Ternary(steps=16)``; by default ``Graded()``, the most
            accurate that is known here for any network.
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
    config = Graded() if config is None else config
    build = partial(builder_of(config), config)
    ann = readable(ann)
    like = next(ann.parameters(), torch.empty(()))
    found = collect(images, config.calibration_images).to(like.dtype)
    net, rows = prepare(ann, found[:1].to(like.device), config)
    refuse(rows)
    snn = SpikingNetwork(
        net,
        steps=config.steps,
        input_shape=tuple(found.shape[1:]),
        drive=config.drive,
        readout=config.readout,
        pretrained_cfg=getattr(ann, "pretrained_cfg", None),
    ).eval()
    _compare(ann, snn, found[:16].to(like.device))
    if config.input == "poisson":
        # Before balancing, for rules that simulate; for all others the unit is the identity.
        rows.append(put_poisson(net, Poisson(scale=float(found.abs().max()))))
        snn.refresh()
    # Rules that simulate see the neurons as they are going to be, but for their thresholds.
    config.arrange([neuron for _, neuron in snn.neurons()])
    standing = {name: at for name, at in places(snn, config.per).items() if at.neuron.balanced}
    calibration = Calibration(
        snn, found, standing, config.levels_told, progress or silent, build=build
    )
    if config.equalise:
        rows += equalise_ranges(replace(calibration, places=places(snn, "channel")))
        _compare(ann, snn, found[:16].to(like.device))
    _balance(calibration, config)
    _correct(calibration, config)
    snn.report = Report((*rows, *operation_rows(snn)))
    snn.about = {
        "method": brief(config),
        "spikes": config.spikes,
        "calibration_images": len(found),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return snn.eval()


def prepare(ann: nn.Module, example: Tensor, config: Method) -> tuple[GraphModule, list[Row]]:
    """Return the graph with neurons in it, not balanced yet, and the report's rows so far."""
    build = builder_of(config)
    one = torch.ones((), dtype=example.dtype, device=example.device)
    net = read(ann, example)
    rows = [Row(path, "dropout", "removed", "idle in evaluation") for path in net.meta["removed"]]
    rows += split_attention(net)
    fold_constants(net)
    rows += fold_batch_norms(net)
    rows += move_max_pools(net)
    rows += config.place(net)
    rows += place_neurons(net, lambda floor, ceiling: build(config, one, floor, ceiling))
    rows += place_encoders(net, lambda floor, ceiling: build(config, one, floor, ceiling))
    net = GraphModule(net, net.graph)
    rows += refusals(net)
    return net, rows


def _compare(ann: nn.Module, snn: SpikingNetwork, images: Tensor) -> None:
    """Compare the rewritten graph, activations in place of its neurons, with the network."""
    with torch.no_grad():
        # What is compiled within would be compiled for this one call.
        with evaluating(ann), torch.compiler.set_stance("force_eager"):
            expected = leaves(ann(images))
        _refuse_infinite(ann, expected)
        try:
            found = leaves(snn.ann(images))
        except RuntimeError as error:
            raise ConversionError(
                "",
                "its computation is tied to one batch size",
                "remove reshapes that hold the batch size as a number; use x.shape[0], not len(x)",
            ) from error
        refuse_mixing(snn, images)
    if len(expected) != len(found):
        raise ConversionError("", "the network answers differently each time", "call eval() on it")
    worst = max(
        float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))
        for one, other in zip(found, expected, strict=True)
    )
    if not worst <= rounding(found[0].dtype):
        raise ConversionError(
            "",
            f"the rewritten graph differs from the network by {worst:.1e} of its largest answer",
            "check that the network in eval() gives one answer to one image, and report this",
        )


def _refuse_infinite(ann: nn.Module, answers: list[Tensor]) -> None:
    """Raise if the network itself answers images that are finite with something that is not."""
    if all(bool(answer.isfinite().all()) for answer in answers):
        return
    for name, parameter in ann.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ConversionError(
                name, "a parameter holds NaN or infinity", "load the network's weights again"
            )
    raise ConversionError(
        "",
        f"its answers in {answers[0].dtype} hold NaN or infinity",
        "check the images' preprocessing, or convert it in a wider type, such as ann.float()",
    )


def _balance(calibration: Calibration, config: Method) -> None:
    """Put a neuron with a balanced threshold in the place of every draft."""
    snn = calibration.snn
    balanced = config.threshold.calibrate(calibration) if calibration.places else {}
    for name, channels in balanced.items():
        place = calibration.places[name]
        snn.net.set_submodule(str(place.node.target), calibration.neuron(place, channels))
    config.arrange([neuron for _, neuron in snn.neurons()])
    snn.net.recompile()
    snn.refresh()


def _correct(calibration: Calibration, config: Method) -> None:
    """Run the corrections; each aims at the ANN, not at what those before have made of it."""
    snn = calibration.snn
    original = deepcopy(snn) if config.corrections else None
    balanced = replace(calibration, places=places(snn, config.per), reference=original)
    for correction in config.corrections:
        correction.correct(balanced)


def _example(ann: nn.Module) -> Tensor:
    cfg = getattr(ann, "pretrained_cfg", None)
    size = (
        None if cfg is None else cfg.get("input_size") if isinstance(cfg, dict) else cfg.input_size
    )
    if size is None:
        raise ConversionError("", "the size of its images is not known", "give check() a batch")
    return torch.zeros(1, *size)
