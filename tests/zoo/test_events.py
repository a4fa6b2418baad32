"""Binning of events against NumPy's histogram, tonic's frames, and bad streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spiketune.zoo import Bins, DataError, EventFrames, to_events, to_frames
from spiketune.zoo.events import EVENT, Events, as_events, cells

SENSOR = (2, 5, 7)


def stream(count: int, seed: int = 0, last: int = 1000) -> Events:
    random = np.random.default_rng(seed)
    events = np.zeros(count, EVENT)
    events["t"] = np.sort(random.integers(0, last, count))
    for name, most in zip("pyx", SENSOR, strict=True):
        events[name] = random.integers(0, most, count)
    return events


@given(
    count=st.integers(1, 60), seed=st.integers(0, 99), steps=st.integers(1, 12),
    duration=st.one_of(st.none(), st.integers(1000, 3000)), binary=st.booleans(),
)  # fmt: skip
def test_frames_are_a_histogram(
    count: int, seed: int, steps: int, duration: int | None, binary: bool
) -> None:
    events = stream(count, seed)
    frames = to_frames(events, SENSOR, Bins(steps=steps, duration=duration, binary=binary))
    end = duration or events["t"][-1] + 1
    columns = [events["t"] * steps // end, events["p"], events["y"], events["x"]]
    edges = [np.arange(most + 1) for most in (steps, *SENSOR)]
    expected, _ = np.histogramdd(np.stack(columns, 1).astype(float), edges)
    assert np.array_equal(frames.numpy(), expected.clip(max=1) if binary else expected)


@given(seed=st.integers(0, 99), steps=st.integers(1, 9), extra=st.integers(0, 500))
def test_frames_become_events_and_frames_again(seed: int, steps: int, extra: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 4, (steps, *SENSOR), generator=generator)
    frames[0, 0, 0, 0] = 1
    duration = 10 * steps + extra
    events = to_events(frames, duration)
    again = to_frames(events, SENSOR, Bins(steps=steps, duration=duration, binary=False))
    assert torch.equal(again.long(), frames)
    assert (np.diff(events["t"]) >= 0).all() and len(events) == frames.sum()


def test_every_form_of_events_is_read_alike() -> None:
    events = stream(30)
    tonics = np.zeros(30, [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])
    for name in "xytp":
        tonics[name] = events[name]
    columns = np.stack([events[name] for name in "txyp"], 1)
    expected = to_frames(events, SENSOR)
    for form in (tonics, torch.from_numpy(columns), torch.from_numpy(columns).float(), columns):
        assert torch.equal(to_frames(form, SENSOR), expected)
    heard = np.zeros(30, [("t", np.int64), ("x", np.int16), ("p", np.int8)])
    heard["t"], heard["x"], heard["p"] = events["t"], events["x"], 1  # tonic's form of SHD
    frames = to_frames(heard, (1, 1, 7), Bins(steps=3, binary=False))
    assert frames.sum() == 30 and frames.shape == (3, 1, 1, 7)


def test_frames_equal_tonic_s() -> None:
    transforms = pytest.importorskip("tonic.transforms", reason="tonic is not installed")
    events = stream(200)
    events["t"][0] = 0
    window = transforms.ToFrame(sensor_size=(7, 5, 2), time_window=100, include_incomplete=True)
    expected = torch.from_numpy(window(events.astype(EVENT)))
    ours = to_frames(events, SENSOR, Bins(steps=10, duration=1000, binary=False))
    assert torch.equal(ours.long(), expected.long())


def test_smaller_frames_put_pixels_together() -> None:
    random = np.random.default_rng(3)
    events = np.zeros(300, EVENT)
    events["t"] = np.sort(random.integers(0, 100, 300))
    events["x"], events["y"] = random.integers(0, 8, (2, 300))
    whole = to_frames(events, (2, 8, 8), Bins(steps=4, binary=False)).float()
    small = to_frames(events, (2, 8, 8), Bins(steps=4, size=(4, 2), binary=False)).float()
    expected = torch.nn.functional.avg_pool2d(whole, (2, 4)) * 8
    assert torch.equal(small, expected)


def test_events_after_the_window_are_left_out() -> None:
    events = stream(100)
    early = events[events["t"] < 400]
    bins = Bins(steps=4, duration=400, binary=False)
    assert torch.equal(to_frames(events, SENSOR, bins), to_frames(early, SENSOR, bins))
    with pytest.raises(
        DataError, match=r"no event in its first 10 µs, the earliest comes at 50 µs"
    ):
        to_frames(torch.tensor([[50, 0, 0, 0]]), SENSOR, Bins(duration=10))


def test_counts_stay_at_255() -> None:
    events = torch.zeros(300, 4)
    assert to_frames(events, SENSOR, Bins(binary=False)).max() == 255
    data = EventFrames([np.zeros(300, np.int64)], [0], (1, 1, 1, 1), ())
    assert data.dense(dtype=torch.uint8).item() == 255


class TestBadStreams:
    def test_time_running_backwards(self) -> None:
        events = stream(20)
        events["t"][7:] -= 400
        events["t"] += 400
        with pytest.raises(DataError, match=r"runs backwards in time: event 7 comes at \d+ µs"):
            to_frames(events, SENSOR)
        ordered = events[np.argsort(events["t"], kind="stable")]
        unordered = to_frames(events, SENSOR, Bins(ordered=False))
        assert torch.equal(unordered, to_frames(ordered, SENSOR))

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("x", 7, "x=7, outside the sensor's 0 to 6"), ("x", -1, "x=-1, outside"),
            ("y", 5, "y=5, outside the sensor's 0 to 4"), ("p", 2, "p=2, outside"),
            ("p", -1, "p=-1, outside the sensor's 0 to 1"),
        ],
    )  # fmt: skip
    def test_outside_the_sensor(self, column: str, value: int, message: str) -> None:
        events = stream(10)
        events[column][4] = value
        with pytest.raises(DataError, match=f"event 4 at {message}"):
            to_frames(events, SENSOR)

    def test_no_events(self) -> None:
        with pytest.raises(DataError, match=r"a\.bin holds no events"):
            cells(np.zeros(0, EVENT), SENSOR, Bins(), "a.bin")

    def test_time_before_zero(self) -> None:
        with pytest.raises(DataError, match="an event at -5 µs; count the time from 0 on"):
            to_frames(torch.tensor([[-5, 0, 0, 0], [3, 0, 0, 0]]), SENSOR)

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
    def test_a_time_that_is_no_number(self, value: float) -> None:
        with pytest.raises(DataError, match="a value of t that is no number in range"):
            to_frames(torch.tensor([[value, 0, 0, 0]]), SENSOR)

    def test_a_column_too_large_does_not_wrap_into_the_sensor(self) -> None:
        with pytest.raises(DataError, match="a value of x"):
            to_frames(torch.tensor([[0, 2**16 + 1, 0, 0]]), SENSOR)

    @pytest.mark.parametrize(
        "events", [torch.zeros(3), torch.zeros(2, 3), np.zeros(2, [("x", int)])]
    )
    def test_another_form(self, events: Any) -> None:
        with pytest.raises(DataError, match="must have the fields t, x, y and p"):
            as_events(events)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"steps": 0}, "steps must be 1 or more"), ({"duration": -5}, "duration must be above"),
            ({"duration": 0}, "duration"), ({"duration": math.nan}, "duration"),
            ({"size": (0, 4)}, "size must be"),
        ],
    )  # fmt: skip
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            Bins(**settings)

    def test_frames_larger_than_the_sensor(self) -> None:
        with pytest.raises(DataError, match="6 x 7 are larger than the sensor's 5 x 7"):
            to_frames(stream(3), SENSOR, Bins(size=(6, 7)))

    def test_events_out_of_other_shapes(self) -> None:
        with pytest.raises(DataError, match=r"must be \[T, P, H, W\]"):
            to_events(torch.zeros(2, 2), 10)
        with pytest.raises(DataError, match="duration must be at least 1 µs a frame"):
            to_events(torch.zeros(2, 2, 1, 1), -10)


class TestEventFrames:
    def test_lays_out_what_it_was_given(self) -> None:
        frames = torch.randint(0, 3, (6, 4, *SENSOR), generator=torch.Generator().manual_seed(0))
        places = [to_frame.flatten().nonzero()[:, 0] for to_frame in frames]
        repeated = [
            where.repeat_interleave(one.flatten()[where]).numpy()
            for where, one in zip(places, frames, strict=True)
        ]
        data = EventFrames(repeated, range(6), (4, *SENSOR), ("a",) * 6)
        assert (
            torch.equal(data.tensors[0].long(), frames) and data.tensors[0].dtype == torch.float32
        )
        assert torch.equal(data.dense([4, 1], torch.uint8).long(), frames[[4, 1]])
        assert torch.equal(data[-1][0].long(), frames[5]) and data[2][1] == 2
        images, labels = next(iter(DataLoader(data, 3)))
        assert torch.equal(images.long(), frames[:3]) and labels.tolist() == [0, 1, 2]

    def test_no_sample_beyond_the_last(self) -> None:
        data = EventFrames([[0]], [0], (1, 1, 1, 1), ())
        with pytest.raises(IndexError):
            data.dense([1])

    def test_frames_beyond_32_bits_are_refused(self) -> None:
        with pytest.raises(DataError, match="more places than 32 bits count"):
            EventFrames([], [], (70_000, 2, 128, 128), ())
