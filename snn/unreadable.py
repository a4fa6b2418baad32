"""What cannot be read at all: said before ``torch.export`` sees it, or after it gave up.

``torch.export`` fails with messages about its own insides. Here each becomes one sentence: the
module path, what stands there, and what to do about it.
"""

from __future__ import annotations

import inspect
import io
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .errors import ConversionError
from .neurons import Temporal

_FLOAT = "convert the float network it was made from, before quantising"
_LOGGER = "torch.fx.experimental.symbolic_shapes"
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OWN = "write it in torch operations, or make it one as help(spiketune.register_function) shows"


def readable(network: object) -> nn.Module:
    """Return the network itself, out of ``torch.compile`` and data-parallel wrappers.

    Args:
        network: what the user gave.

    Raises:
        ConversionError: if it can be no network that ``read`` reads: no module, spiking already,
            quantised, scripted, exported, without values, or of several inputs.

    Example:
        >>> readable(torch.compile(nn.ReLU()))
        ReLU()
    """
    if not isinstance(network, nn.Module):
        kind = network.__name__ if isinstance(network, type) else type(network).__name__
        raise ConversionError(
            "", f"{kind} is no network", "give an nn.Module, such as spiketune.load_ann('resnet18')"
        )
    while (inner := _inside(network)) is not None:
        network = inner
    for path, module in network.named_modules():
        for applies, found, remedy in _KINDS:
            if applies(module):
                raise ConversionError(path, f"{type(module).__name__} {found}", remedy)
    _refuse_values(network)
    _refuse_inputs(network)
    return network


def _inside(network: nn.Module) -> nn.Module | None:
    """Return what a wrapper wraps; None for a network."""
    if isinstance(network, DataParallel | DistributedDataParallel):
        inner: nn.Module = network.module
        return inner
    return dict(network.named_children()).get("_orig_mod")  # torch.compile's


# Stand in networks that are to be quantised one day, and do nothing until then.
_STUBS = ("QuantStub", "DeQuantStub", "QuantWrapper", "FloatFunctional")


def _is_quantised(module: nn.Module) -> bool:
    room = type(module).__module__
    inside = any(word in room for word in ("quantized", "quantization", ".qat"))
    return room.startswith("torch.ao.") and inside and type(module).__name__ not in _STUBS


def _is_exported(module: nn.Module) -> bool:
    # Exported graphs have train() and eval() replaced by functions that raise.
    return isinstance(module, GraphModule) and "train" in vars(module)


_KINDS: tuple[tuple[Callable[[nn.Module], bool], str, str], ...] = (
    (
        lambda module: isinstance(module, Temporal),
        "spikes already",
        "give the network that it was converted from",
    ),
    (_is_quantised, "is quantised", _FLOAT),
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is TorchScript",
        "give the Python network that it was made from",
    ),
    (
        _is_exported,
        "was exported by torch.export already",
        "give the network that it was exported from",
    ),
    (
        lambda module: any(map(nn.parameter.is_lazy, module.parameters(recurse=False))),
        "has no parameters yet",
        "run the network once on some images, so that its lazy layers learn their sizes",
    ),
)


def _refuse_values(network: nn.Module) -> None:
    """Refuse parameters that are no floats, have no values, or lie on several devices."""
    places: dict[torch.device, str] = {}
    for name, parameter in network.named_parameters():
        if parameter.dtype not in _TYPES and not parameter.dtype.is_complex:
            raise ConversionError(name, f"a parameter of type {parameter.dtype}", _FLOAT)
        places.setdefault(parameter.device, name)
    meta = places.get(torch.device("meta"))
    if meta is not None:
        raise ConversionError(
            meta, "a parameter on the meta device, without values", "load the network's weights"
        )
    if len(places) > 1:
        (device, _), (other, name), *_ = places.items()
        raise ConversionError(
            name,
            f"a parameter on {other}, but others are on {device}",
            f"move the network to one device, such as with .to({str(device)!r})",
        )


def _refuse_inputs(network: nn.Module) -> None:
    """Refuse a forward that cannot be called with images alone."""
    try:
        inputs = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # written in C
        return
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [i.name for i in inputs if i.default is i.empty and i.kind not in several]
    if len(needed) > 1:
        raise ConversionError(
            "",
            f"the forward of {type(network).__name__} takes {len(needed)} inputs "
            f"({', '.join(needed)})",
            "wrap it in a module whose forward takes the images only and supplies the others",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the graph that ``torch.export`` logs and prints to stderr when it gives up.

    One sentence follows anyway; what a network itself says on stderr it says whenever it runs.

    Example:
        >>> with quiet():
        ...     logging.getLogger(_LOGGER).isEnabledFor(logging.WARNING)
        False
    """
    logger = logging.getLogger(_LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def takes_any(network: nn.Module) -> bool:
    """Whether a forward takes its images as one of ``*args``.

    Example:
        >>> takes_any(nn.ReLU())
        False
    """
    inputs = list(inspect.signature(network.forward).parameters.values())
    return bool(inputs) and inputs[0].kind is inspect.Parameter.VAR_POSITIONAL


def unreadable(network: nn.Module, images: Tensor, error: Exception) -> ConversionError:
    """Say in one sentence why ``torch.export`` gave up.

    Args:
        network: what it could not read, in evaluation mode.
        images: the batch that it was tried on.
        error: what it raised.

    Returns:
        The error to raise: where, what, and what to do.

    Example:
        >>> str(unreadable(nn.Linear(3, 2), torch.rand(1, 4), RuntimeError()))
        'network: Linear fails on images of shape [1, 4] (...); check their size and channels, ...'
    """
    try:
        with torch.no_grad():
            network(images)
    except Exception as own:  # a network may raise anything
        path, kind = _where(network, own)
        return ConversionError(
            path,
            f"{kind} fails on images of shape {[1, *images.shape[1:]]} ({_sentence(own)})",
            "check their size and channels, [N, C, H, W]",
        )
    path, kind = _where(network, error)
    text = str(error)
    if "not a known type" in text and "output" in text:
        return ConversionError(
            "output",
            f"{type(network).__name__} returns something else than tensors ({_sentence(error)})",
            "wrap it to return a tensor, or tensors in tuples, lists or dicts",
        )
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return ConversionError(
            path,
            f"the control flow of {kind} depends on the values of its images",
            "choose between tensors with torch.where, or leave numbers in tensors",
        )
    if "fake impl" in text:
        return ConversionError(
            path, f"an operation of {kind} does not say its output's shape ({_sentence(error)})",
            "add NAME.register_fake(...), then call spiketune.register_function",
        )  # fmt: skip
    return ConversionError(path, f"torch.export cannot read {kind} ({_sentence(error)})", _OWN)


def _where(network: nn.Module, error: BaseException | None) -> tuple[str, str]:
    """Return path and class of the innermost module that was being called."""
    paths = {id(module): path for path, module in network.named_modules()}
    found = ("", type(network).__name__)
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = frame.f_locals.get("self")
            if id(module) in paths:
                found = (paths[id(module)], type(module).__name__)
        error = error.__cause__
    return found


def _sentence(error: BaseException) -> str:
    """Return the first sentence of a message."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(". ")[0].rstrip(".")
