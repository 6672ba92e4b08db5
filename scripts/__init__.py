"""What is typed in a clone: `python scripts/NAME.py`; what they do is in `lpt.commands` and the folders it names."""

import lpt.commands  # noqa: F401  (how threads wait: before torch)
