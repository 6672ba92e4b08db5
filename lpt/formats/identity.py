"""fp32: the format that changes nothing."""

from torch import Tensor

from .base import Format, Stochastic
from .scaling import Scale


class Float32(Format):
    """The identity. Switches quantization off where a format is asked for."""

    name = "fp32"
    bits = 32
    scaled = False

    def round(self, x: Tensor, scale: Scale = 0, stochastic: Stochastic = None, ties: str | None = None) -> Tensor:
        return x

    def floor(self, x: Tensor, scale: Scale = 0) -> Tensor:
        return x

    def ceil(self, x: Tensor, scale: Scale = 0) -> Tensor:
        return x

    def directed(self, x: Tensor, up: Tensor, scale: Scale = 0) -> Tensor:
        return x

    @property
    def high(self) -> float:
        return 2.0**128 - 2.0**104
