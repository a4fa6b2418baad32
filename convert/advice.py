"""What the doctor says: sentences with numbers, and the setting to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .diagnosis import LOW
from .graded import Graded

if TYPE_CHECKING:
    from .diagnosis import Diagnosis, LayerFinding

MOST = 3  # layers that get a sentence of their own
SMALL = 1e-3  # -30 dB: too small to be worth a change


def advise(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield advice: where the signal falls, what the worst layers add, which channels are idle.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU())
        >>> advice = list(advise(st.doctor(ann, torch.rand(9, 4), st.Binary(steps=2))))
        >>> any("use " in sentence for sentence in advice)
        True
    """
    if diagnosis.first_fall is None:
        yield "There is no neuron in this network; see check() for what stays dense."
        return
    yield _fall(diagnosis, diagnosis.first_fall)
    worst = sorted(diagnosis.layers, key=lambda layer: -layer.own)[:MOST]
    yield from _grouped([layer for layer in worst if layer.own > SMALL], diagnosis)
    if worst[0].own <= SMALL:
        yield "No layer adds more than a thousandth of its signal; nothing needs changing."
    yield from _idle(diagnosis)


def _fall(diagnosis: Diagnosis, place: int) -> str:
    layer = diagnosis.layers[place]
    share = layer.share("inherited")
    if layer.snr < LOW:
        where = f"{layer.path} is the first layer below {LOW:.0f} dB ({layer.snr:.1f} dB)"
    elif place == 0:
        where = f"{layer.path}, the only neuron layer, answers with {layer.snr:.1f} dB"
    else:
        before = diagnosis.layers[place - 1].snr
        where = (
            f"No layer is below {LOW:.0f} dB; the ratio falls most at {layer.path} "
            f"({before:.1f} to {layer.snr:.1f} dB)"
        )
    return f"{where}; {share:.0%} of the error there comes from layers before."


def _grouped(layers: list[LayerFinding], diagnosis: Diagnosis) -> Iterator[str]:
    """Yield a sentence for each remedy: the layer that needs it most, and those like it."""
    remedies = {"clipping": _clipping, "quantisation": _quantisation, "unevenness": _unevenness}
    groups: dict[tuple[str, str], list[LayerFinding]] = {}
    for layer in layers:
        part = max(remedies, key=lambda name: layer.share(name))
        setting = remedies[part](layer, diagnosis).rpartition("; ")[2]
        groups.setdefault((part, setting), []).append(layer)
    for (part, _), (first, *others) in groups.items():
        like = ", ".join(f"{layer.path} ({layer.share(part):.1%})" for layer in others)
        yield (
            f"{first.path}: {first.share(part):.1%} of the error is {part}"
            f"{remedies[part](first, diagnosis)}." + f" Likewise {like}." * bool(others)
        )


def _clipping(layer: LayerFinding, diagnosis: Diagnosis) -> str:
    where = f", {layer.worst_share:.0%} of that in channel {layer.worst}" * (layer.channels > 1)
    if layer.per == "layer" and layer.channels > 1:
        return f"{where}; use per='channel', or a larger percentile"
    return f"{where}; use a larger threshold, Percentile(percent=99.99) or Max()"


def _quantisation(layer: LayerFinding, diagnosis: Diagnosis) -> str:
    if diagnosis.method.startswith("Phase"):
        return f"; use steps={2 * diagnosis.steps}, or Graded()"
    if layer.neuron == "Graded" and not _signed(layer, diagnosis):
        return f"; use levels={_setting(diagnosis, 'levels', Graded.levels) + 1}"
    few = "" if layer.levels is None else f", {layer.levels:.0f} levels are too coarse"
    if "initial=0.0" in diagnosis.method:
        return f"{few}; use initial=0.5, which rounds where 0 cuts off"
    if layer.per == "layer" and layer.channels > 1:
        return f"{few} for channels of very different range; use per='channel'"
    if diagnosis.drive is not None:
        return f"{few}; use drive={2 * diagnosis.drive}, or Graded()"
    return f"{few}; use steps={2 * diagnosis.steps}, or Graded()"


def _unevenness(layer: LayerFinding, diagnosis: Diagnosis) -> str:
    if _signed(layer, diagnosis) or diagnosis.method.startswith("Phase"):
        return f", the neurons are not at rest yet; use steps={2 * diagnosis.steps}, or Graded()"
    if layer.neuron == "Graded":
        more = _setting(diagnosis, "spikes_per_step", Graded.spikes_per_step) + 1
        return (
            f", not all was sent in time; use spikes_per_step={more}, or "
            f"steps={2 * diagnosis.steps}"
        )
    if "reset='hard'" in diagnosis.method:
        return ", what a hard reset throws away; use reset='soft'"
    return ", spikes sent too early or too late; use Ternary(), which takes them back"


def _idle(diagnosis: Diagnosis) -> Iterator[str]:
    silent = max(diagnosis.layers, key=lambda layer: len(layer.silent))
    if silent.silent:
        yield (
            f"{silent.path}: {len(silent.silent)} of {silent.channels} channels are active in "
            f"the ANN and never spike ({_list(silent.silent)}); use a smaller threshold, "
            "per='channel', or more steps."
        )
    dead = max(diagnosis.layers, key=lambda layer: len(layer.dead))
    if dead.dead:
        yield (
            f"{dead.path}: {len(dead.dead)} of {dead.channels} channels are active on none of "
            f"{diagnosis.images} images, in the ANN either ({_list(dead.dead)}); they cost "
            "nothing and may be pruned."
        )


def _signed(layer: LayerFinding, diagnosis: Diagnosis) -> bool:
    """Whether the neuron sends spikes of one size; with ``Ternary``, all of them do."""
    return layer.neuron == "SignedIF" or diagnosis.method.startswith("Ternary")


def _setting(diagnosis: Diagnosis, name: str, default: int) -> int:
    """Return a number among the method's own settings, not among those of its rules."""
    _, _, own = diagnosis.method.partition("(")
    while "(" in own:
        own = re.sub(r"\([^()]*\)", "", own)
    found = re.search(rf"\b{name}=(\d+)", own)
    return int(found[1]) if found else default


def _list(channels: tuple[int, ...]) -> str:
    return ", ".join(map(str, channels[:5])) + ", ..." * (len(channels) > 5)
