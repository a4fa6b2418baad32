"""Saccades against a slow reference, pixel by pixel, and what must hold of any event sensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spiketune.zoo import DataError, load_data
from spiketune.zoo.events import Bins, to_frames
from spiketune.zoo.saccades import SACCADE, Saccades, saccade_events, saccades


def blobs(count: int, side: int, seed: int = 0) -> Tensor:
    """Return smooth random images in [0, 1], black at the border."""
    noise = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) ** 2
    smooth[..., 0, :] = smooth[..., -1, :] = smooth[..., 0] = smooth[..., -1] = 0
    return smooth / smooth.amax((1, 2, 3), keepdim=True)


def position(look: int, amplitude: float, steps: int) -> tuple[float, float]:
    """Where the image stands: down the triangle's sides (-a/2, -a), (-a/2, a), (a, 0)."""
    x, y = amplitude / 2, amplitude / 2
    for side, (dx, dy) in enumerate(((-0.5, -1.0), (-0.5, 1.0), (1.0, 0.0))):
        done = min(max(look - side * steps, 0), steps) / steps
        x, y = x + dx * amplitude * done, y + dy * amplitude * done
    return x, y


def slowly(image: NDArray[np.float64], how: Saccades) -> NDArray[np.int64]:
    """Record one image, a pixel and a look at a time."""
    height, width = image.shape
    top, left = (how.size - height) // 2, (how.size - width) // 2

    def scene(y: int, x: int) -> float:
        inside = 0 <= y - top < height and 0 <= x - left < width
        return float(image[y - top, x - left]) if inside else how.background

    def brightness(y: int, x: int, look: int) -> float:
        dx, dy = position(look, how.amplitude, how.steps)
        v, u = y - dy, x - dx
        v0, u0 = math.floor(v), math.floor(u)
        weights = {
            (j, i): abs(1 - j - (v - v0)) * abs(1 - i - (u - u0)) for j in (0, 1) for i in (0, 1)
        }
        return math.log(how.dark + sum(w * scene(v0 + j, u0 + i) for (j, i), w in weights.items()))

    counts = np.zeros((3 * how.steps, 2, how.size, how.size), np.int64)
    for y in range(how.size):
        for x in range(how.size):
            memory = brightness(y, x, 0)
            for look in range(3 * how.steps):
                change = brightness(y, x, look + 1) - memory
                events = int(1.001 * abs(change) / how.threshold)
                counts[look, int(change > 0), y, x] = events
                memory += math.copysign(events * how.threshold, change)
    return counts


@pytest.mark.parametrize(
    "how",
    [
        Saccades(size=9, steps=3, amplitude=3.0, threshold=0.2, binary=False),
        Saccades(size=8, steps=4, amplitude=2.5, threshold=0.31, dark=0.3, binary=False),
        Saccades(size=5, steps=2, amplitude=7.0, background=0.4, binary=False),
    ],
)
def test_equals_the_slow_reference(how: Saccades) -> None:
    images = blobs(2, 7)
    recorded = saccades(images, how)
    for image, frames in zip(images.double().numpy(), recorded.numpy(), strict=True):
        assert np.array_equal(frames, slowly(image[0], how))
    assert recorded.max() > 1 and (recorded.sum((0, 1, 3, 4)) > 10).all()


def test_a_digit_sized_image_equals_the_slow_reference() -> None:
    how = Saccades(binary=False)
    image = blobs(1, 28)
    assert np.array_equal(
        saccades(image, how)[0].numpy(), slowly(image[0, 0].double().numpy(), how)
    )


@given(level=st.floats(0, 1, width=32))
@settings(max_examples=20)
def test_a_constant_image_gives_no_events(level: float) -> None:
    how = Saccades(background=level, threshold=0.01)
    assert not saccades(torch.full((1, 1, 28, 28), level), how).any()


def test_on_and_off_change_places_when_the_contrast_is_inverted() -> None:
    """On whole pixels; between them intensities mix, which inverting does not commute with."""
    how = Saccades(amplitude=6.0, steps=3, threshold=0.2, binary=False)
    inverted = Saccades(amplitude=6.0, steps=3, threshold=0.2, binary=False, background=1.0)
    images = blobs(3, 28)
    opposite = how.dark * (1 + how.dark) / (images + how.dark) - how.dark
    recorded = saccades(images, how)
    assert recorded.any()
    assert torch.equal(saccades(opposite.clamp(0, 1), inverted), recorded.flip(2))


def test_more_contrast_gives_more_events() -> None:
    how = Saccades(binary=False)
    counts = [
        saccades(blobs(4, 28) * contrast, how).sum().item() for contrast in (0.1, 0.2, 0.4, 0.7, 1)
    ]
    assert counts == sorted(set(counts)) and counts[0] > 0


def test_a_lower_threshold_gives_more_events() -> None:
    counts = [
        saccades(blobs(2, 28), Saccades(binary=False, threshold=threshold)).sum().item()
        for threshold in (1.0, 0.5, 0.25, 0.1)
    ]
    assert counts == sorted(set(counts))


def test_the_triangle_closes() -> None:
    """Every pixel ends where it began, so what went up came down."""
    counts = saccades(blobs(3, 28), Saccades(binary=False)).long().sum(1)
    assert counts.any() and torch.equal(counts[:, 0], counts[:, 1])


def test_a_dot_moves_along_the_triangle() -> None:
    dot = torch.zeros(1, 1, 27, 27)
    dot[..., 13, 13] = 1
    how = Saccades(size=27, amplitude=6.0, steps=6)
    on = saccades(dot, how)[0, :, 1].float()
    places = torch.stack([frame.nonzero().float().mean(0) for frame in on])  # y, x
    for look, (y, x) in enumerate(places.tolist()):
        dx, dy = position(look + 1, 6.0, 6)
        assert abs(y - 13 - dy) <= 1 and abs(x - 13 - dx) <= 1, look
    seen = on.sum(0).nonzero() - 13
    assert seen.min() >= -4 and seen.max() <= 4  # nothing beyond half the amplitude and a pixel


def test_frames_add_looks_up() -> None:
    images = blobs(2, 28)
    every = saccades(images, Saccades(binary=False)).long()
    for frames in (10, 7):
        merged = saccades(images, Saccades(binary=False, frames=frames)).long()
        expected = torch.zeros_like(merged)
        for look in range(30):
            expected[:, look * frames // 30] += every[:, look]
        assert torch.equal(merged, expected)
        binary = saccades(images, Saccades(frames=frames))
        assert torch.equal(binary.long(), expected.clamp(max=1))


def test_counts_stay_at_255() -> None:
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    how = Saccades(size=8, steps=1, threshold=0.001, binary=False)
    assert saccades(step, how).max() == 255


def test_each_image_is_recorded_by_itself() -> None:
    images = blobs(70, 12)  # more than are taken at once
    how = Saccades(size=14)
    together = saccades(images, how)
    for index in (0, 63, 64, 69):
        assert torch.equal(together[index], saccades(images[index : index + 1], how)[0])
    assert saccades(images[:0], how).shape == (0, 30, 2, 14, 14)


def test_pixels_differ_by_the_generator_alone() -> None:
    images, how = blobs(1, 28), Saccades(mismatch=0.2)
    first, again, other = (
        saccades(images, how, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.get_rng_state()
    assert torch.equal(saccades(images), saccades(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_event_lists_hold_what_the_frames_count() -> None:
    images, how = blobs(3, 28), Saccades(binary=False)
    bins = Bins(steps=30, duration=3 * SACCADE, binary=False)
    recorded = saccades(images, how)
    for events, frames in zip(saccade_events(images, how), recorded, strict=True):
        assert len(events) == frames.sum() and (np.diff(events["t"]) >= 0).all()
        assert torch.equal(to_frames(events, (2, 34, 34), bins), frames)


def test_mnist_gives_about_as_many_events_as_n_mnist() -> None:
    """About 4,000 an image, half of them ON."""
    try:
        images, _ = load_data(
            "mnist", "train", cfg={"input_size": (1, 28, 28), "mean": (0,), "std": (1,)},
            limit=200, download=False,
        ).tensors  # type: ignore[attr-defined]  # fmt: skip
    except DataError as error:
        pytest.skip(f"no MNIST here: {error}")
    counts = saccades(images, Saccades(binary=False)).long().sum((1, 3, 4)).float().mean(0)
    assert 3500 < counts.sum() < 4900 and counts[0] == counts[1]


class TestBadInput:
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("amplitude", 0), ("amplitude", math.inf), ("steps", 0), ("threshold", -0.1),
            ("threshold", math.nan), ("size", 0), ("dark", 0), ("background", 1.5),
            ("frames", 31), ("frames", 0), ("mismatch", 1.0),
        ],
    )  # fmt: skip
    def test_a_setting_out_of_range_is_named(self, setting: str, value: float) -> None:
        with pytest.raises(DataError, match=f"{setting} must be"):
            Saccades(**{setting: value})  # type: ignore[arg-type]

    def test_normalised_images_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"run from -1 to 1, saccades needs"):
            saccades(blobs(2, 8) * 2 - 1)
        with pytest.raises(DataError, match="intensities from 0 to 1"):
            saccades(torch.full((1, 1, 8, 8), math.nan))

    @pytest.mark.parametrize(
        "images", [torch.zeros(1, 3, 8, 8), torch.zeros(8, 8), torch.zeros(1, 1, 8, 8).byte()]
    )
    def test_other_shapes_are_refused(self, images: Tensor) -> None:
        with pytest.raises(DataError, match="needs grey images"):
            saccades(images)
