"""What every run needs, imported once by the process from which the runs are forked. It starts no thread."""

import lpt.experiment
import lpt.searching  # noqa: F401
