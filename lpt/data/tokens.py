"""Text to tokens and back: words, characters, or subwords."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .lines import END, bpe

END_OF_LINE, UNKNOWN = END, "<unk>"


class Tokens:
    """A vocabulary, and texts in it. Every line ends in the token <eos>, so that an empty line is one token.

    Subclasses write `rows`, `joined` and, where there is such a thing, `unknown`.

    Attributes:
        vocabulary: the tokens; token i is `vocabulary[i]`.
        end: the token that ends a line.
    """

    kind = "tokens"

    def __init__(self, vocabulary: list[str]) -> None:
        self.vocabulary = vocabulary
        self.end = vocabulary.index(END_OF_LINE)

    def rows(self, lines: Sequence[str]) -> list[list[int]]:
        """The tokens of each line, without its end."""
        raise NotImplementedError

    def joined(self, ids: Sequence[int]) -> str:
        """The text of tokens of one line."""
        raise NotImplementedError

    def unknown(self, lines: Iterable[str]) -> list[str]:
        """What of the lines is not in the vocabulary, as often as it occurs."""
        return []

    def of_lines(self, lines: Sequence[str]) -> Tensor:
        """Whole lines as tokens in a row, int64."""
        return torch.tensor([i for row in self.rows(lines) for i in (*row, self.end)], dtype=torch.int64)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, whose last line goes on: no <eos> is put behind it."""
        first, *more = self.rows(text.split("\n"))
        return [*first, *(i for row in more for i in (self.end, *row))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, each <eos> a new line."""
        lines: list[list[int]] = [[]]
        for i in ids:
            if i == self.end:
                lines.append([])
            else:
                lines[-1].append(i)
        return "\n".join(self.joined(line) for line in lines)


class Pieces(Tokens):
    """Words or characters of the training text, in the order in which they occur there, and <unk> for all others.

    Args:
        lines: of the training text.
        split: a line to its pieces.
        between: what stood between the pieces of a line.
        kind: what people call them.
    """

    def __init__(self, lines: Sequence[str], split: Callable[[str], list[str]], between: str, kind: str) -> None:
        self.split, self.between, self.kind = split, between, kind
        found = (piece for line in lines for piece in (*split(line), END_OF_LINE))
        super().__init__(list(dict.fromkeys([*found, END_OF_LINE, UNKNOWN])))
        self.ids = {piece: i for i, piece in enumerate(self.vocabulary)}

    def rows(self, lines: Sequence[str]) -> list[list[int]]:
        unknown = self.ids[UNKNOWN]
        return [[self.ids.get(piece, unknown) for piece in self.split(line)] for line in lines]

    def joined(self, ids: Sequence[int]) -> str:
        return self.between.join(self.vocabulary[i] for i in ids)

    def unknown(self, lines: Iterable[str]) -> list[str]:
        return [piece for line in lines for piece in self.split(line) if piece not in self.ids]


class Subwords(Tokens):
    """Those of a tokenizer as `lpt.data.lines.bpe` makes it: nothing is unknown."""

    kind = "subwords"

    def __init__(self, tokenizer: Any) -> None:
        super().__init__([tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())])
        self.tokenizer = tokenizer

    def rows(self, lines: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self.tokenizer.encode_batch(lines)]

    def joined(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


def words(lines: Sequence[str], size: int, cache: str | None) -> Tokens:
    """What blanks separate."""
    return Pieces(lines, str.split, " ", "words")


def characters(lines: Sequence[str], size: int, cache: str | None) -> Tokens:
    """Each code point, blanks too."""
    return Pieces(lines, list, "", "characters")


def subwords(lines: Sequence[str], size: int, cache: str | None) -> Tokens:
    """`size` of them, trained on the lines and kept in the folder `cache`."""
    return Subwords(bpe(lines, size, cache))


KINDS: dict[str, Callable[[Sequence[str], int, str | None], Tokens]] = {
    "words": words, "bpe": subwords, "characters": characters,
}  # fmt: skip
