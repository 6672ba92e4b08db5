"""Names, errors and codes of block formats, and what they hold."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lpt.formats import Blocks, Table, get


@pytest.mark.parametrize(
    "name, element, block, bits",
    [
        ("mxfp8_e4m3", "ocp_e4m3", (32,), 8.25),
        ("mxfp8_e5m2_rceil", "ocp_e5m2", (32,), 8.25),
        ("mxfp6_e3m2_even", "ocp_e3m2", (32,), 6.25),
        ("mxfp6_e2m3_ceil", "ocp_e2m3", (32,), 6.25),
        ("mxfp4", "ocp_e2m1", (32,), 4.25),
        ("mxint8", "int8", (32,), 8.25),
        ("nvfp4", "ocp_e2m1", (16,), 4.5),
        ("bm8_a", "fp125", (48, 48), 8 + 8 / 2304),
        ("bm8_e", "fp143", (48, 48), 8 + 8 / 2304),
        ("ocp_e4m3/1x128/fp32/pow2", "ocp_e4m3", (1, 128), 8.25),
        ("fp134/16/e8m0/even/room=-2", "fp134", (16,), 8.5),
        ("ocp_e2m1/16/ue5m3/amax/min_scale=0.5", "ocp_e2m1", (16,), 4.5),
        ("[7x5,4]/8/e4m3/amax/tensor_scale=False", "[7x5,4]", (8,), 9.0),
    ],
)
def test_names(name: str, element: str, block: tuple[int, ...], bits: float) -> None:
    fmt = get(name)
    assert isinstance(fmt, Blocks) and get(name) == fmt and hash(get(name)) == hash(fmt) and name in repr(fmt)
    assert (fmt.name, fmt.element, fmt.block, fmt.bits) == (name, get(element), block, bits)
    assert fmt.values().equal(fmt.element.values()) and fmt != get(element)
    x = torch.randn(3, 50)
    for twin in (pickle.loads(pickle.dumps(fmt)), copy.deepcopy(fmt)):
        assert twin == fmt and twin.round(x).equal(fmt.round(x))


def test_ways_to_write_a_block_format() -> None:
    assert Blocks("ocp_e2m1", 32) == get({"element": "ocp_e2m1", "block": 32}) == get("ocp_e2m1/32") == get("mxfp4")
    assert Blocks(get("fp125"), [48, 48], rule="floor").name == "bm8_a" and get(get("mxfp4")) == get("mxfp4")
    assert Blocks("ocp_e2m1", 32, rule="rceil").name == "mxfp4_rceil" and Blocks([5, 4], 3).name == "[5,4]/3/e8m0/floor"
    assert (
        len({get(n) for n in ("mxfp4", "mxfp4_even", "nvfp4", "ocp_e2m1/16", "ocp_e2m1/4x8", "ocp_e2m1/32/fp32")}) == 6
    )


@pytest.mark.parametrize(
    "spec, said",
    [
        ("mxfp5", "unknown format 'mxfp5'; the nearest is 'mxfp4'"),
        ("mxfp4_rciel", "the nearest is 'mxfp4_rceil'"),
        ("nvpf4", "the nearest is 'nvfp4'"),
        ("fp134/0", "block=.0. is neither a number of elements"),
        ("fp134/-3", "block='-3' is neither"),
        ("fp134/2x2x2", "block=.2, 2, 2. is neither"),
        ("fp134/32/e8m1", "scale='e8m1' is not one of e8m0, e4m3, ue5m3, fp32, squeeze, static; the nearest is 'e8m0'"),
        ("fp134/32/e8m0/flor", "the rule of e8m0 scales='flor' is not one of .*; the nearest is 'floor'"),
        ("nvfp4/32", "nvfp4 is a block format: .* products= or weights="),
        ("bf16/32", "element=bf16 does not fit a block: give a format of a scale of its own"),
        ("fp32/32", "element=fp32 does not fit a block"),
        ("fixed8_4/32", "element=fixed8_4 does not fit a block"),
        ("fp13/32", "unknown format 'fp13'"),
        ("fp134/32/e4m3/room=1", "room=1 is no option of e4m3 scales"),
        ("fp134/32/min_scale=1.0", "min_scale=1.0 is no option of e8m0 scales"),
        ("fp134/32/e4m3/min_scale=-1", "min_scale=-1: give the smallest scale"),
        ("fp134/32/room=0.5", "room=0.5: give octaves"),
        ("fp134/32/e8m0/floor/more", "is no block format: write element/block/scale/rule"),
        ("fp134/32/rome=1", "a block format has an element, a block and any of .*got element, block, rome"),
        ({"element": "fp134"}, "a block format has an element, a block and any of"),
        ({"element": "fp134", "block": True}, "block=True is neither"),
        ({"element": Table("down", [-1, 0]), "block": 3}, "element=down does not fit"),
    ],
)  # fmt: skip
def test_what_is_no_block_format(spec, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        get(spec)
    assert "\n" not in str(error.value)


def test_wrong_use() -> None:
    fmt = get("mxfp4")
    with pytest.raises(ValueError, match="dim=2 is not a dimension of a tensor of shape"):
        fmt.round(torch.ones(3, 4), 2)
    with pytest.raises(
        ValueError, match="dim=Tensor is not the number of a dimension: a block format finds its own scales"
    ):
        fmt.round(torch.ones(3, 4), torch.tensor(1))
    with pytest.raises(ValueError, match="codes are bytes"):
        fmt.decode(torch.ones(3, 4), torch.ones(3, 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="mxfp4 is a block format: its scales are found where an operand is used"):
        fmt.carry("floor")


def test_codes_are_the_elements() -> None:
    x = torch.randn(4, 70, generator=torch.Generator().manual_seed(0))
    for name in ("mxfp4", "mxint8", "mxfp8_e4m3"):
        fmt = get(name)
        codes, scales = fmt.encode(x, 0)
        each = scales.repeat_interleave(4, 0)
        assert codes.dtype == torch.uint8 and codes.equal(fmt.element.encode(x, each)) and scales.shape == (1, 70)
        assert fmt.decode(codes, scales.to(torch.int8), 0).equal(fmt.round(x, 0))


def test_tiles_serve_both_directions() -> None:
    x = torch.randn(100, 60, generator=torch.Generator().manual_seed(0))
    for name in ("bm8_a", "ocp_e2m1/16x16/e4m3"):
        fmt = get(name)
        assert fmt.round(x, 0).equal(fmt.round(x, 1)) and fmt.round(x.t()).equal(fmt.round(x).t())
    assert get("fp134/2x8").round(x, 0).equal(get("fp134/8x2").round(x, 1))
    assert not get("fp134/2x8").round(x, 1).equal(get("fp134/8x2").round(x, 1))
