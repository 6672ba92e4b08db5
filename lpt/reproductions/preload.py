"""What the runs need, imported once by the process from which they are forked. It starts no thread."""

import timm  # noqa: F401
import torchvision.models  # noqa: F401

import lpt.runs.experiment
import lpt.runs.searching  # noqa: F401
