"""Running text for language models: Penn Treebank, WikiText-2, or any three files of one's own."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .base import first
from .lines import TextFolder, held_out
from .tokens import KINDS, UNKNOWN, Tokens

HELD_OUT_EVERY = 10  # paragraphs, in pydoc
# What a user must put where.
_LAYOUTS = {
    "ptb": "the folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt: Mikolov's Penn Treebank, in simple-examples/"
    "data of simple-examples.tgz (from the home page of his RNNLM toolkit)",
    "wikitext2": "the folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens: the word-level WikiText-2 "
    "(wikitext-2-v1.zip, from Salesforce Research; CC BY-SA)",
}


class Text:
    """One part of a corpus: its tokens in a row, int64 (L,)."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def columns(self, count: int, steps: int) -> Columns:
        """The text cut into `count` columns that are read side by side, `steps` tokens at a time.

        Raises:
            UserError: fewer than two tokens a column.
        """
        if len(self.tokens) < 2 * count:
            raise UserError(
                f"a text of {len(self.tokens)} tokens is too short for {count} columns: lower what is {count} of "
                "trainer.batch_size, trainer.eval_batch_size and indicators.angles.batch_size"
            )
        length = len(self.tokens) // count
        return Columns(self.tokens[: length * count].view(count, length), steps)

    def windows(self, steps: int) -> Windows:
        """The text cut into pieces of `steps` tokens, each an example of its own.

        Raises:
            UserError: a text too short for one.
        """
        if len(self.tokens) <= steps:
            raise UserError(f"a text of {len(self.tokens)} tokens is too short for task.bptt={steps}: lower it")
        return Windows(self.tokens, steps)


class Columns:
    """A split of (tokens, the tokens that follow them), both int64 (N, T): one example is one column's next stretch.

    Example e is stretch e // columns of column e % columns, so that batches of as many examples as there are columns
    read on where the one before stopped. The last stretch may be shorter; the few tokens beyond the last whole row
    are left out.
    """

    prefetch = 0

    def __init__(self, tokens: Tensor, steps: int) -> None:
        self.tokens = tokens
        self.steps = steps

    def __len__(self) -> int:
        count, length = self.tokens.shape
        return count * math.ceil((length - 1) / self.steps)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """`indices` must be of one stretch."""
        count = len(self.tokens)
        start = int(indices[0]) // count * self.steps
        rows = self.tokens[indices % count, start : start + self.steps + 1]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class Windows:
    """A split of (tokens, the tokens that follow them), both int64 (N, T), for models that remember nothing.

    Example e begins at token e * steps; for training, up to steps - 1 tokens later, each time by chance. The text's
    last tokens, too few for an example, are left out, but for training.
    """

    prefetch = 0

    def __init__(self, tokens: Tensor, steps: int) -> None:
        self.tokens = tokens
        self.steps = steps

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.steps

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """With a generator, for training."""
        starts = indices * self.steps
        if generator is not None:
            later = torch.randint(self.steps, starts.shape, generator=generator)
            starts = (starts + later).clamp(max=len(self.tokens) - 1 - self.steps)
        rows = self.tokens[starts[:, None] + torch.arange(self.steps + 1)]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@dataclass(frozen=True)
class TextData:
    """A corpus for language modelling.

    Args:
        name: short, as in `data=`.
        tokens: the vocabulary, which turns text into tokens and back.
        train, val: the splits; `test`, if there is one, is looked at once, at the end of a run, and chooses nothing.
        source: one line: what the text is.
    """

    name: str
    tokens: Tokens
    train: Text
    val: Text
    source: str
    test: Text | None = None

    unit = "tokens"

    @property
    def vocabulary(self) -> Sequence[str]:
        """Token i of the splits is `vocabulary[i]`."""
        return self.tokens.vocabulary

    def model_arguments(self) -> dict[str, Any]:
        """What a model must know."""
        return {"vocabulary": len(self.vocabulary)}

    def unigram_perplexity(self) -> float:
        """Of `val`, if each token has its share of `train` (one more counted for each): what any model should beat."""
        counts = torch.bincount(self.train.tokens, minlength=len(self.vocabulary)).double() + 1
        return math.exp(-(counts / counts.sum()).log()[self.val.tokens].mean().item())


def text(
    name: str = "text",
    path: str | None = None,
    train: str = "train.txt",
    val: str = "valid.txt",
    test: str | None = "test.txt",
    tokens: str = "words",
    vocabulary_size: int = 8000,
    train_limit: int | None = None,
    cache: str | None = None,
) -> TextData:
    """A corpus of three UTF-8 files, plain or packed as .xz or .gz.

    Each line ends in the token <eos>, so that an empty line is one token. With `tokens="words"`, words are what blanks
    separate, the vocabulary is that of the training text in the order in which it occurs, and other words of the
    held-out texts become <unk>; `tokens="characters"` does the same with characters, blanks among them. With
    `tokens="bpe"`, nothing is unknown. Perplexities of different tokens do not compare.

    Args:
        name: ptb and wikitext2 tell what to download.
        path: the folder.
        train, val, test: files in it; `test` may be None.
        tokens: words, characters or bpe (subwords, the vocabulary trained on the training text).
        vocabulary_size: of bpe.
        train_limit: only the first so many training tokens (the vocabulary is of the whole text).
        cache: see `lpt.data.lines.bpe`.

    Raises:
        UserError: a missing or unreadable file, with what to put where; an empty text; a value that is not possible.
    """
    layout = _LAYOUTS.get(name, f"a folder with {', '.join(part for part in (train, val, test) if part)}: UTF-8 text")
    folder = TextFolder(path, layout)
    _check_tokens(tokens)
    parts = {part: folder.lines(file) for part, file in (("train", train), ("val", val)) if file}
    if test is not None:
        parts["test"] = folder.lines(test)
    return _corpus(name, parts, str(folder.path), tokens, vocabulary_size, train_limit, cache)


def pydoc(
    tokens: str = "bpe", vocabulary_size: int = 1000, train_limit: int | None = None, cache: str | None = None
) -> TextData:
    """Python's own help texts on its language, as `help("FLOAT")` prints them: real prose, nothing to download.

    They are those of the Python that runs, so results compare within one version of it, which `source` names. Every
    tenth paragraph is held out.

    Args:
        tokens, vocabulary_size, train_limit, cache: as of `text`.

    Raises:
        UserError: a value that is not possible; a Python without its help texts.
    """
    _check_tokens(tokens)
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("this Python came without its help texts (pydoc_data); choose another data=") from error
    paragraphs = [p for _, topic in sorted(topics.items()) for p in topic.split("\n\n") if p.strip()]
    paragraphs = list(dict.fromkeys(" ".join(p.split()) for p in paragraphs))
    parts = dict(zip(("train", "val"), held_out(paragraphs, HELD_OUT_EVERY), strict=True))
    where = f"Python {platform.python_version()}'s help"
    return _corpus("pydoc", parts, where, tokens, vocabulary_size, train_limit, cache)


def _check_tokens(tokens: str) -> None:
    if tokens not in KINDS:
        raise UserError(f"data.tokens={tokens!r} is not one of {', '.join(KINDS)}")


def _corpus(
    name: str, parts: dict[str, list[str]], where: str, tokens: str, vocabulary_size: int, train_limit: int | None,
    cache: str | None,
) -> TextData:  # fmt: skip
    made = KINDS[tokens](parts["train"], vocabulary_size, cache)
    encoded = {part: made.of_lines(lines) for part, lines in parts.items()}
    for part, ids in encoded.items():
        if len(ids) < 2:
            raise UserError(f"the {part} text in {where} has {len(ids)} tokens: it needs at least two")
    limit = first(len(encoded["train"]), train_limit, "tokens", least=2)
    splits = {part: Text(ids[:limit] if part == "train" else ids) for part, ids in encoded.items()}
    note = f"{len(made.vocabulary)} {made.kind} of the training text"
    if strange := len(made.unknown(parts["val"])):
        note += f"; {strange} tokens of val became {UNKNOWN}"
    note = f"{where}, {note}" if name == "pydoc" else note
    return TextData(name, made, splits["train"], splits["val"], note, splits.get("test"))
