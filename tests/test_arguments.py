"""A mistake in the configuration is told by the key that was typed, whatever the constructor says or does not say."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from running import ROOT, train

from lpt.errors import UserError
from lpt.runs.arguments import fits
from lpt.runs.build import build, maker

KINDS: dict[Any, Any] = {  # annotation -> whether a yaml's value is of it, spelled out
    int: lambda v: type(v) is int,
    float: lambda v: type(v) is int or (type(v) is float and abs(v) < float("inf")),
    bool: lambda v: type(v) is bool,
    str: lambda v: type(v) is str,
    Path: lambda v: type(v) is str,
    os.PathLike: lambda v: type(v) is str,
    torch.Tensor: lambda v: type(v) is dict,
    Literal["a", 1]: lambda v: (type(v) is str and v == "a") or (type(v) is int and v == 1),
    Any: lambda v: True,
    object: lambda v: True,
    list: lambda v: type(v) is list,
    Sequence[int]: lambda v: type(v) is list and all(type(x) is int for x in v),
    tuple[float, ...]: lambda v: type(v) is list and all(type(x) in (int, float) and abs(x) < float("inf") for x in v),
    tuple[int, str]: lambda v: type(v) is list and [type(x) for x in v] == [int, str],
    dict: lambda v: type(v) is dict,
}
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.sampled_from(["a", ""]))
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.just({"x": 1}))


@example(kinds=[Literal["a", 1]], value={"x": 1})
@given(kinds=st.lists(st.sampled_from([*KINDS, None]), min_size=1, max_size=3), value=VALUES)
def test_what_fits_an_annotation(kinds: list[Any], value: Any) -> None:
    whole: Any = kinds[0]
    for kind in kinds[1:]:
        whole = whole | kind if not (whole is kind is None) else None
    wanted = any(value is None if kind is None else KINDS[kind](value) for kind in kinds)
    if isinstance(value, dict):  # what no yaml spells by itself may be anything but one of a few words
        wanted = {*kinds} != {Literal["a", 1]}
    assert fits(value, type(None) if whole is None else whole) == wanted


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "trainer", "averaging", "remedy"])
def test_every_number_of_every_choice_is_told_by_its_key(group: str) -> None:
    given: dict[str, Any] = {"optimizer": [[torch.nn.Parameter(torch.zeros(1))]], "scheduler": [100]}
    count = 0
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        plain = yaml.safe_load(path.read_text())
        plain = {key: value for key, value in plain.items() if not str(value).startswith("$")}
        for key in [key for key, value in plain.items() if isinstance(value, int | float) and plain.get("_target_")]:
            for wrong in ("no number", [[]]):
                made = maker(group, OmegaConf.create({**plain, key: wrong}))
                with pytest.raises(UserError, match=rf"^{group}\.{key}=.*give"):
                    made(*given.get(group, []))
                count += 1
    assert count


def node(target: Any, **values: Any) -> Any:
    return OmegaConf.create({"_target_": f"{target.__module__}.{target.__qualname__}", **values})


def refusing(count: int = 300, val: int = 100, words: Sequence[str] = (), seed: int = 0, rate=0.5) -> None:  # type: ignore[no-untyped-def]
    if seed == 1:
        raise IndexError("of our own")
    if rate == "slow":
        raise RuntimeError("no rate")
    if val >= count:
        raise ValueError(f"cannot hold out {val} of {count}")
    if rate > 1:
        raise UserError(f"rate={rate} is more than count={count} allows")
    if "x" in words:
        raise ValueError("a word of words is wrong")
    if len(words) > 2:
        raise OSError("too many")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"val": 1000}, "own.val=1000: cannot hold out 1000 of 300 (its default is 100)"),
        ({"rate": 2.5, "count": 200}, "own.rate=2.5 is more than own.count=200 allows"),
        ({"words": ["x"]}, "own.words=['x']: a word of words is wrong (its default is ())"),
        ({"words": ["a", "b", "c"]}, "own: too many"),
        ({"words": "abc"}, "own.words='abc': give a list, each text"),
        ({"count": 1.5}, "own.count=1.5: give a whole number"),
        ({"count": 10**6, "val": True}, "own.val=true: give a whole number"),
        ({"size": 3}, "own.size: refusing takes no such argument; it takes count, val, words, rate"),
    ],
)
def test_what_a_constructor_refuses(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        build("own", node(refusing, **values), seed=0)


def test_failures_of_ours_stay_what_they_are() -> None:
    with pytest.raises(IndexError):
        build("own", node(refusing), seed=1)
    with pytest.raises(RuntimeError):
        build("own", node(refusing, rate="slow"))
    with pytest.raises(UserError, match=r"^own\.count='x': give a whole number$"):
        build("own", node(refusing, seed=1, count="x"))  # which may well be why


def test_a_key_that_refers_to_another_is_told_by_that() -> None:
    whole = OmegaConf.create({"rate": 7.5, "own": {**node(refusing), "rate": "${rate}"}})
    with pytest.raises(UserError, match=r"^rate=7\.5 is more"):
        build("own", whole.own)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=-1"], "optimizer.lr=-1: Invalid learning rate: -1 (its default is 0.001)"),
        (["optimizer=adamw", "optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: give a list of 2"),
        (["trainer.batch_size=0"], "trainer.batch_size=0: give a whole number from 1 upward"),
        (["trainer.deterministic=maybe"], "trainer.deterministic='maybe': give true or false"),
        (["precision=16"], "precision=16: give 32"),
        (["model.depth=9"], "model.depth=9 of a ResNet"),
        (["data.crop_padding=-1"], "data.crop_padding=-1 is negative"),
        (["weights.seed=abc"], "weights.seed='abc': give a whole number"),
        (["weights.scheme=foo"], "weights.scheme='foo': unknown weight scheme 'foo'"),
        (["format.activation=foo"], "format.activation='foo': unknown format 'foo'"),
        (["format=fp143", "format.value=foo"], "format.value='foo': unknown format 'foo'"),
        (["data=npz", "data.train_limit=null"], "data.path is missing"),
    ],
)
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert train(tmp_path, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")
