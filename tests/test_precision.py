"""Layers in bfloat16: what is said of them, and what does not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.cli import main
from spiketune.precision import Agreement, agreement


def network() -> tuple[st.SpikingNetwork, torch.Tensor]:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 37, 3), nn.ReLU(), nn.Flatten())
    ann, x = nn.Sequential(*layers, nn.Linear(37 * 16, 5)).eval(), torch.rand(12, 1, 8, 8)
    return st.to_snn(ann, x, st.Ternary(steps=4)), x


@torch.no_grad()
def test_the_agreement_is_that_of_all_images_together() -> None:
    snn, x = network()
    single = snn(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = snn(x)
    found = agreement(snn, [(x[:5], 0), (x[5:], 0)], 4)
    assert found.images == 12 and found.same == (half.argmax(1) == single.argmax(1)).sum() / 12
    assert found.distance == pytest.approx(float((half - single).norm() / single.norm()))
    assert 0 < found.distance < 0.5
    with pytest.raises(st.SpiketuneError, match="no images"):
        agreement(snn, [], 4)


def test_what_is_counted_is_counted_in_single_precision() -> None:
    snn, _ = network()
    expected = st.costs(snn)
    with torch.autocast("cpu", torch.bfloat16):
        found = st.costs(snn)
    for name, fan_out in expected.fan_out.items():
        assert torch.equal(found.fan_out[name], fan_out)
    assert max(int(fan_out.max()) for fan_out in expected.fan_out.values()) == 9 * 37


def test_a_sweep_in_bfloat16_says_what_it_costs(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [f"--networks={file}", "--ann=digits_resnet", "--data=digits", "--limit=100"]
    args += ["--steps=4", f"--out={tmp_path}"]
    main(["sweep", *args, "--precision=bfloat16"])
    shown = capsys.readouterr().out
    ann = st.load_ann("digits_resnet")
    images = torch.stack([x for x, _ in st.load_data("digits", "test", cfg=ann, limit=100)])
    batches = [(images[:64],), (images[64:],)]
    assert f"t in bfloat16, T=4: {agreement(st.load(file), batches, 4)}." in shown
    assert "digits_resnet in bfloat16" not in shown
    main(["sweep", *args])
    assert " in bfloat16, " not in capsys.readouterr().out


def test_an_agreement_is_a_sentence() -> None:
    assert str(Agreement(images=3, same=1 / 3, distance=0.25)).startswith(
        "the class of 33.3 % of 3"
    )
