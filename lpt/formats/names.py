"""`per_tensor`: from a name or a list to a format with one scale a tensor. `family`: the paper's 498 formats."""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache

from .base import TIES, Format
from .fixed import Fixed
from .identity import Float32
from .midrise import MidRise
from .octaves import MAX_OCTAVES, Octaves
from .posits import Posit
from .tables import Table

FormatSpec = str | Sequence[int] | Format

# Valid bits per octave, exponent of the top octave, levels missing at the top. The small IEEE-style floats spend
# their top octave on infinity and nan, OCP's E4M3 only its largest code: neither is the FP1xy of the same widths.
_NATURAL = {
    "ocp_e4m3": ([4] * 15 + [3, 2, 1], 8, 1),
    "ocp_e5m2": ([3] * 30 + [2, 1], 15, 0),
    "ocp_e3m2": ([3] * 7 + [2, 1], 4, 0),
    "ocp_e2m3": ([4] * 3 + [3, 2, 1], 2, 0),
    "ocp_e2m1": ([2] * 3 + [1], 2, 0),
    "ieee_e5m2": ([3] * 30 + [2, 1], 15, 0),
    "ieee_e4m3": ([4] * 14 + [3, 2, 1], 7, 0),
    "ieee_e3m4": ([5] * 6 + [4, 3, 2, 1], 3, 0),
}
# 16-bit formats are used at scale 0. fp169 has an exponent bias of 31, no infinity and no nan.
_WIDE = {
    "bf16": ([8] * 254 + [7, 6, 5, 4, 3, 2, 1], 127),
    "fp16": ([11] * 30 + [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], 15),
    "fp169": ([10] * 63 + [9, 8, 7, 6, 5, 4, 3, 2, 1], 32),
}


# Block formats, as "element/block/scale/rule" (`specs`). MX is OCP's, NVFP4 NVIDIA's, BM Block Minifloat (ICLR 2021).
_MX = {
    "mxfp8_e4m3": "ocp_e4m3",
    "mxfp8_e5m2": "ocp_e5m2",
    "mxfp6_e3m2": "ocp_e3m2",
    "mxfp6_e2m3": "ocp_e2m3",
    "mxfp4": "ocp_e2m1",
    "mxint8": "int8",
}
NAMED = {
    **{name: f"{element}/32/e8m0/floor" for name, element in _MX.items()},
    **{f"{name}_{r}": f"{element}/32/e8m0/{r}" for name, element in _MX.items() for r in ("rceil", "even", "ceil")},
    "nvfp4": "ocp_e2m1/16/e4m3/amax",
    "bm8_a": "fp125/48x48/e8m0/floor",
    "bm8_e": "fp143/48x48/e8m0/floor",
}


def per_tensor(spec: FormatSpec) -> Format:
    """The format that `spec` names: one scale serves a tensor, or what its user makes share one.

    Args:
        spec: `fp1xy`, `int2`..`int8`, `int9`..`int17` (no bytes), `uint2`..`uint7` (nothing negative),
            `int2_full`..`int8_full`, `log2`..`log4`, `posit8_0`..`posit8_2`, `fixed8_F` and `fixed32_F` (two's
            complement with F fraction bits, at no other scale), `mid2`..`mid7` (without zero, `MidRise`), `ocp_e4m3`,
            `ocp_e5m2`, `ocp_e3m2`, `ocp_e2m3`, `ocp_e2m1`, `ieee_e5m2`, `ieee_e4m3`, `ieee_e3m4`, `bf16`, `fp16`,
            `fp169`, `fp32`; a list of valid bits per octave, largest octave first, or such a list in a string, where
            `7x5` stands for seven times 5 ("7x5,4,3,2,1" is fp134); a name with `@away`, `@zero`
            or `@log` behind it, for other ties (`Format.round`); or a Format, which is returned.

    Raises:
        ValueError: anything else; the message names the nearest match.
    """
    if isinstance(spec, Format):
        if spec.block is not None:
            raise ValueError(misplaced(spec.name))
        return spec
    if isinstance(spec, str):
        if spec in NAMED or "/" in spec:
            raise ValueError(misplaced(spec))
        return _by_name(spec)
    if isinstance(spec, Sequence):
        return _by_list([*spec])
    raise ValueError(f"a format is a name or a list of valid bits, got {spec!r}; for example fp134 or [5,5,4,3,2,1]")


@cache
def _by_name(name: str) -> Format:
    if name == "fp32":
        return Float32()
    base, at, ties = name.partition("@")
    if at and ties in TIES[1:]:
        return _by_name(base).tied(ties)
    if name in _NATURAL:
        valid, top, dropped = _NATURAL[name]
        return Octaves(name, valid, top, dropped)
    if name in _WIDE:
        valid, top = _WIDE[name]
        return Octaves(name, valid, top, scaled=False)
    if match := re.fullmatch(r"uint([2-7])", name):
        return Table(name, [i * 2.0 ** (1 - int(match[1])) for i in range(2 ** int(match[1]))], int(match[1]))
    if match := re.fullmatch(r"mid([2-7])", name):
        return MidRise(int(match[1]))
    if match := re.fullmatch(r"posit8_([012])", name):
        return Posit(8, int(match[1]))
    if match := re.fullmatch(r"fixed8_([0-7])", name):
        return Octaves(name, range(7, 0, -1), 6 - int(match[1]), low_extra=True, scaled=False)
    if match := re.fullmatch(r"fixed32_([0-9]|1[0-9]|2[0-9]|3[01])", name):
        return Fixed(32, int(match[1]))
    if match := re.fullmatch(r"int([2-8])_full", name):
        return Octaves(name, range(int(match[1]) - 1, 0, -1), low_extra=True)
    if (valid_bits := _octave_list(name)) is not None:
        return Octaves(name, valid_bits)
    if re.fullmatch(r"\[?\s*\d+(x\d+)?(\s*,\s*\d+(x\d+)?)*\s*\]?", name):
        return _by_list(_expand(name))
    raise ValueError(_unknown(name))


def _octave_list(name: str) -> list[int] | None:
    """The valid bits of the families with a rule for a name, or None."""
    if match := re.fullmatch(r"int([2-9]|1[0-7])", name):
        return list(range(int(match[1]) - 1, 0, -1))
    if match := re.fullmatch(r"log([234])", name):
        return [1] * (2 ** (int(match[1]) - 1) - 1)
    if match := re.fullmatch(r"fp1([1-7])([0-6])", name):
        x, y = int(match[1]), int(match[2])
        if x + y <= 7:
            return [y + 1] * (2**x - 1) + list(range(y, 0, -1))
    return None


def _by_list(valid_bits: list[int]) -> Format:
    fmt = Octaves(_list_name(valid_bits), valid_bits)  # refuses what is not a list of valid bits, before comparing
    named = [name for name in _names() if _octave_list(name) == valid_bits]
    return _by_name(named[0]) if named else fmt


def _list_name(valid_bits: list[int]) -> str:
    """The list as `get` reads it, runs of equal entries folded: "7x5,4,3,2,1"."""
    parts, i = [], 0
    while i < len(valid_bits):
        run = i
        while run < len(valid_bits) and valid_bits[run] == valid_bits[i]:
            run += 1
        parts.append(f"{run - i}x{valid_bits[i]}" if run - i > 1 else f"{valid_bits[i]}")
        i = run
    return "[" + ",".join(parts) + "]"


def _expand(text: str) -> list[int]:
    valid_bits: list[int] = []
    for part in text.strip("[] ").split(","):
        count, _, v = part.strip().rpartition("x")
        valid_bits += [int(v)] * min(int(count or 1), MAX_OCTAVES + 1)  # more are refused all the same
    return valid_bits


def _names() -> list[str]:
    ints = [f"int{b}" for b in range(2, 18)]
    floats = [f"fp1{x}{y}" for x in range(2, 8) for y in range(7 - x + 1) if x + y >= 3]
    logs = [f"log{b}" for b in (2, 3, 4)]
    return [*ints, *logs, *floats]


def _unknown(name: str) -> str:
    others = [f"int{b}_full" for b in range(2, 9)] + [f"posit8_{es}" for es in range(3)]
    others += [*(f"fixed8_{f}" for f in range(8)), "fixed32_16", *(f"mid{b}" for b in range(2, 8))]
    near = nearest(name, [*_names(), *others, *_NATURAL, *_WIDE, "fp32", *NAMED])
    return (
        f"unknown format {name!r}{near}. Valid: fp1xy (1 + x + y <= 8 bits, such as fp134), "
        "int2..int8, int9..int17, uint2..uint7, int2_full..int8_full, log2..log4, posit8_0..posit8_2, "
        "fixed8_0..fixed8_7, fixed32_F, mid2..mid7, ocp_{e4m3,e5m2,e3m2,e2m3,e2m1}, ieee_{e5m2,e4m3,e3m4}, bf16, fp16, "
        "fp169, fp32, one of them with @away, @zero or @log behind it (ties), a list of valid "
        "bits such as [5,5,4,4,3,2,1], or a block format: mx{fp8_e4m3,fp8_e5m2,fp6_e3m2,fp6_e2m3,fp4,int8} with "
        "nothing, _rceil, _even or _ceil behind it, nvfp4, bm8_a, bm8_e, or element/block/scale/rule such as "
        "fp134/32/e8m0/floor"
    )


def misplaced(name: str) -> str:
    """What to say of a block format in a place that has one scale a tensor."""
    return (
        f"{name} is a block format: its scales are found where an operand is used, so it belongs to products= or "
        "weights=; give a format with one scale a tensor here, such as fp134"
    )


def nearest(got: object, valid: Iterable[str]) -> str:
    """What to say of a misspelt name, to be put behind it."""
    near = difflib.get_close_matches(str(got).lower(), [*valid], n=1, cutoff=0.0)
    return f"; the nearest is {near[0]!r}"


def family(bits: int) -> list[Format]:
    """The 166 formats of the paper's search that have `bits` bits: 8, 7 or 6.

    Valid bits never rise towards small magnitudes, every code is used, and the smallest octaves are the fixed tail
    [3, 2, 1], [2, 1] or [1]. (This reading of the paper gives its number, 498 = 3 * 166.) Ordered by the number
    of octaves, fewest first.

    Raises:
        ValueError: another number of bits.
    """
    if bits not in (6, 7, 8):
        raise ValueError(f"the family has formats of 8, 7 and 6 bits, got {bits}")
    tail = list(range(bits - 5, 0, -1))
    codes = 2 ** (bits - 1) - 1 - sum(2 ** (v - 1) for v in tail)
    heads = _partitions(codes, bits - 1, bits - 5)
    return [_by_list([*head, *tail]) for head in sorted(heads, key=lambda head: (len(head), [-v for v in head]))]


def _partitions(codes: int, largest: int, smallest: int) -> list[list[int]]:
    """All non-increasing lists of v from `largest` to `smallest` whose octaves hold exactly `codes` codes."""
    if codes == 0:
        return [[]]
    return [
        [v, *rest]
        for v in range(largest, smallest - 1, -1)
        if 2 ** (v - 1) <= codes
        for rest in _partitions(codes - 2 ** (v - 1), v, smallest)
    ]
