"""Names of numbers, to be translated into digits: sentence pairs without a download."""

from __future__ import annotations

import random

from ..errors import UserError
from .parallel import PairData, corpus

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_names(
    pairs: int = 20000,
    val_pairs: int = 500,
    largest: int = 999_999,
    seed: int = 0,
    vocabulary_size: int = 300,
    longest: int = 100,
    train_limit: int | None = None,
    cache: str | None = None,
) -> PairData:
    """Numbers in English words to be translated into digits, "forty two" -> "4 2": made, not downloaded.

    Args:
        pairs, val_pairs: how many; no number is in both parts.
        largest: the largest number.
        seed: of the numbers.
        vocabulary_size, longest, train_limit, cache: as of `parallel`.

    Raises:
        UserError: more pairs than there are numbers; values that are not possible.
    """
    if not 0 < largest < 1_000_000:
        raise UserError(f"data.largest={largest}: give 1 to 999999")
    if min(pairs, val_pairs) < 1 or pairs + val_pairs > largest + 1:
        raise UserError(f"data.pairs={pairs} and data.val_pairs={val_pairs}: give from 1 to {largest + 1} together")
    numbers = random.Random(seed).sample(range(largest + 1), pairs + val_pairs)
    made = [(in_words(n), " ".join(str(n))) for n in numbers]
    what = f"English names of numbers up to {largest:,} to digits (made, seed {seed})"
    return corpus("number_names", made[:pairs], made[pairs:], None, what, vocabulary_size, longest, train_limit, cache)


def in_words(number: int) -> str:
    """The English name of a number below a million: 1042 is "one thousand forty two"."""
    thousands, rest = divmod(number, 1000)
    hundreds, last = divmod(rest, 100)
    words = [in_words(thousands), "thousand"] if thousands else []
    words += [ONES[hundreds], "hundred"] if hundreds else []
    if last >= 20:
        words += [TENS[last // 10 - 2], *([ONES[last % 10]] if last % 10 else [])]
    elif last or not words:
        words.append(ONES[last])
    return " ".join(words)
