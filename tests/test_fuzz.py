"""Random command lines end in a message or a start: in no traceback, other exit code, or folder made too early."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import fuzzing
import pytest

# Found by longer searches (`python tests/fuzzing.py 600 SEED`), each for its kind.
FOUND: list[list[str]] = [
    ["--resolve"], ["recipe=mxfp8", "logger=0"], ["indicators.flips._target_=[]", "indicators.flips.every=x"],
    ["logger.mode=offline", "logger.project='a/b'"], ["format=1e400"],
    ["model.width=100000"], ["++seed='\x01'"], ["weights.scheme=9999"], ["++weights.room=9999999999999999999999"],
    ["paths=-0.0"], ["trainer.checkpoint_every=null"], ["format.room_error=99999999999"],
]  # fmt: skip


def told(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the command has them
        code, said = fuzzing.tried(words, tmp_path / "o")
    assert not fuzzing.wrong(code, said, tmp_path / "o"), f"{words}\n{said}"
    return said


@pytest.mark.parametrize(
    "words", FOUND, ids=[" ".join(words)[:40].encode("unicode_escape").decode() for words in FOUND]
)
def test_what_was_found_stays_mended(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [word for word in words if word.startswith("--")]
    assert "error: " in told([*flags, *fuzzing.TINY, *(w for w in words if w not in flags)], tmp_path, monkeypatch)


def test_random_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, known = random.Random(7), fuzzing.keys()
    said = [told(fuzzing.command_line(chance, known), tmp_path, monkeypatch) for _ in range(16)]
    assert any(fuzzing.REACHED in text for text in said) and any(fuzzing.REACHED not in text for text in said)
