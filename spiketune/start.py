"""What ``spiketune tune`` starts from: the network, made ready, and what it is trained by."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

import spiketune as st
from spiketune.convert.images import collect
from spiketune.convert.method import brief
from spiketune.finetune import Half, Rule
from spiketune.finetune.about import About
from spiketune.finetune.checkpoint import read
from spiketune.finetune.distributed import Processes
from spiketune.snn import Surrogate, TemporalBatchNorm
from spiketune.snn.settings import decode, encode

from .options import Images
from .untrained import Build

UNFOLD_ON = 256  # images on which the statistics of the currents are first measured
CALIBRATE_ON = 32  # at most: all that the gradient passes is in memory at once


@dataclass(frozen=True, kw_only=True)
class Start:
    """The options of ``tune`` that shape the network before its first update."""

    network: Path
    steps: int
    num_classes: int | None
    build: Build
    unfold: bool
    calibrate: Surrogate | None

    def first(self, data: str) -> st.SpikingNetwork:
        """Return the network in the file, or the untrained one of that name.

        Raises:
            SpiketuneError: on options that would do nothing.
        """
        if self.network.suffix == ".safetensors" or self.network.is_file():
            self._require_no_building()
            snn = st.load(self.network)
            if self.unfold:
                self._require_foldable(snn)
            return snn
        if self.unfold:
            raise st.SpiketuneError(
                f"--unfold puts BatchNorm into a converted network, and {self.network}, trained "
                "from scratch, has its own; leave --unfold out, or give the .safetensors file of "
                "`convert` as --network"
            )
        return self.build.network(str(self.network), self.steps, data, self.num_classes)

    def _require_no_building(self) -> None:
        given = self.build.given + ["--num_classes"] * (self.num_classes is not None)
        if given:
            raise st.SpiketuneError(
                f"{', '.join(given)} would do nothing, for {self.network} holds a network that is "
                "built; leave this out, or name a network to train from scratch, such as "
                "--network resnet18"
            )

    def _require_foldable(self, snn: st.SpikingNetwork) -> None:
        if any(isinstance(unit, TemporalBatchNorm) for unit in snn.modules()):
            raise st.SpiketuneError(
                f"--unfold folds BatchNorm away when the training is done, but {self.network} has "
                "TEBN, whose factor for each step no weight can hold; leave --unfold out"
            )

    def ready(
        self,
        snn: st.SpikingNetwork,
        images: Images,
        rule: Rule,
        *,
        processes: Processes,
        checkpoint: Path | None,
    ) -> st.SpikingNetwork:
        """Return the network with BatchNorm put in and slopes calibrated, where that is asked.

        Args:
            snn: as ``first`` returned it, on its device.
            images: those of the training.
            rule: that of the training.
            processes: those that train together; all get the slopes that the first one finds.
            checkpoint: of the run to go on with, if there is one. Slopes are taken from there:
                found again they might differ by a rounding, on another device by more.

        Raises:
            SpiketuneError: if that run was started from another network, or on other images.
        """
        snn.about.update(images.named)
        if self.build.given:
            snn.about["build"] = brief(self.build)
        if self.calibrate is not None:
            snn.about["calibrate"] = str(self.calibrate)
        device = next(snn.parameters()).device
        still = replace(images, augment=False, workers=0)

        def shown(count: int) -> torch.Tensor:
            return collect(still.loader("train", snn, shuffle=True), count).to(device)

        if self.build.single_spike is not None and checkpoint is None:
            st.fit_times(snn, shown(CALIBRATE_ON))  # so that neurons fire, at times that differ
        if self.unfold:
            snn = st.unfold(snn, shown(UNFOLD_ON), steps=self.steps)
        begun = None if checkpoint is None else read(checkpoint).about
        if begun is not None:
            _require_same(begun, snn.about, f"{checkpoint}")
        if self.calibrate is None:
            return snn
        if begun is None:
            st.calibrate_gain(
                snn,
                shown(min(images.batch, CALIBRATE_ON)),
                steps=self.steps,
                surrogate=self.calibrate,
                detach_reset=getattr(rule, "detach_reset", True),
            )
        own = _slopes(snn) if begun is None else str(begun["slopes"])
        slopes = replace(processes, device=device).from_lead(own)
        _set_slopes(snn, slopes, f"{checkpoint}")
        snn.about["slopes"] = slopes  # until the end, for a run that goes on
        return snn

    def done(self, snn: st.SpikingNetwork) -> st.SpikingNetwork:
        """Return the trained network as it is to be saved, what was put in folded away."""
        for name in ("slopes", *Images.NAMED):  # its neurons have the one, a resume needs the rest
            snn.about.pop(name, None)
        return st.fold_norms(snn) if self.unfold else snn


def taught_by(
    rule: Rule | None,
    training: st.Training | None,
    hybrid: str | None,
    *,
    epochs: int,
    start: Start,
) -> Half:
    """Return the rule and the settings of the optimisation that the options name.

    Raises:
        SpiketuneError: on options that would do nothing beside the others.
    """
    if hybrid is None:
        # Calibrated slopes are to stay; any other rule than the default is asked for that below.
        usual = st.SurrogateBPTT(surrogate=None) if start.calibrate else st.SurrogateBPTT()
        half = Half(rule or usual, training or st.Training())
    else:
        given = ["--rule"] * (rule is not None) + ["--training"] * (training is not None)
        if given:
            raise st.SpiketuneError(
                f"--hybrid {hybrid} sets what {' and '.join(given)} would set; leave out the one "
                "or the other"
            )
        half = st.hybrid(hybrid, epochs)
    name = type(half.rule).__name__
    sets = {each.name for each in fields(half.rule)} & {"surrogate", "slope"}
    keeps = getattr(half.rule, "surrogate", half.rule) is None
    if start.calibrate and not keeps:
        raise st.SpiketuneError(
            f"--calibrate would do nothing, for {name} {'sets another' if sets else 'uses no'} "
            "slope; leave --rule and --hybrid out, or give --rule SurrogateBPTT "
            "--rule.surrogate null"
        )
    replaced: str | None = f"{name} uses no slope"
    if keeps:
        replaced = "--calibrate sets the slope; give it to that" if start.calibrate else None
    elif sets:
        replaced = f"{name} sets the slope; give it to --rule"
    start.build.require_own_slope(replaced)
    return half


def _require_same(then: About, now: About, place: str) -> None:
    differing = [
        f"{name} was {then.get(name, 'left out')}, now {now.get(name, 'left out')}"
        for name in ("method", "build", "calibrate", *Images.NAMED)
        if then.get(name) != now.get(name)
    ]
    if differing:
        raise st.SpiketuneError(
            f"{place}: the run was started differently ({'; '.join(differing)}); resume with the "
            "same, or start a run of its own at another --out"
        )


def _slopes(snn: st.SpikingNetwork) -> str:
    return json.dumps({name: encode(neuron.firing.surrogate) for name, neuron in snn.neurons()})


def _set_slopes(snn: st.SpikingNetwork, slopes: str, origin: str) -> None:
    found = json.loads(slopes)
    if set(found) != {name for name, _ in snn.neurons()}:
        raise st.SpiketuneError(
            f"{origin}: the run was started with a network of other neurons; resume with the same "
            "--network, or start a run of its own at another --out"
        )
    for name, neuron in snn.neurons():
        neuron.firing = replace(neuron.firing, surrogate=decode(found[name], origin))
