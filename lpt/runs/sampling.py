"""What `scripts/evaluate.py` is asked to have a language model write."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..tasks.task import Task


@dataclass(frozen=True)
class Wish:
    """A text to be written: `sample` tokens, drawn at `temperature` with `seed`, that follow `prompt`."""

    sample: int
    temperature: float = 1.0
    seed: int = 0
    prompt: str = ""

    @classmethod
    def among(cls, arguments: list[str]) -> tuple[Wish | None, list[str]]:
        """The wish that is among a command's arguments, if there is one, and the other arguments.

        Raises:
            UserError: a value that is not possible, or the rest of a wish without `sample=`.
        """
        given = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in _READ}
        others = [a for a in arguments if a.partition("=")[0] not in _READ]
        read = {key: _value(key, value) for key, value in given.items()}
        if read and "sample" not in read:
            raise UserError(f"{next(iter(read))}= says how a text is written: add sample=N, its number of tokens")
        return (cls(**read) if read else None), others

    def of(self, task: Task) -> str:
        """The text that the task's model writes.

        Raises:
            UserError: it cannot go on from a prompt; or as of the task's `sample`.
        """
        write = getattr(task, "sample", None)
        if write is None:
            raise UserError(f"sample={self.sample}: {type(task).__name__} goes on from no prompt, task=language does")
        return str(write(self.sample, self.temperature, self.seed, self.prompt))


def _whole(text: str, least: int) -> int:
    value = int(text)
    if not least <= value < 2**63:
        raise ValueError
    return value


def _temperature(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "sample": (lambda text: _whole(text, 1), "a number of tokens from 1 upward"),
    "temperature": (_temperature, "a number from 0 (the likeliest token each time) upward"),
    "seed": (lambda text: _whole(text, 0), "a whole number from 0 upward"),
    "prompt": (str, "a text"),
}


def _value(key: str, text: str) -> Any:
    read, valid = _READ[key]
    try:
        return read(text)
    except ValueError as error:
        raise UserError(f"{key}={text}: give {valid}") from error
