"""Small made-up corpora, for tests of text."""

from __future__ import annotations

import random
from pathlib import Path

# A little grammar: each English word has one German word, and sentences of both run in the same order.
WORDS = {
    "a": "ein", "dog": "hund", "cat": "kater", "man": "mann", "sees": "sieht", "hears": "hoert", "bites": "beisst",
    "small": "kleiner", "old": "alter", "and": "und",
}  # fmt: skip


def sentence(chance: random.Random) -> list[str]:
    """ "a small dog sees a man", or the like."""

    def noun() -> list[str]:
        return ["a", *chance.choices([["small"], ["old"], []])[0], chance.choice(["dog", "cat", "man"])]

    words = [*noun(), chance.choice(["sees", "hears", "bites"]), *noun()]
    return [*words, "and", *noun()] if chance.random() < 0.3 else words


def write_text(folder: Path, lines: int = 60) -> Path:
    """train.txt, valid.txt and test.txt."""
    chance = random.Random(0)
    for name, count in {"train": lines, "valid": 20, "test": 10}.items():
        text = [" ".join(sentence(chance)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def write_pairs(folder: Path, pairs: int = 80) -> Path:
    """train.de, train.en, val.de and val.en."""
    chance = random.Random(0)
    for name, count in {"train": pairs, "val": 12}.items():
        english = [sentence(chance) for _ in range(count)]
        (folder / f"{name}.en").write_text("".join(" ".join(line) + "\n" for line in english))
        german = [[WORDS[word] for word in line] for line in english]
        (folder / f"{name}.de").write_text("".join(" ".join(line) + "\n" for line in german))
    return folder
