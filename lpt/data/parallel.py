"""Sentences in two languages: IWSLT'14 as it is published, or any files of one's own, line by line."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import UserError
from .base import first
from .lines import BEGIN, END, PAD, TextFolder, bpe, held_out

Pairing = list[tuple[str, str]]  # source and target, line by line
Tokens = list[int]

IWSLT = (
    "the folder de-en of IWSLT 2014's German-English talks (de-en.tgz of 2014-01, from the home page of WIT3), with "
    "train.tags.de-en.de, train.tags.de-en.en, and IWSLT14.TED.dev2010.de-en.de.xml and the other .xml files"
)
IWSLT_TEST = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
IWSLT_VAL_EVERY = 23  # of the training pairs every 23rd is held out, as is usual since Ranzato et al. 2016


class Pairs:
    """One part of a parallel corpus.

    A batch is (source, target, index): int64 (N, S), (N, T), (N,), filled up with the token `pad` on the right;
    sources end in <eos>, targets begin with <bos> and end in <eos>; `index` says which sentences they are.
    """

    prefetch = 0

    def __init__(self, tokens: Sequence[tuple[Tokens, Tokens]], texts: Sequence[str], pad: int) -> None:
        self.tokens = tokens  # source and target
        self.texts = texts  # the targets, as they were written
        self.pad = pad
        self.lengths = torch.tensor([max(map(len, pair)) for pair in tokens])

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the class says; there is no augmentation."""
        sides = zip(*(self.tokens[i] for i in indices.tolist()), strict=True)
        source, target = (
            pad_sequence([torch.tensor(t) for t in side], batch_first=True, padding_value=self.pad) for side in sides
        )
        return source, target, indices


@dataclass(frozen=True)
class PairData:
    """A corpus for translation, both languages in one vocabulary of subwords.

    Args:
        name: short, as in `data=`.
        tokenizer: text -> tokens and back, a `tokenizers.Tokenizer`.
        train, val: the splits; `test`, if there is one, is looked at once, at the end of a run, and chooses nothing.
        source: one line: what the sentences are.
    """

    name: str
    tokenizer: Any
    train: Pairs
    val: Pairs
    source: str
    test: Pairs | None = None

    unit = "sentence pairs"

    def model_arguments(self) -> dict[str, Any]:
        """What a model must know."""
        return {"vocabulary": self.tokenizer.get_vocab_size(), "pad": self.train.pad}


def parallel(
    name: str = "parallel",
    path: str | None = None,
    source: str = "de",
    target: str = "en",
    train: str = "train",
    val: str = "val",
    test: str | None = None,
    vocabulary_size: int = 8000,
    longest: int = 175,
    train_limit: int | None = None,
    cache: str | None = None,
) -> PairData:
    """A folder of UTF-8 files, plain or packed as .gz or .xz: line i of train.de is translated by line i of train.en.

    Training pairs of which one side is empty, or longer than `longest`, are left out, and their number is told.
    Held-out sentences are all kept; those that are longer are cut for the model, and compared whole.

    Args:
        path: the folder.
        source, target: the languages, which are the files' endings.
        train, val, test: the files' names before the ending; `test` may be None.
        vocabulary_size: of the subwords, trained on both sides of the training part; no text is unknown to them.
        longest: most tokens of a sentence, with <bos> and <eos>.
        train_limit: only the first so many training pairs (the vocabulary is of all).
        cache: see `lpt.data.lines.bpe`.

    Raises:
        UserError: a missing or unreadable file, with what to put where; sides of different lengths; an empty part.
    """
    parts = [part for part in (train, val, test) if part]
    files = ", ".join(f"{part}.{language}" for part in parts for language in (source, target))
    folder = TextFolder(path, f"a folder with {files}: UTF-8 text, one sentence a line")

    def read(part: str) -> Pairing:
        sides = [folder.lines(f"{part}.{language}") for language in (source, target)]
        return _paired(f"{folder.path}/{part}.{{{source},{target}}}", *sides)

    return corpus(
        name, read(train), read(val), read(test) if test else None, f"{source} to {target}", vocabulary_size, longest,
        train_limit, cache,
    )  # fmt: skip


def iwslt14(
    path: str | None = None,
    vocabulary_size: int = 10000,
    longest: int = 175,
    train_limit: int | None = None,
    cache: str | None = None,
) -> PairData:
    """IWSLT'14 German to English, read from the files as published: no lower case, no other tokenizer.

    `val` is every 23rd pair of the training file, `test` the five sets dev2010, dev2012, tst2010, tst2011 and tst2012.

    Args:
        path: the folder de-en.
        vocabulary_size, longest, train_limit, cache: as of `parallel`.

    Raises:
        UserError: as of `parallel`.
    """
    folder = TextFolder(path, IWSLT)
    sides = [_untagged(folder.lines(f"train.tags.de-en.{language}")) for language in ("de", "en")]
    kept, held = held_out(_paired(f"{folder.path}/train.tags.de-en.{{de,en}}", *sides), IWSLT_VAL_EVERY)
    test: Pairing = []
    for part in IWSLT_TEST:
        files = [f"IWSLT14.{part}.de-en.{language}.xml" for language in ("de", "en")]
        test += _paired(f"{folder.path}/{files[0]} and {files[1]}", *(_segments(folder.lines(file)) for file in files))
    return corpus("iwslt14", kept, held, test, "TED talks, de to en", vocabulary_size, longest, train_limit, cache)


def _untagged(lines: list[str]) -> list[str]:
    """The sentences between the lines of metadata; titles and descriptions are sentences, too."""
    found = []
    for line in lines:
        if text := re.fullmatch(r"<(title|description)>(.*)</\1>", line.strip()):
            found.append(text[2].strip())
        elif not line.lstrip().startswith("<"):
            found.append(line.strip())
    return found


def _segments(lines: list[str]) -> list[str]:
    """What stands in <seg id="..."> ... </seg>, one a line."""
    return [html.unescape(m[1].strip()) for line in lines if (m := re.search(r"<seg[^>]*>(.*)</seg>", line))]


def _paired(where: str, sources: list[str], targets: list[str]) -> Pairing:
    if len(sources) != len(targets):
        raise UserError(f"{where}: {len(sources)} lines against {len(targets)}; line i must translate line i")
    if not sources:
        raise UserError(f"{where}: there is no sentence in them")
    return [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]


def corpus(
    name: str, train: Pairing, val: Pairing, test: Pairing | None, what: str, vocabulary_size: int, longest: int,
    train_limit: int | None, cache: str | None,
) -> PairData:  # fmt: skip
    """The data set of these pairs; `what` they are, for its source; the rest as of `parallel`."""
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 3:
        raise UserError(f"data.longest={longest!r}: give at least 3 tokens, two of which are <bos> and <eos>")
    pairs = [pair for pair in train if all(pair)]
    limit = first(len(pairs), train_limit, "pairs")
    tokenizer = bpe([line for pair in pairs for line in pair], vocabulary_size, cache)
    pad, begin, end = (tokenizer.token_to_id(token) for token in (PAD, BEGIN, END))

    def encoded(lines: Pairing, most: int | None = None) -> list[tuple[Tokens, Tokens]]:
        sides = [[line.ids for line in tokenizer.encode_batch(list(side))] for side in zip(*lines, strict=True)]
        return [
            ([*s[: most and most - 1], end], [begin, *t[: most and most - 2], end]) for s, t in zip(*sides, strict=True)
        ]

    chosen = pairs[:limit]
    tokens = encoded(chosen)
    short = [i for i, pair in enumerate(tokens) if max(map(len, pair)) <= longest]
    if not short:
        raise UserError(f"no training pair has both sides, and at most data.longest={longest} tokens")
    gone = len(train) - len(pairs), len(chosen) - len(short)
    note = f"{what}, {tokenizer.get_vocab_size()} subwords of both"
    if any(gone):
        note += f"; left out of training: {gone[0]} pairs with an empty side, {gone[1]} longer than {longest} tokens"
    held = [Pairs(encoded(part, longest), [t for _, t in part], pad) for part in (val, test) if part]
    fit = Pairs([tokens[i] for i in short], [chosen[i][1] for i in short], pad)
    return PairData(name, tokenizer, fit, held[0], note, held[1] if test else None)
