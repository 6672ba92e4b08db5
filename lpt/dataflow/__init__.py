"""Data-flow quantization of A, E and G by Edges: values rounded where they are made.

`spec` is what is asked for, `attach` puts it on a model, `flow` (open it first) is the handle with the hooks, `edge`
what stands behind one module, `quantizer` one tensor's format, scale and rounding. `audit` proves by value what
`coverage` tells as a table; both are imported when they are asked for. `ops` is arithmetic as modules.
"""

from . import ops
from .attach import attach_
from .flow import Flow
from .spec import DataFlow

__all__ = ["DataFlow", "Flow", "attach_", "ops"]
