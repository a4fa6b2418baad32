"""``spiketune tune --network 32C5-P2-400``: networks written as layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import spiketune as st
from spiketune.cli import main
from spiketune.snn import Membrane, timed_layers
from spiketune.zoo.layered import layered

FEW = ("--data=digits", "--epochs=1", "--limit=32", "--batch=16")
Capture = pytest.CaptureFixture[str]

SLAYER = """
network: P2-12
steps: 6
build:
  neuron: {class_path: SRMNeuron, init_args: {tau_synapse: 2.0}}
  delays: {start: [0, 2], maximum: 4}
  pool: sum
  gain: [3, 1]
  raw_pixels: true
rule: SLAYER
training: {loss: {class_path: SpikeCount, init_args: {hit: 3, miss: 1}}}
"""
STIDI = """
network: 6C3-P2-20
steps: 24
build:
  single_spike:
    {window: 12, horizon: 24, binary: true, psp: {class_path: RampPSP, init_args: {tau: 8}}}
rule: {class_path: STiDi, init_args: {form: displacement}}
training: {loss: {class_path: RelativeTarget}, learning_rate: 0.01}
"""


def tuned(text: str, folder: Path, *more: str) -> st.SpikingNetwork:
    (folder / "tune.yaml").write_text(text)
    out = folder / "out.safetensors"
    main(["tune", f"--config={folder / 'tune.yaml'}", f"--out={out}", *FEW, *more])
    return st.load(out)


def refused(args: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("spiketune: ")]
    return line


def test_a_file_builds_what_the_library_builds(tmp_path: Path) -> None:
    snn = tuned(SLAYER, tmp_path, "--training.learning_rate=1e-12", "--training.weight_decay=0")
    torch.manual_seed(0)
    wanted = layered(
        "P2-12", 10, 6, (1, 8, 8), neuron=st.SRMNeuron(tau_synapse=2.0), pool="sum", gain=(3, 1),
        delays=st.Delays(start=(0, 2), maximum=4), raw_pixels=True,
    )  # fmt: skip
    kinds, others = ([type(unit).__name__ for unit in net.modules()] for net in (snn, wanted))
    assert kinds == others
    for found, first in zip(snn.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, first, rtol=0, atol=1e-9)
    assert snn.pretrained_cfg["mean"] == [0.0] and snn.pretrained_cfg["std"] == [1.0]
    assert "delays" in str(snn.about["build"])


def test_neurons_of_one_spike_come_from_a_file_and_are_swept(tmp_path: Path) -> None:
    snn = tuned(STIDI, tmp_path)
    layers = timed_layers(snn)
    assert len(layers) == 3 and all(layer.binary for layer in layers.values())
    assert snn.steps == 24 and isinstance(snn.readout, Membrane)
    with torch.no_grad():
        times = st.spike_times_of(snn, st.load_data("digits", "test", limit=16, cfg=snn).tensors[0])
    for fired in times.fired.values():
        assert (fired < 24).float().mean() > 0.05  # they were scaled so that some do
    main([
        "sweep", f"--networks={tmp_path / 'out.safetensors'}", "--data=digits", "--limit=20",
        "--steps=24", f"--out={tmp_path / 'sweep'}",
    ])  # fmt: skip
    (name,) = (table := st.Table.load(tmp_path / "sweep/table.json")).models
    assert table.row(name, 24).energy_nj > 0 and table.row(name, 24).kind == "single"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--network=4C3-Q2", "--steps=2"], "'Q2' in '4C3-Q2' is no layer"),
        (["--network=4C9", "--steps=2"], "'4C9' does not fit"),
        (["--network=9", "--steps=2", "--build.connect=add"], "--build.connect would do nothing"),
        (["--network=9", "--steps=2", "--build.stem_stride=1"], "--build.stem_stride would do"),
        (["--network=digits_resnet", "--steps=2", "--build.pool=sum"], "--build.pool would do"),
        (
            ["--network=9", "--steps=2", "--build.neuron=LeakyNeuron",
             "--build.single_spike.horizon=2", "--build.single_spike.window=1"],
            "both say what fires",
        ),
        (["--network=9", "--steps=2", "--build.single_spike.horizon=24"], "give steps=24"),
        (["--network=R9", "--steps=2"], "RefractoryNeuron"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    given: list[str], said: str, tmp_path: Path, capsys: Capture
) -> None:
    line = refused(["tune", *given, *FEW, f"--out={tmp_path / 'out.safetensors'}"], capsys)
    assert said in line
