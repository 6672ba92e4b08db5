"""The paper's search: rank number formats for a trained model without training it in any of them.

    ranking = lpt.search(model, batches, loss)      # this package is also the function
    print(ranking)

Open `engine` first: a search. `probe` measures one batch (`operands` what its products multiply), `race` decides which
formats to go on with, `journal` keeps what was measured, `ranking` is the result, `cost` models the hardware.
"""

import sys
from types import ModuleType
from typing import Any

from .cost import Cost, Gates, cost
from .engine import search
from .journal import Journal
from .probe import Angles, Probe
from .ranking import Ranking, Row

__all__ = ["Angles", "Cost", "Gates", "Journal", "Probe", "Ranking", "Row", "cost", "search"]


class _Callable(ModuleType):
    """A module that can be called: `lpt.search(...)` is `lpt.search.search(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Ranking:
        return search(*args, **kwargs)


_Callable.__call__.__doc__ = search.__doc__
sys.modules[__name__].__class__ = _Callable
