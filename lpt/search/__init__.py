"""The paper's search: rank number formats for a trained model without training it in any of them.

    ranking = lpt.search(model, batches, loss)      # this package is also the function
    print(ranking)

Open `engine` first: a search. `candidates` says what can be ranked (`recipes` reads whole ones). `probe` measures one
batch: formats in `edges` (`operands` is what products multiply there), slots of products in `sites` (`site` is one).
`race` decides which to go on with, `journal` keeps what was measured, `ranking` is the result (`rows` makes it), `cost`
models the hardware.
`draws` tells what stays of an error from what averages out; `parts` what each slot of each layer costs, of which
`suggest` makes a mixture by `knapsack`.
"""

import sys
from types import ModuleType
from typing import Any

from .candidates import Candidate
from .cost import Cost, Gates, cost
from .engine import search
from .journal import Journal
from .probe import Angles, Probe
from .ranking import Ranking, Row
from .suggest import Suggestion

__all__ = ["Angles", "Candidate", "Cost", "Gates", "Journal", "Probe", "Ranking", "Row", "Suggestion", "cost", "search"]


class _Callable(ModuleType):
    """A module that can be called: `lpt.search(...)` is `lpt.search.search(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Ranking:
        return search(*args, **kwargs)


_Callable.__call__.__doc__ = search.__doc__
sys.modules[__name__].__class__ = _Callable
