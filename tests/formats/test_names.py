"""`get`: what it understands, and what it says of the rest."""

import copy
import pickle

import pytest
import torch
from omegaconf import OmegaConf

from lpt.formats import Format, Octaves, Posit, Table, family, get

from .grids import BYTE_NAMES, WIDE

FP134 = [5] * 7 + [4, 3, 2, 1]


@pytest.mark.parametrize(
    "spec",
    [
        FP134,
        tuple(FP134),
        OmegaConf.create({"value": FP134}).value,
        "5,5,5,5,5,5,5,4,3,2,1",
        "[5, 5, 5, 5, 5, 5, 5, 4, 3, 2, 1]",
        "7x5,4,3,2,1",
        "[7x5,4,3,2,1]",
        " 7x5 , 4,3,2,1 ".strip(),
        "3x5,4x5,4,3,2,1",
        get("fp134"),
    ],
    ids=repr,
)
def test_ways_to_write_fp134(spec) -> None:
    fmt = get(spec)
    assert fmt == get("fp134") and fmt.name == "fp134" and fmt.octaves == tuple(FP134)


def test_a_format_passes_through() -> None:
    fmt = Table("mine", [-1, 0, 1])
    assert get(fmt) is fmt and get("fp134") is get("fp134")


@pytest.mark.parametrize("name", [*BYTE_NAMES, *WIDE, "fp32"])
def test_the_same_name_gives_an_equal_format(name: str) -> None:
    fmt = get(name)
    assert fmt.name == name and get(name) == fmt and hash(get(name)) == hash(fmt) and name in repr(fmt)
    for twin in (pickle.loads(pickle.dumps(fmt)), copy.deepcopy(fmt), copy.copy(fmt)):
        assert twin == fmt and hash(twin) == hash(fmt)
        x = torch.randn(50, generator=torch.Generator().manual_seed(2))
        assert twin.round(x, 1).equal(fmt.round(x, 1)) and twin.octaves == fmt.octaves
        assert twin.floor(x.double(), 1).equal(fmt.floor(x.double(), 1))
    if fmt.octaves:
        assert get(list(fmt.octaves)).octaves == fmt.octaves


def test_names_of_lists() -> None:
    #     list                      the name it gets, which gives the same format again
    table = [
        ([7, 6, 5, 4, 3, 2, 1], "int8"),
        (range(7, 0, -1), "int8"),
        ([1] * 7, "log4"),
        ([1], "int2"),
        ([5, 5, 4, 4, 3, 2, 1], "[2x5,2x4,3,2,1]"),
        ([4, 5, 5, 2], "[4,2x5,2]"),
        ([16] * 127, "[127x16]"),
    ]
    for valid_bits, name in table:
        assert get(valid_bits).name == name and get(name) == get(valid_bits)
        assert get(valid_bits).octaves == tuple(valid_bits)
    for fmt in family(8)[::20]:
        assert get(fmt.name) == fmt == pickle.loads(pickle.dumps(fmt))


def test_different_formats_are_not_equal() -> None:
    assert get("fp134") != get("fp143") != "fp143"
    assert Octaves("x", [3, 1]) != Octaves("x", [3, 2]) and Table("x", [0, 1]) != Table("x", [0, 2])
    assert get("ieee_e5m2") != get("ocp_e5m2") and get("int8") != get("int8_full")
    assert Posit(8, 1) == get("posit8_1")


# what is asked for      its nearest match
UNKNOWN = [
    ("fp199", "fp169"),
    ("FP134", "fp134"),
    ("fp1344", "fp134"),
    ("fp135", "fp1"),  # nine bits
    ("int1", "int"),
    ("int18", "int"),
    ("int8full", "int8_full"),
    ("log5", "log"),
    ("posit8_3", "posit8_"),
    ("posit16_1", "posit8_1"),
    ("ocp_e4m4", "ocp_e4m3"),
    ("bfloat16", "bf16"),
    ("fixed8_9", "fixed8_"),
    ("", ""),
    ("[5,,4]", ""),
    ("5;4", ""),
    ("5.0,4", ""),
    ("-5,4", ""),
    ("[]", ""),
]


@pytest.mark.parametrize("name, nearest", UNKNOWN)
def test_unknown_names(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="unknown format") as error:
        get(name)
    message = str(error.value)
    assert repr(name) in message and f"the nearest is '{nearest}" in message
    for valid in ("fp134", "int2..int8", "posit8_0..posit8_2", "ocp_", "bf16", "list of valid bits such as"):
        assert valid in message


# what is asked for, what the message must say of it
LISTS = [
    ([], "empty"),
    (OmegaConf.create({"value": []}).value, "empty"),
    ("0x5", "empty"),
    ([0], "0 is not a number of valid bits"),
    ([5, -1], "-1 is not"),
    ([5, 17], "17 is not"),
    ([5.0, 4.0], "5.0 is not"),
    ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "7.0 is not"),  # equal to int8's list, and still refused
    ([True], "True is not"),
    (["5", "4"], "'5' is not"),
    ([None], "None is not"),
    ([[5, 4]], r"\[5, 4\] is not"),
    ([1] * 128, "128 octaves leave float32's range"),
    ("128x1", "128 octaves leave float32's range"),
    ("99999999999x1", "octaves leave float32's range"),
    ("5,17", "17 is not"),
    (b"fp134", "102 is not"),
]


@pytest.mark.parametrize("spec, said", LISTS, ids=[str(spec)[:20] for spec, _ in LISTS])
def test_bad_lists(spec, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        get(spec)
    assert "give 1 to 127 integers from 1 to 16, the largest octave's valid bits first" in str(error.value)


@pytest.mark.parametrize(
    "spec", [None, 134, 1.5, True, {"fp134": 1}, {5, 4}, torch.ones(2), get], ids=lambda s: type(s).__name__
)
def test_neither_name_nor_list(spec) -> None:
    with pytest.raises(ValueError, match="a format is a name or a list of valid bits, got") as error:
        get(spec)
    assert "for example fp134 or [5,5,4,3,2,1]" in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [],
        [1.0, 2.0],
        [0.0, 1.0, 1.0],
        [0.0, 1.0, 1.0 + 2.0**-30],  # one number in float32
        [1.0, 0.0],
        [0.0, float("inf")],
        [0.0, float("nan")],
        [0.0, 1e39],
        range(-128, 129),
        range(129),
        range(-129, 1),
    ],
    ids=str,
)
def test_bad_tables(values) -> None:
    with pytest.raises(ValueError, match="format t: give ascending finite numbers with 0 among them, at most 256"):
        Table("t", values)


@pytest.mark.parametrize("bits, es", [(2, 0), (9, 1), (8, 3), (8, -1)])
def test_bad_posits(bits: int, es: int) -> None:
    with pytest.raises(ValueError, match="bits are 3 to 8, exponent bits 0 to 2"):
        Posit(bits, es)


def test_tables_are_formats() -> None:
    fmt = Table("ternary", [-1, -0.0, 1])
    assert isinstance(fmt, Format) and fmt.bits == 2 and fmt.octaves is None
    assert fmt.round(torch.tensor([-0.6, -0.5, 0.5, 0.6, 7.0])).tolist() == [-1, 0, 0, 1, 1]
    assert not fmt.round(torch.tensor([-0.1])).signbit().any()
    lopsided = Table("lopsided", [-4, -1, 0, 3])  # 0x82 is -4, 0x81 is -1, 1 is 3
    assert lopsided.encode(torch.tensor([-4.0, -1.0, 0.0, 3.0])).tolist() == [0x82, 0x81, 0, 1]
    assert lopsided.decode(torch.tensor([0x82, 0x81, 0, 1], dtype=torch.uint8)).tolist() == [-4, -1, 0, 3]
    assert lopsided.low == -4 and lopsided.high == 3 and lopsided.top_exponent == 2
    bytes_ = Table("bytes", range(-128, 128))
    assert bytes_.bits == 8 and len(bytes_.values()) == 256
