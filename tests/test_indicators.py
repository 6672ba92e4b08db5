"""Angles against their definition, flip frequency by counting, distances to thresholds by flipping."""

import math

import pytest
import torch

import lpt
from lpt.indicators import angle, flip_frequency, threshold_distance


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 1.0, 45.0, 90.0, 135.0, 179.999, 180.0])
def test_angle_is_exact_where_arccos_is_not(degrees):
    t = math.radians(degrees)
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) * 7
    b = torch.tensor([math.cos(t), math.sin(t), 0.0], dtype=torch.float64) * 1e-3
    assert angle(a, b).item() == pytest.approx(degrees, abs=1e-13, rel=1e-12)


def test_angle_concatenates_lists_and_stays_in_float64():
    generator = torch.Generator().manual_seed(0)
    a = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    b = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    flat_a, flat_b = (torch.cat([t.reshape(-1) for t in ts]).double() for ts in (a, b))
    wanted = torch.rad2deg(torch.arccos(flat_a @ flat_b / flat_a.norm() / flat_b.norm()))
    got = angle(a, b)
    assert got.dtype == torch.float64 and got.shape == ()
    assert got.item() == pytest.approx(wanted.item(), abs=1e-9)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([1.0, torch.nan, 0]), torch.tensor([torch.inf, 0, 0])])
def test_a_gradient_without_direction_is_told(bad):
    with pytest.raises(ValueError, match="no direction"):
        angle(torch.ones(3), bad)
    with pytest.raises(ValueError, match="no direction"):
        angle(bad, torch.ones(3))


def test_gradients_of_other_sizes_or_none_are_told():
    with pytest.raises(ValueError, match="3 and 4"):
        angle(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="empty"):
        angle([], [])


def test_flip_frequency_counts():
    old = [torch.tensor([1.0, 2.0, -0.0]), torch.zeros(5)]
    new = [torch.tensor([1.0, 2.5, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])]
    assert flip_frequency(new, old).item() == 2 / 8  # -0 and 0 are the same weight
    assert flip_frequency(new[0], old[0]).item() == 1 / 3
    with pytest.raises(ValueError, match="differ"):
        flip_frequency(new, old[:1])
    with pytest.raises(ValueError, match="no weights"):
        flip_frequency(torch.zeros(0), torch.zeros(0))


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0])
def test_threshold_distance_is_where_the_weight_flips(width):
    """int4 at scale 2 has steps of 1: moving a master by its distance is what it takes to change its weight."""
    format = lpt.formats.get("int4")
    generator = torch.Generator().manual_seed(0)
    quantized = torch.randint(-6, 7, (2000,), generator=generator).float()
    reach = (1 + width) / 2 - 1e-3
    master = quantized + (torch.rand(2000, generator=generator) * 2 - 1) * reach
    distance = threshold_distance(master, quantized, format, 2, width)
    away = torch.where(master >= quantized, 1.0, -1.0)

    def after(move):
        return lpt.weights.hysteresis(master + away * move, quantized, format, 2, width)

    inside = quantized.abs() < 6
    assert torch.equal(after(distance - 1e-4)[inside], quantized[inside])
    assert bool((after(distance + 1e-4) != quantized)[inside].all())
