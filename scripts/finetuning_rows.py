"""The rows of ``finetuning.py``: how each network of the table is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import spiketune as st
from spiketune.finetune import Precision


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a row is made of.

    Attributes:
        build: makes the ANN, untrained.
        ann: the trained ANN.
        images: some of the training set, as they are, to calibrate on.
        loader: those to train on, moved and flipped.
        epochs: passes over them.
        steps: ``T`` of the training.
        precision: of the training.
        device: of everything.
    """

    build: Callable[[], nn.Module]
    ann: nn.Module
    images: Tensor
    loader: DataLoader[Any]
    epochs: int
    steps: int
    precision: Precision
    device: str

    def tuned(
        self,
        snn: st.SpikingNetwork,
        rule: st.Rule,
        rate: float,
        *,
        steps: int | None = None,
        taught: bool = True,
        features: st.Features | None = None,
        watch: Callable[[Any], None] = lambda update: None,
    ) -> st.SpikingNetwork:
        """Tune a network and show the loss now and then."""

        def show(update: Any) -> None:
            watch(update)
            if update.batch % 20 == 0:
                print(
                    f"  epoch {update.epoch}, batch {update.batch}: {update.loss:.3f}", flush=True
                )

        st.tune(
            snn, self.loader, rule, steps=steps or self.steps, epochs=self.epochs,
            teacher=self.ann if taught else None,
            training=st.Training(learning_rate=rate, features=features), on_batch=show,
            precision=self.precision, device=self.device,
        )  # fmt: skip
        return snn

    def converted(self, method: st.Method) -> st.SpikingNetwork:
        """Convert the ANN."""
        return st.to_snn(self.ann, self.images, method)

    def binary(self) -> st.SpikingNetwork:
        """Convert to binary spikes, biases corrected."""
        return self.converted(st.Binary(steps=self.steps, corrections=CORRECTED))

    def ternary(self) -> st.SpikingNetwork:
        """Convert to ternary spikes, biases corrected."""
        return self.converted(st.Ternary(steps=self.steps, corrections=CORRECTED))

    def normed(self) -> st.SpikingNetwork:
        """Put BatchNorm back on the currents of ``ternary``, every slope calibrated."""
        snn = st.unfold(self.ternary(), self.images[:256], steps=self.steps)
        st.calibrate_gain(snn, self.images[:64], steps=self.steps, surrogate=st.snn.Triangle())
        return snn

    def block_ends(self) -> st.Features:
        """Let the neurons at the end of every residual block do what the ANN's activations do."""
        names = [name for name, _ in self.ann.named_modules()]
        last = "act3" if "layer1.0.act3" in names else "act2"
        return st.Features(at=tuple(n for n in names if n.endswith(last)), weight=0.3)


@dataclass(frozen=True)
class Row:
    """How a row is made, and of what share of the images; None is all that there are."""

    make: Callable[[Parts], st.SpikingNetwork]
    share: float | None = 1.0


OWN = st.SurrogateBPTT(surrogate=None)  # slopes as calibrated
CORRECTED = (st.BiasCorrection(images=64),)


def direct(parts: Parts, steps: int, every: int = 50) -> st.SpikingNetwork:
    """Train the spiking twin from scratch, slopes calibrated ``every`` so many updates."""
    torch.manual_seed(0)
    ann: Any = parts.build()
    # timm starts every block as the identity (its last γ is 0): slopes calibrated on that would
    # not suit the blocks that grow.
    ann.init_weights(zero_init_last=False)
    snn = st.twin(ann, steps, tuple(parts.images.shape[1:]))
    st.calibrate_gain(snn, parts.images[:64], steps=steps, surrogate=st.snn.Triangle())
    seen = [flow(snn, parts.images[:32], steps)]

    def calibrate(update: Any) -> None:
        """Calibrate again, for the slopes that suited the first weights do not suit the next."""
        if update.batch % every == 0:
            seen.append(flow(snn, parts.images[:32], steps))
            st.calibrate_gain(snn, parts.images[:32], steps=steps)

    parts.tuned(snn, OWN, 3e-3, steps=steps, taught=False, watch=calibrate)
    seen.append(flow(snn, parts.images[:32], steps))
    snn.about["gradients"] = ", ".join(f"{one:.2f}" for one in seen)
    return snn


def flow(snn: st.SpikingNetwork, images: Tensor, steps: int) -> float:
    """Return the ratio of the gradient's norm at the first neurons to that at the last."""
    norms = list(st.gradient_norms(snn, images, steps=steps).values())
    return norms[0] / norms[-1]


def surrogate(parts: Parts) -> st.SpikingNetwork:
    """Train the converted network as it is, its BatchNorms folded into the weights."""
    return parts.tuned(parts.ternary(), st.SurrogateBPTT(), 3e-4)


def distilled(parts: Parts) -> st.SpikingNetwork:
    """Train with BatchNorm on currents, towards what the ANN says at the end of every block."""
    return st.fold_norms(parts.tuned(parts.normed(), OWN, 1e-3, features=parts.block_ends()))


ROWS = {
    "converted, binary": Row(lambda p: p.converted(st.Binary(steps=p.steps))),
    "converted, ternary": Row(lambda p: p.converted(st.Ternary(steps=p.steps))),
    "converted, ternary, corrected": Row(Parts.ternary),
    "converted, graded": Row(lambda p: p.converted(st.Graded(steps=p.steps))),
    "hybrid, surrogate": Row(surrogate),
    "hybrid, surrogate, all images": Row(surrogate, share=None),
    "hybrid, BN on currents": Row(lambda p: st.fold_norms(p.tuned(p.normed(), OWN, 1e-3))),
    "hybrid, BN on currents, features": Row(distilled),
    "hybrid, STDB": Row(lambda p: p.tuned(p.binary(), st.STDB(), 3e-4)),
    "hybrid, SLTT": Row(lambda p: p.tuned(p.ternary(), st.SLTT(), 3e-4)),
    "direct, BN on currents": Row(lambda p: direct(p, p.steps)),
    # Ten steps take two and a half times as long as four: the same time is so many of the images.
    "direct, BN on currents, T=10": Row(lambda p: direct(p, 10, every=5), share=0.4),
}
