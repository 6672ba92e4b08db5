"""The data flow: values rounded where they are made, by Edges, and operands where they are used, by Products.

Open `edge` first: what stands behind one module and rounds its values; `quantizer` is one tensor's format, scale and
rounding. `spec` is what is asked for, `attach` puts it on a model, `flow` is the handle; `placing` decides by `roles`
and a first pass (`tracing`) where Edges stand, `scales` moves their scales, `saving` and `changes` keep to a model's
names. `audit` proves by value what `coverage` tells as a table; both are imported when they are asked for. `ops` is
arithmetic as modules.
Of products, `slots` is what is asked for, `attach_products` puts it on a model (`choosing` says where), `product` is
the autograd function.
`unit` gives a model weights of variance 1 and fixed factors in place of scales.
"""

from . import ops
from .attach import attach_
from .attach_products import Multiplied, attach_products_
from .flow import Flow
from .slots import Hadamard, Products, Slot
from .spec import DataFlow
from .unit import UnitVariance

__all__ = [
    "DataFlow",
    "Flow",
    "Hadamard",
    "Multiplied",
    "Products",
    "Slot",
    "UnitVariance",
    "attach_",
    "attach_products_",
    "ops",
]
