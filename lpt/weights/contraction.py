"""How a weight lies when a block format sees it: in-features last, out-features before them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .parameters import CONVOLUTION, TRANSPOSED, owner
from .step import Plan


@dataclass(frozen=True)
class InFeatures:
    """`Channels` of a weight in a block format: (..., out-features, in-features).

    So blocks of one dimension run along what the forward product sums over, and tiles lie over both: of a convolution,
    the in-channels at each pixel of its kernel, (pixels, out, in). Within a group, where there are groups. Any other
    weight has its in-features last already.

    Attributes:
        convolution: its weight is (out, in / groups, pixels).
        groups: of a transposed convolution, whose weight is (in, out / groups, pixels); 0 for all others.
    """

    convolution: bool = False
    groups: int = 0

    @staticmethod
    def of(model: nn.Module, name: str) -> InFeatures:
        module = owner(model, name)
        if isinstance(module, TRANSPOSED):
            return InFeatures(groups=int(module.groups))
        return InFeatures(convolution=isinstance(module, CONVOLUTION))

    def view(self, w: Tensor) -> Tensor:
        """`w` with its in-features last; nothing is copied."""
        if self.groups:
            return w.unflatten(0, (self.groups, -1)).movedim((2, 1), (-2, -1))
        return w.movedim((0, 1), (-2, -1)) if self.convolution else w

    def scale(self, w: Tensor, plan: Plan) -> Tensor:
        """The scales of the blocks of a weight seen by `view`, as its format gives them."""
        return plan.format.scale_of(w)

    def memory(self, w: Tensor) -> Tensor | None:
        """See `Channels.memory`."""
        return None
