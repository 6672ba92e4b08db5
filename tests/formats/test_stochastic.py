"""Stochastic rounding: neighbouring levels only, unbiased, reproducible; and the quality of its random bits.

Each bound below is in standard errors of the n draws at hand; the seeds are fixed, so a failure is a change.
"""

import math

import numpy as np
import pytest
import torch

from lpt.formats import Table, get
from lpt.formats.noise import fresh_key, uniform

from .grids import ODD_TABLE, Fast, critical, grid_of, random_bits, specials
from .oracle import octaves, table

GRIDS = {
    **{name: lambda name=name: grid_of(name) for name in ["fp134", "int8_full", "log4", "posit8_1", "bf16", "fp169"]},
    "[4,5,5,2]": lambda: octaves([4, 5, 5, 2]),
    "fixed8_4": lambda: grid_of("fixed8_4"),
    "table": lambda: table(ODD_TABLE),
}


def format_of(name: str):
    return Table("odd", ODD_TABLE) if name == "table" else get(name)


@pytest.mark.parametrize("name", GRIDS)
def test_goes_to_floor_or_ceil_and_levels_stay(name: str) -> None:
    fmt, fast = format_of(name), Fast(GRIDS[name]())
    for i, scale in enumerate([0, torch.tensor(-33), -130, 120, -7, 60][: 6 if fmt.bits <= 8 else 2]):
        near = np.random.default_rng(i).permutation(critical(fast, int(scale)))[:5_000]
        x = torch.from_numpy(np.concatenate([near, random_bits(5_000, i), specials()]))
        got = fmt.round(x, scale, torch.tensor(i))
        low, high = fmt.floor(x, scale), fmt.ceil(x, scale)
        finite = ~x.isnan()
        assert ((got == low) | (got == high))[finite].all() and got[~finite].isnan().all()
        assert not got[got == 0].signbit().any()
        levels = low[finite]
        levels = levels[levels.isfinite()]
        assert fmt.round(levels, scale, torch.tensor(i)).equal(levels)
    x = torch.from_numpy(random_bits(2_000, 3)).double() * (1 + 2.0**-40)
    got = fmt.round(x, 3, torch.tensor(9))
    assert ((got == fmt.floor(x, 3)) | (got == fmt.ceil(x, 3)) | x.isnan()).all()


@pytest.mark.parametrize("name", [n for n in GRIDS if n not in ("bf16", "fp169")])
def test_unbiased_in_every_gap(name: str) -> None:
    """In each gap between levels, 1/4, 1/2 and 0.9 of the way up: the share that goes up, n = 4,096 draws each."""
    fmt, fast, n = format_of(name), Fast(GRIDS[name]()), 4_096
    low, high = fast.levels[:-1], fast.levels[1:]
    for place in (0.25, 0.5, 0.9):
        x = torch.from_numpy(low + place * (high - low)).float()
        exact = (x.double().numpy() - low) / (high - low)
        rounded = fmt.round(x[:, None].expand(-1, n), 0, torch.tensor(77))
        share = (rounded == torch.from_numpy(high).float()[:, None]).double().mean(1).numpy()
        inside = (exact > 0) & (exact < 1)  # the table has two levels that are neighbours in float32
        share, exact = share[inside], exact[inside]
        z = (share - exact) / np.sqrt(exact * (1 - exact) / n)
        assert np.abs(z).max() < 4.8 and abs(z.mean()) * math.sqrt(len(z)) < 4, (name, place, np.abs(z).max())


def test_unbiased_over_keys() -> None:
    """8 elements over 2,000 steps, n = 16,000, 4 sigma: 0.3 lies between 0.25 and 0.5, a fifth of the way up."""
    fmt, steps = get("int4"), 2_000
    keys = [torch.tensor(step) for step in range(steps)]
    rounded = torch.stack([fmt.round(torch.full((8,), 0.3), 0, key) for key in keys])
    sigma = 0.25 * math.sqrt(0.2 * 0.8)
    assert abs(rounded.mean().item() - 0.3) < 4 * sigma / math.sqrt(8 * steps)
    assert (rounded.mean(0) - 0.3).abs().max() < 4 * sigma / math.sqrt(steps)  # each element by itself


def test_a_key_decides_every_bit() -> None:
    fmt, x = get("int4"), torch.randn(1_000, generator=torch.Generator().manual_seed(1))
    once = fmt.round(x, 0, torch.tensor(123))
    assert once.equal(fmt.round(x, 0, torch.tensor(123)))
    assert not once.equal(fmt.round(x, 0, torch.tensor(124)))
    assert once.view(10, 100).equal(fmt.round(x.view(10, 100), 0, torch.tensor(123)))  # by flat index
    assert once.view(10, 100).equal(fmt.round(x.view(10, 100).T.contiguous().T, 0, torch.tensor(123)))
    assert once[:500].equal(fmt.round(x[:500], 0, torch.tensor(123)))
    assert once.equal(fmt.round(x.double(), 0, torch.tensor(123)).float())


def test_a_generator_advances_by_one_draw() -> None:
    ours, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    key = torch.randint(2**62, (), generator=theirs)
    x = torch.randn(1_000)
    assert get("int4").round(x, 0, ours).equal(get("int4").round(x, 0, key))
    assert ours.get_state().equal(theirs.get_state())
    assert fresh_key(ours).equal(torch.randint(2**62, (), generator=theirs))
    assert fresh_key(ours).dtype == torch.int64 and fresh_key(ours).shape == ()
    state = torch.random.get_rng_state()
    get("int4").round(x, 0, ours)
    assert torch.random.get_rng_state().equal(state)  # the global generator is left alone


# -- the random bits ------------------------------------------------------------------------------------------

KEYS = [0, 1, 2, 3, 1 << 32, 2 << 32, (5 << 44) + 7, 2**62 - 1, -1, 0x123456789ABCDEF]


def words(key: int, n: int = 2**16) -> torch.Tensor:
    """The 24 random bits of each index."""
    u = uniform(torch.empty(n), torch.tensor(key))
    assert u.dtype == torch.float32 and (u >= 0).all() and (u < 1).all()
    return (u * 2**24).to(torch.int64)


def words_over_keys(index: int, base: int, n: int) -> torch.Tensor:
    """The 24 random bits of one index for n consecutive keys."""
    like = torch.empty(index + 1)
    draws = [uniform(like, key)[index] for key in (torch.arange(n) + base).unbind()]
    return (torch.stack(draws) * 2**24).to(torch.int64)


def chi_square_z(buckets: torch.Tensor, count: int) -> float:
    """How many standard deviations chi-square lies above what equally likely buckets give."""
    n = torch.bincount(buckets, minlength=count).double()
    expected = len(buckets) / count
    return ((((n - expected) ** 2 / expected).sum() - (count - 1)) / math.sqrt(2 * (count - 1))).item()


def joint(a: torch.Tensor, b: torch.Tensor) -> float:
    """Chi-square of the leading 5 bits of a and b together, 1,024 buckets."""
    return chi_square_z((a >> 19) * 32 + (b >> 19), 1024)


@pytest.mark.parametrize("key", KEYS)
def test_words_of_one_key_are_uniform(key: int) -> None:
    w = words(key)
    n = len(w)
    assert abs((w.double().mean() / 2**24 - 0.5 + 2.0**-25).item()) < 4 / math.sqrt(12 * n)
    for bit in range(24):
        assert abs((w >> bit & 1).double().mean().item() - 0.5) < 4.5 * 0.5 / math.sqrt(n), bit
    assert abs(chi_square_z(w >> 14, 1024)) < 4 and abs(chi_square_z(w & 1023, 1024)) < 4
    assert w.unique().numel() > n * (1 - 2**-8) - 100  # repeats about n**2 / 2**25 times, as a random draw does
    for lag in (1, 2, 7, 64, 1024):
        assert abs(joint(w[lag:], w[:-lag])) < 4.5, lag


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("other", [1, 2, 3, 64, 1 << 20, 1 << 32, 5 << 32, 1 << 44, 1 << 61])
def test_words_of_related_keys_are_independent(key: int, other: int) -> None:
    a, b = words(key, 2**15), words(key ^ other, 2**15)
    assert abs(joint(a, b)) < 4.5
    for shift in (1, 2, 64):  # nor is one stream the other, a little displaced or with neighbours swapped
        assert abs(joint(a[shift:], b[:-shift])) < 4.5
        assert abs(joint(a[torch.arange(len(a)) ^ shift], b)) < 4.5
    changed = torch.stack([(a ^ b) >> bit & 1 for bit in range(24)]).double().mean(1)
    assert (changed - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(len(a))


@pytest.mark.parametrize("base", [0, 1 << 32, (5 << 44) + (3 << 32)])
def test_words_over_consecutive_keys_are_uniform(base: int) -> None:
    """The same weight over the steps of a run: its draws must be as good as those of one step over the weights."""
    for index, n in [(0, 2**14), (1, 2**11), (1000, 2**11)]:
        w = words_over_keys(index, base, n)
        assert abs(w.double().mean().item() / 2**24 - 0.5) < 4 / math.sqrt(12 * n)
        assert abs(chi_square_z(w >> 18, 64)) < 4
        for lag in (1, 2, 16):
            assert abs(chi_square_z((w[lag:] >> 21) * 8 + (w[:-lag] >> 21), 64)) < 4, (index, lag)
