"""What is asked of a Hadamard transform of operands; `transforms` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

SIZES = (16, 32, 64, 128)


@dataclass(frozen=True)
class Hadamard:
    """A Hadamard matrix, in Sylvester's order, along the contraction of both operands of a product.

    Args:
        size: 16, 32, 64 or 128; it must divide what is summed over.
        signs: "none"; "fixed", one vector of random signs for all products and all time, multiplied in before;
            "fresh", another one for every product and pass, the same on all ranks; or a list of `size` times 1 or -1.
        fit: where the size does not divide, the largest smaller power of two that does (of a list of signs, its
            beginning): 1 leaves the operands as they are.
        over: "sum"; or "tokens", of dgrad_e alone: along what that product does not sum over, and turned back in its
            result.
        orthonormal: scaled by size^-1/2, which is rounded where the size is 32 or 128; otherwise by the next power of
            two, and the product corrected by another, which is exact. The same to real-valued scales, but not to
            powers of two.
    """

    size: int = 16
    signs: str | Sequence[int] = "fixed"
    fit: bool = False
    over: str = "sum"
    orthonormal: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES or isinstance(self.size, bool):
            raise ValueError(f"a Hadamard transform of size {self.size!r}: give one of {', '.join(map(str, SIZES))}")
        if isinstance(self.signs, str):
            choice("signs", self.signs, "none", "fixed", "fresh")
        else:
            object.__setattr__(self, "signs", tuple(self.signs))
            if len(self.signs) != self.size or not {*self.signs} <= {1, -1}:
                raise ValueError(f"signs={list(self.signs)}: give {self.size} times 1 or -1, or none, fixed or fresh")
        for key in ("fit", "orthonormal"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key}={getattr(self, key)!r}: give true or false")
        choice("over", self.over, "sum", "tokens")

    def fitting(self, n: int) -> int:
        """The size for n elements."""
        size = self.size
        while self.fit and n % size:
            size //= 2
        return size

    def __str__(self) -> str:
        signs = self.signs if isinstance(self.signs, str) else "given"
        parts = [f"H{self.size}", "" if signs == "none" else signs]
        parts += [key for key in ("fit", "orthonormal") if getattr(self, key)]
        return " ".join(filter(None, [*parts, "over tokens" if self.over == "tokens" else ""]))


def hadamard(spec: Any) -> Hadamard | None:
    """What `Slot` takes for a transform: None, a size, a mapping, or a Hadamard."""
    if spec is None or isinstance(spec, Hadamard):
        return spec
    if isinstance(spec, Mapping):
        if odd := sorted(set(spec) - {field.name for field in fields(Hadamard)}):
            keys = "a transform has a size, signs, fit, over and orthonormal"
            raise ValueError(f"{keys}, got {odd[0]!r}: write {{size: 16, signs: fixed}}")
        return Hadamard(**spec)
    return Hadamard(spec)


def choice(key: str, got: str, *valid: str) -> None:
    """Raise a ValueError if `got` is not one of `valid`."""
    if got not in valid:
        raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
