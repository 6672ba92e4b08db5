"""Which numbers each format holds, against the oracle, ml_dtypes, gfloat and numpy."""

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

from lpt.formats import Posit, Table, family, get

from .grids import (
    BYTE_NAMES,
    FP1XY,
    LISTS,
    NATURAL,
    ODD_LISTS,
    ODD_TABLE,
    WIDE,
    Fast,
    grid_of,
)
from .oracle import octaves, partitions, posit

# name        bits  octaves  values     largest        smallest above zero
TABLE = """
  fp134          8       11     255        1.9375      2**-10
  fp143          8       18     255        1.875       2**-17
  fp152          8       33     255        1.75        2**-32
  fp124          7        7     127        1.9375      2**-6
  fp133          7       10     127        1.875       2**-9
  fp142          7       17     127        1.75        2**-16
  fp123          6        6      63        1.875       2**-5
  fp132          6        9      63        1.75        2**-8
  int8           8        7     255        127/64      2**-6
  int4           4        3      15        1.75        2**-2
  int2           2        1       3        1           1
  log4           4        7      15        1           2**-6
  log3           3        3       7        1           2**-2
  log2           2        1       3        1           1
  int8_full      8        -     256        127/64      2**-6
  int4_full      4        -      16        1.75        2**-2
  posit8_0       8        -     255        64          2**-6
  posit8_1       8        -     255        4096        2**-12
  posit8_2       8        -     255        2**24       2**-24
  fixed8_0       8        -     256        127         1
  fixed8_7       8        -     256        127/128     2**-7
  ocp_e4m3       8        -     253        448         2**-9
  ocp_e5m2       8        -     247        57344       2**-16
  ocp_e3m2       6        -      63        28          2**-4
  ocp_e2m3       6        -      63        7.5         2**-3
  ocp_e2m1       4        -      15        6           2**-1
  ieee_e5m2      8        -     247        57344       2**-16
  ieee_e4m3      8        -     239        240         2**-9
  ieee_e3m4      8        -     223        15.5        2**-6
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table(row: list[str]) -> None:
    name, bits, octave_count, count, largest, smallest = row
    fmt = get(name)
    values = fmt.values()
    assert fmt.bits == int(bits)
    assert (str(len(fmt.octaves)) if fmt.octaves else "-") == octave_count
    assert len(values) == int(count)
    assert values.max() == fmt.high == eval(largest) and values.min() == fmt.low
    assert values[values > 0].min() == eval(smallest)


@pytest.mark.parametrize("name", BYTE_NAMES)
def test_values_are_the_oracles(name: str) -> None:
    values = get(name).values()
    assert values.dtype == torch.float64
    assert values.tolist() == [float(v) for v in grid_of(name).levels]
    assert values.unique().equal(values) and (values == 0).sum() == 1 and not values[values == 0].signbit()


def test_values_of_lists_and_tables() -> None:
    for valid_bits in [v for v in ODD_LISTS if sum(2 ** (n - 1) for n in v) <= 127]:
        fmt = get(valid_bits)
        assert fmt.octaves == tuple(valid_bits)
        assert fmt.values().tolist() == [float(v) for v in octaves(valid_bits).levels]
    assert Table("odd", ODD_TABLE).values().tolist() == ODD_TABLE
    assert Table("tenth", [0, 0.1]).values().tolist() == [0.0, float(np.float32(0.1))]  # as float32 holds it
    for bits, es in [(3, 0), (4, 1), (6, 2), (7, 0)]:
        assert Posit(bits, es).values().tolist() == [float(v) for v in posit(bits, es).levels]


@pytest.mark.parametrize("spec", ["bf16", "fp16", "fp169", "fp32", [9, 1], [8], [7, 6, 5, 5, 4, 3, 2, 1]], ids=str)
def test_more_than_256_values_cannot_be_listed_or_encoded(spec) -> None:
    fmt = get(spec)
    codes = torch.zeros(1, dtype=torch.uint8)
    for attempt in (fmt.values, lambda: fmt.encode(torch.ones(1)), lambda: fmt.decode(codes)):
        with pytest.raises(ValueError, match="more than 256 values"):
            attempt()


@pytest.mark.parametrize("name", BYTE_NAMES)
def test_codes_count_up_from_zero_on_either_side(name: str) -> None:
    fmt = get(name)
    grid, values = grid_of(name), fmt.values().float()
    codes = fmt.encode(values)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [grid.code(level) for level in grid.levels]
    assert fmt.decode(codes).equal(values)
    positive = codes[values >= 0].tolist()
    assert positive == list(range(len(positive)))
    used = set(codes.tolist())
    everything = fmt.decode(torch.arange(256, dtype=torch.uint8))
    assert [c for c in range(256) if not everything[c].isnan()] == sorted(used)
    nan_code = fmt.encode(torch.tensor([float("nan")])).item()
    assert nan_code == 0x80 and (len(values) == 256 or everything[0x80].isnan())
    high = max(used & set(range(128)))
    assert high < 2 ** (fmt.bits - 1) or fmt.bits == 8


@pytest.mark.parametrize("name", [n for n in LISTS if n not in FP1XY or FP1XY[n]])
def test_named_lists_fill_their_codes(name: str) -> None:
    fmt = get(name)
    assert fmt.octaves == tuple(LISTS[name])
    assert sum(2 ** (v - 1) for v in fmt.octaves) == 2 ** (fmt.bits - 1) - 1


@pytest.mark.parametrize("bits, octave_range", [(8, (7, 33)), (7, (6, 32)), (6, (5, 31))])
def test_family(bits: int, octave_range: tuple[int, int]) -> None:
    formats = family(bits)
    lists = [f.octaves for f in formats]
    # A binary partition of 31, in which 2**e stands for an octave of e + bits - 5 valid bits; then the tail. 31 is
    # odd, so that the smallest part, 1, occurs: the fixed tail is [3, 2, 1], [2, 1] or [1], its first entry included.
    tail = tuple(range(bits - 6, 0, -1))
    heads = {tuple(e + bits - 5 for e in partition) for partition in partitions(31, 4)}
    assert len(heads) == 166
    assert len(formats) == len(set(lists)) == len({f.name for f in formats}) == 166
    assert set(lists) == {head + tail for head in heads}
    for fmt in formats:
        assert fmt.bits == bits and len(fmt.values()) == 2**bits - 1
        assert list(fmt.octaves) == sorted(fmt.octaves, reverse=True)
        assert get(list(fmt.octaves)) == fmt == get(fmt.name)
    counts = [len(v) for v in lists]
    assert (min(counts), max(counts)) == octave_range and counts == sorted(counts)
    members = {8: ["int8", "fp134", "fp143", "fp152"], 7: ["int7", "fp124", "fp133", "fp142"], 6: ["int6", "fp123"]}
    assert {*members[bits]} <= {f.name for f in formats}
    assert (4, 5, 5, 5, 5, 5, 5, 5, 3, 2, 1) not in lists


@pytest.mark.parametrize("bits", [5, 9, 0, "8"])
def test_family_of_other_widths(bits) -> None:
    with pytest.raises(ValueError, match=f"8, 7 and 6 bits, got {bits}"):
        family(bits)


# ml_dtypes' dtype, and the name here of the format with the same values; infinities and nans left out
ML_DTYPES = {
    "float8_e4m3fn": "ocp_e4m3",
    "float8_e5m2": "ocp_e5m2",
    "float8_e4m3": "ieee_e4m3",
    "float8_e3m4": "ieee_e3m4",
    "float6_e3m2fn": "ocp_e3m2",
    "float6_e2m3fn": "ocp_e2m3",
    "float4_e2m1fn": "ocp_e2m1",
    "int4": "int4_full",
    "int2": "int2_full",
}


@pytest.mark.parametrize("dtype", ML_DTYPES)
def test_values_are_those_of_ml_dtypes(dtype: str) -> None:
    fmt = get(ML_DTYPES[dtype])
    codes = np.arange(2**fmt.bits).astype(np.uint8)
    if dtype.startswith("int"):  # int2_full's and int4_full's steps at scale 0 are 2**0 and 2**-2
        values = codes.astype(np.int8).astype(getattr(ml_dtypes, dtype)).astype(np.float64) * 2.0 ** (2 - fmt.bits)
    else:
        values = codes.view(getattr(ml_dtypes, dtype)).astype(np.float64)
    assert fmt.values().tolist() == np.unique(values[np.isfinite(values)] + 0.0).tolist()
    assert get("ieee_e5m2").values().equal(get("ocp_e5m2").values())


@pytest.mark.parametrize("name", [n for n in NATURAL if n.startswith("ocp")])
def test_values_are_those_of_gfloat(name: str) -> None:
    info = getattr(gfloat.formats, f"format_info_{name}")
    values = np.array([gfloat.decode_float(info, code).fval for code in range(2**info.k)])
    fmt = get(name)
    assert fmt.values().tolist() == np.unique(values[np.isfinite(values)] + 0.0).tolist()
    assert fmt.bits == info.k and fmt.high == info.max


def finite_float(name: str) -> gfloat.FormatInfo:
    """FP1xy as gfloat describes it: no infinity, no nan, subnormals; its bias puts the top octave at 2**0."""
    x, y = int(name[3]), int(name[4])
    return gfloat.FormatInfo(
        name, 1 + x + y, y + 1, bias=2**x - 1, is_signed=True, domain=gfloat.Domain.Finite, has_nz=True,
        num_high_nans=0, has_subnormals=True, is_twos_complement=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in FP1XY if n[4] != "0" and n[3] != "1"])
def test_values_are_those_of_gfloats_finite_floats(name: str) -> None:
    info = finite_float(name)
    values = np.array([gfloat.decode_float(info, code).fval for code in range(2**info.k)])
    assert get(name).values().tolist() == np.unique(values + 0.0).tolist()


def test_wide_formats_hold_numpys_values() -> None:
    """16-bit values have no list: instead, each of them stays, and the midpoints to the next do not."""
    halves = np.arange(2**16, dtype=np.uint16)
    for name, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        with np.errstate(invalid="ignore"):  # signalling nans are among the patterns
            values = halves.view(dtype).astype(np.float64)
        values = np.unique(values[np.isfinite(values)])
        oracle = Fast(grid_of(name))
        assert oracle.levels.tolist() == values.tolist()
        x = torch.from_numpy(values)
        assert get(name).round(x).equal(x) and get(name).round(x.float()).equal(x.float())
        middle = (x[1:] + x[:-1]) / 2
        assert (get(name).round(middle) != middle).all()
        assert get(name).bits == 16 and get(name).high == values[-1]
    # FP 1-6-9 has bias 31, neither infinity nor nan: 2**15 - 1 positive values up to (2 - 2**-9) * 2**32.
    assert len(Fast(grid_of("fp169")).levels) == 2**16 - 1
    assert get("fp169").high == (2 - 2.0**-9) * 2.0**32 and get("fp169").bits == 16
    assert set(WIDE) == {"bf16", "fp16", "fp169"}
