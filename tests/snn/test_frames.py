"""Input over time, against a loop written by hand."""

import pytest
import torch
from torch import nn

import spiketune as st
from spiketune.snn import Frames, SpiketuneError


def network(frames: int, *, leak: float = 0.75, spikes: bool = True) -> st.SpikingNetwork:
    torch.manual_seed(1)
    ann = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5), nn.ReLU()
    )
    with torch.no_grad():
        for weight in ann.parameters():
            weight.mul_(2.0)
    snn = st.twin(ann, frames, (2, 6, 6), leak=leak).eval()
    st.add_frames(snn, frames, spikes=spikes)
    return snn


def events(batch: int, frames: int) -> torch.Tensor:
    return (
        torch.rand(batch, frames, 2, 6, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    ) * 1.0


def by_hand(snn: st.SpikingNetwork, x: torch.Tensor, steps: int, leak: float) -> torch.Tensor:
    convolution, linear = (w for n, w in snn.named_parameters() if n.endswith("weight"))
    first, second = (w for n, w in snn.named_parameters() if n.endswith("bias"))
    u = v = torch.zeros(())
    sent = []
    for t in range(steps):
        now = x[:, t] if t < x.shape[1] else torch.zeros_like(x[:, 0])
        u = leak * u + nn.functional.conv2d(now, convolution, first)
        fires = (u >= 1).float()
        u = u - fires
        v = leak * v + fires.flatten(1) @ linear.T + second
        out = (v >= 1).float()
        v = v - out
        sent.append(out)
    return torch.stack(sent)


@pytest.mark.parametrize("steps", [3, 8, 11])
def test_each_step_sees_its_own_frame_and_none_after_the_last(steps: int) -> None:
    snn, x = network(8), events(4, 8)
    with torch.no_grad():
        found = torch.cat(list(snn.outputs(x, steps)))
    expected = by_hand(snn, x, steps, 0.75)
    assert expected.any() and torch.equal(found, expected)
    with torch.no_grad():
        short = torch.cat(list(snn.outputs(x, steps, chunk=2)))
    assert torch.equal(short, expected)


def test_a_network_of_frames_is_kept_in_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    snn, x = network(5, spikes=False), events(3, 5)
    st.save(snn, tmp_path / "net.safetensors")
    again = st.load(tmp_path / "net.safetensors")
    assert again.input_shape == (5, 2, 6, 6)
    assert [unit.spikes for unit in again.modules() if isinstance(unit, Frames)] == [False]
    assert torch.equal(again(x), snn(x))


def test_events_cost_accumulates_where_they_meet_weights_and_values_cost_products() -> None:
    x, labels = events(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    one, other = network(5), network(5, spikes=False)
    table = st.sweep({"events": one, "values": other}, [(x, labels)], steps=5)
    by_name = {(row.model, row.steps): row for row in table.rows}
    # A pixel meets 3 outputs in each window that sees it.
    windows = torch.tensor([1.0, 2, 3, 3, 2, 1])
    met = 3 * (windows[:, None] * windows)
    arriving = float((x * met).sum()) / len(x)
    events_row, values_row = by_name["events", 5], by_name["values", 5]
    assert events_row.accumulates - values_row.accumulates == pytest.approx(arriving)
    assert values_row.macs - events_row.macs == 5 * 3 * 2 * 9 * 16
    assert events_row.top1 == values_row.top1


def test_a_rule_learns_from_events() -> None:
    """Which of two halves of the window holds the events can be told only over time."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(64) % 2
    x = torch.zeros(64, 6, 1, 2, 2)
    for image, label in zip(x, labels, strict=True):
        half = image[3:] if label else image[:3]
        half.copy_((torch.rand(half.shape, generator=generator) < 0.8).float())
    ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    snn = st.twin(ann, 6, (1, 2, 2), leak=0.5)
    st.add_frames(snn, 6)
    silent = nn.utils.parameters_to_vector(snn.parameters()).clone()
    history = st.tune(
        snn, [(x, labels)] * 20, st.SurrogateBPTT(), steps=6, epochs=2, seed=0,
        training=st.Training(learning_rate=0.05),
    )  # fmt: skip
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert not torch.equal(silent, nn.utils.parameters_to_vector(snn.parameters()))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SpiketuneError, match="at least 1"):
        Frames(frames=0)
    snn = network(4)
    with pytest.raises(SpiketuneError, match="already"):
        st.add_frames(snn, 4)
    with pytest.raises(SpiketuneError, match=r"\[B, 4, 2, 6, 6\]"):
        snn(torch.rand(2, 3, 2, 6, 6))
