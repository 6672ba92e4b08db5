"""Spearman's correlation between the indicators, measured without training, and the results of training."""

from __future__ import annotations

# From good to useless, of 8 to 3 bits: floats, integers, logarithms, posits, and members of the family between them.
FORMATS = (
    "fp125", "fp134", "fp143", "fp152", "fp161", "int8", "posit8_0", "posit8_1", "posit8_2",
    "[7,5,4x4,3x3,2,1]", "[7,5,11x3,2,1]", "[4x5,3x4,9x3,2,1]",
    "fp124", "fp133", "fp142", "fp151", "int7", "[6,4,4x3,3x2,1]",
    "fp123", "fp132", "fp141", "fp150", "fp160", "int6", "[5,3,4x2,3x1]", "[5,3,11x1]", "[4x3,3x2,9x1]",
    "fp122", "fp131", "fp140", "int5", "fp121", "log4", "int4", "log3", "int3",
)  # fmt: skip
TRAINING = ("model.width=8", "trainer.max_steps=300", "paths.outputs=outputs/correlation")
SEEDS = 5
