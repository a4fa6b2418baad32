"""Spikes kept for the way back as bytes in the place of floats.

A neuron sends ``θ s`` with ``s`` in {-1, 0, 1}, and the layers behind keep it for the gradient of
their weights. Here ``s`` is kept, one byte each, and ``θ``; on the way back ``θ s`` is made again.
A product with -1, 0 or 1 is never rounded, so the bits are those that the neuron sent, and so are
those of every gradient.

What a neuron sends is known by its memory, whatever view of it a layer keeps: a flattened one, or
one with the channels last. Not packed are spikes that were changed in place since, parts of them
(one step, some channels), sums of spikes, and copies in another precision, as autocast makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from spiketune.snn import PSN, Charging, Neuron, SignedIF, SpikingNetwork

from .errors import TuneError
from .rules import Unroll, outputs

# What gives a value back that was kept for the way back.
Give = Callable[[], Tensor]


@dataclass(frozen=True)
class AsItIs:
    """A value kept as it is, unless it was changed in place since.

    Hooks end autograd's own check of that.

    Raises:
        TuneError: when asked for what was changed.

    Example:
        >>> one = torch.zeros(1)
        >>> kept = AsItIs.of(one)
        >>> kept() is kept.tensor
        True
    """

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> AsItIs:
        """Keep a value, without what it was computed from: that would keep itself alive."""
        return cls(tensor if tensor.grad_fn is None else tensor.detach(), tensor._version)

    def __call__(self) -> Tensor:
        """Return the value."""
        if self.tensor._version != self.version:
            raise TuneError(
                f"a value of shape {list(self.tensor.shape)} that the way back needs was changed "
                "in place; let the operation that did make a new one"
            )
        return self.tensor


@dataclass(frozen=True)
class Sent:
    """What one neuron sent: its place in memory, and ``s`` in bytes once it has been asked for.

    Attributes:
        size: ``[T, B, ...]``.
        stride: where its values lie; together they fill their memory.
        dtype: of ``θ s``.
        version: autograd's count of changes in place.
        threshold: ``θ`` as it was, None where bare ``s`` is sent.
        signed: whether ``s`` may be -1.
        signs: holds ``s [N]`` once it has been asked for, int8, in the order of memory.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    version: int
    threshold: Tensor | None
    signed: bool
    signs: list[Tensor]

    def holds(self, view: Tensor) -> bool:
        """Whether a view of its memory shows all of it, unchanged."""
        same = view._version == self.version and view.dtype == self.dtype
        return same and view.numel() >= torch.Size(self.size).numel()

    def pack(self, view: Tensor) -> None:
        """Compute ``s`` from any view of the memory, unless it has been."""
        if not self.signs:
            values = view.detach().as_strided((torch.Size(self.size).numel(),), (1,), 0)
            signs = (values > 0).view(torch.int8)
            self.signs.append(signs.sub_((values < 0).view(torch.int8)) if self.signed else signs)

    def unpack(self) -> Tensor:
        """Return ``θ s [T, B, ...]``, laid out as it was."""
        whole = self.signs[0].to(self.dtype).as_strided(self.size, self.stride)
        if self.threshold is not None:
            whole.mul_(self.threshold)
        return whole.data  # as new: its count of changes in place begins at 0


class Packing:
    """Packs the spikes of a network while it runs.

    Args:
        snn: the network.

    Raises:
        TuneError: if none of its neurons is binary or ternary.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn, images = st.twin(ann, 4, (4,)), torch.rand(2, 4)
        >>> with Packing(snn).active():
        ...     sent = torch.cat(list(snn.outputs(images, 4)))
        >>> sent.sum().backward()
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        self._snn = snn
        # By memory, and as long as that is in use: another's at the same address is another.
        self._sent: WeakKeyDictionary[torch.UntypedStorage, Sent] = WeakKeyDictionary()
        if not any(_sends_spikes(neuron) for _, neuron in snn.neurons()):
            kinds = ", ".join(sorted({type(neuron).__name__ for _, neuron in snn.neurons()}))
            raise TuneError(
                "pack_spikes keeps the spikes of binary and ternary neurons as bytes, but the "
                f"network's are {kinds}; leave it out"
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Pack what is kept inside the block."""
        with self.watching(), saved_tensors_hooks(self.pack, _give):
            yield

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what neurons send inside the block."""

        # No method: neurons are copied with their hooks, and this would take the network along.
        def note(neuron: Neuron, _: Any, output: tuple[Tensor, Any]) -> None:
            with torch.no_grad():
                threshold = None if neuron.folded else neuron.threshold.clone()
            self._remember(output[0], threshold, signed=isinstance(neuron, SignedIF), signs=[])

        with ExitStack() as stack:
            for neuron in {neuron for _, neuron in self._snn.neurons() if _sends_spikes(neuron)}:
                stack.callback(neuron.register_forward_hook(note).remove)
            yield

    def pack(self, tensor: Tensor) -> Give:
        """Keep a value, in bytes if it is all that a neuron sent, and return what gives it back."""
        strided = tensor.layout == torch.strided
        sent = self._sent.get(tensor.untyped_storage()) if strided else None
        if sent is None or not sent.holds(tensor):
            return AsItIs.of(tensor)
        sent.pack(tensor)
        place = (tensor.size(), tensor.stride(), tensor.storage_offset())
        return partial(self._unpack, sent, place)

    def _unpack(self, sent: Sent, place: tuple[Any, ...]) -> Tensor:
        whole = sent.unpack()
        # What is computed again from it may keep it again.
        self._remember(whole, sent.threshold, signed=sent.signed, signs=sent.signs)
        return whole.as_strided(*place)

    def _remember(
        self, values: Tensor, threshold: Tensor | None, *, signed: bool, signs: list[Tensor]
    ) -> None:
        memory = values.untyped_storage()
        if memory.nbytes() == values.numel() * values.element_size():  # and no part of a larger one
            self._sent[memory] = Sent(
                tuple(values.size()),
                values.stride(),
                values.dtype,
                values._version,
                threshold,
                signed,
                signs,
            )


def unrolled(snn: SpikingNetwork, *, pack_spikes: bool) -> Unroll:
    """Return what runs all steps at once, spikes kept as bytes if that is asked for.

    Args:
        snn: the network, with the neurons that it will run with.
        pack_spikes: a rule's setting of that name.

    Raises:
        TuneError: if spikes are to be packed and none of the neurons is binary or ternary.

    Example:
        >>> import spiketune as st
        >>> snn = st.twin(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()), 4, (4,))
        >>> list(unrolled(snn, pack_spikes=True)(snn, torch.rand(2, 4), 4).shape)
        [4, 2, 8]
    """
    return packed(Packing(snn), outputs) if pack_spikes else outputs


def packed(packing: Packing, unroll: Unroll) -> Unroll:
    """Return what runs all steps as ``unroll`` does and packs the spikes that are kept.

    Raises:
        TuneError: when it runs under autocast, where layers keep copies of the spikes.

    Example:
        >>> import spiketune as st
        >>> from spiketune.finetune.rules import outputs
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn = st.twin(ann, 4, (4,))
        >>> list(packed(Packing(snn), outputs)(snn, torch.rand(2, 4), 4).shape)
        [4, 2, 3]
    """

    def run(snn: SpikingNetwork, images: Tensor, steps: int) -> Tensor:
        if torch.is_autocast_enabled(images.device.type):
            raise TuneError(
                "pack_spikes: under bfloat16 layers keep copies of the spikes in half precision, "
                "which are not packed; tune with precision='float32', or leave it out"
            )
        with packing.active():
            return unroll(snn, images, steps)

    return run


def _sends_spikes(neuron: Neuron) -> bool:
    """Whether what a neuron sends is ``θ s`` with ``s`` in {-1, 0, 1}."""
    return isinstance(neuron, Charging | SignedIF | PSN)


def _give(kept: Give) -> Tensor:
    return kept()
