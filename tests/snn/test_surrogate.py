"""Each slope against its primitive, written here, and its documented area and peak."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spiketune.snn import (
    ATan,
    PiecewiseLinear,
    Rectangle,
    Sigmoid,
    SuperSpike,
    Surrogate,
    Triangle,
    fire,
)

Array = NDArray[np.float64]
Primitive = Callable[[Array], Array]


def triangle(x: Array, w: float) -> Array:
    inside = 0.5 + x / w - np.sign(x) * x**2 / (2 * w**2)
    return np.where(x <= -w, 0, np.where(x >= w, 1, inside))


def clipped_line(x: Array, w: float, leak: float) -> Array:
    beyond = np.sign(x) * (0.5 + leak * (abs(x) - w))
    return np.where(abs(x) <= w, x / (2 * w), beyond)


# Surrogate, its primitive, the area over the whole line, the peak.
TABLE: list[tuple[Surrogate, Primitive, float | None, float]] = [
    (Triangle(), lambda x: triangle(x, 1), 1, 1),
    (Triangle(width=0.3), lambda x: triangle(x, 0.3), 1, 1 / 0.3),
    (ATan(), lambda x: np.arctan(math.pi * x) / math.pi, 1, 1),
    (ATan(alpha=5.0), lambda x: np.arctan(math.pi * 2.5 * x) / math.pi, 1, 2.5),
    (SuperSpike(), lambda x: x / (1 + 10 * abs(x)), 0.2, 1),
    (SuperSpike(alpha=3.0), lambda x: x / (1 + 3 * abs(x)), 2 / 3, 1),
    (Sigmoid(), lambda x: 1 / (1 + np.exp(-4 * x)), 1, 1),
    (Sigmoid(alpha=5.0), lambda x: 1 / (1 + np.exp(-5 * x)), 1, 1.25),
    (Rectangle(), lambda x: np.clip(x + 0.5, 0, 1), 1, 1),
    (Rectangle(width=0.3), lambda x: np.clip(x / 0.3 + 0.5, 0, 1), 1, 1 / 0.3),
    (PiecewiseLinear(), lambda x: clipped_line(x, 0.5, 0.01), None, 1),
    (PiecewiseLinear(width=0.3, leak=0.1), lambda x: clipped_line(x, 0.3, 0.1), None, 1 / 0.6),
]
each = pytest.mark.parametrize(
    ("surrogate", "primitive", "area", "peak"), TABLE, ids=[repr(row[0]) for row in TABLE]
)
# Off every kink, which lie at 0 and at multiples of 0.05.
POINTS = np.linspace(-2.003, 2.004, 181)


def slope(surrogate: Surrogate, x: Array) -> Array:
    return surrogate.slope(torch.from_numpy(x)).numpy()


@each
def test_a_slope_is_the_derivative_of_its_primitive(
    surrogate: Surrogate, primitive: Primitive, area: float | None, peak: float
) -> None:
    h = 1e-6
    numeric = (primitive(POINTS + h) - primitive(POINTS - h)) / (2 * h)
    np.testing.assert_allclose(slope(surrogate, POINTS), numeric, atol=2e-7)


@each
def test_area_and_peak_are_as_documented(
    surrogate: Surrogate, primitive: Primitive, area: float | None, peak: float
) -> None:
    edges = np.linspace(-4, 4, 2_000_001)
    middles = (edges[1:] + edges[:-1]) / 2
    heights = slope(surrogate, middles)
    span = primitive(edges[-1:]) - primitive(edges[:1])
    assert heights.sum() * (edges[1] - edges[0]) == pytest.approx(float(span[0]), abs=2e-5)
    if area is not None:
        far = np.array([1e9 if area != 1 or not isinstance(surrogate, Sigmoid) else 100.0])
        assert float((primitive(far) - primitive(-far))[0]) == pytest.approx(area, abs=1e-6)
    assert heights.max() == pytest.approx(peak, rel=1e-4)
    assert heights.min() >= 0


@pytest.mark.parametrize(
    "surrogate",
    [
        pytest.param(row[0], id=repr(row[0]))
        for row in TABLE
        if repr(row[0]) != "PiecewiseLinear(width=0.5, leak=0.01)"
    ],
)
def test_a_slope_keeps_double_precision(surrogate: Surrogate) -> None:
    peak = dict((row[0], row[3]) for row in TABLE)[surrogate]
    assert float(surrogate.slope(torch.zeros((), dtype=torch.float64))) == pytest.approx(
        peak, rel=1e-14
    )


@pytest.mark.parametrize("surrogate", [row[0] for row in TABLE], ids=repr)
@pytest.mark.parametrize("strict", [False, True])
def test_fire_steps_forward_and_slopes_backward(surrogate: Surrogate, strict: bool) -> None:
    x = torch.tensor([-1.5, -0.2, 0.0, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    spikes = fire(x, surrogate, strict=strict)
    assert spikes.tolist() == [0, 0, 0 if strict else 1, 1, 1]
    arriving = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    (grad,) = torch.autograd.grad(spikes, x, arriving)
    assert torch.equal(grad, arriving * surrogate.slope(x.detach()))


def test_surrogates_are_values() -> None:
    assert ATan(alpha=2.0) == ATan() != ATan(alpha=3.0)
    assert repr(Triangle(width=0.5)) == "Triangle(width=0.5)"
    with pytest.raises(AttributeError):
        Triangle().width = 2.0  # type: ignore[misc]
