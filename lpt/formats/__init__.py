"""Number formats: which numbers exist, how to round to them, and the power of two that they are scaled by.

    fp134 = lpt.formats.get("fp134")
    scale = lpt.formats.scale_of(x)          # exponent of the largest |x|
    q = fp134.round(x, scale)                # nearest level, ties to even, saturating

Open `base` first: `round` scales, `_nearest` of a family decides. `octaves`, `posits`, `tables` and `identity` are the
families, `names` finds one, `scaling` finds exponents, `noise` draws random bits, `fused` compiles a chain of
operations into one pass over memory. `blocks` gives each block of a tensor a scale of its own (`block_scales`), cut by
`tiles`, compiled by `block_passes`; `specs` has `get`.
"""

from .base import Format
from .blocks import Blocks
from .names import family
from .octaves import Octaves
from .posits import Posit
from .scaling import scale_of
from .specs import get
from .tables import Table

__all__ = ["Blocks", "Format", "Octaves", "Posit", "Table", "family", "get", "scale_of"]
