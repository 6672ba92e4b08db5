"""Data-flow quantization of A, E and G by Edges: values rounded where they are made.

Open `edge` first: what stands behind one module and rounds its values; `quantizer` is one tensor's format, scale and
rounding. `spec` is what is asked for, `attach` puts it on a model, `flow` is the handle, `placing` decides by `roles` and
a first pass (`tracing`) where Edges stand, `scales` moves their scales, `saving` and `changes` keep to a model's names.
`audit` proves by value what `coverage` tells as a table; both are imported when they are asked for. `ops` is arithmetic
as modules.
"""

from . import ops
from .attach import attach_
from .flow import Flow
from .spec import DataFlow

__all__ = ["DataFlow", "Flow", "attach_", "ops"]
