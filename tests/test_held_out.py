"""Validation and test: what is held out of training, what chooses the best checkpoint, and what only reports."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, metrics, run_folder, summary, train

from lpt.data.base import held_out
from lpt.data.images import with_val
from lpt.data.npz import npz
from lpt.errors import UserError

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_held_out_are_the_last_of_each_class_in_turn(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(labels) - 1))
    mask = held_out(torch.tensor(labels), count).tolist()
    assert sum(mask) == count
    for label in set(labels):
        own = [out for out, one in zip(mask, labels, strict=True) if one == label]
        assert own == sorted(own)  # the last ones
        others = [sum(out for out, one in zip(mask, labels, strict=True) if one == other) for other in set(labels)]
        assert sum(own) + 1 >= min(max(others), len(own))  # as many as of the other classes, if there are so many


@pytest.mark.parametrize("count", [-1, 4, 2.0, True])
def test_held_out_leaves_something_to_train_on(count: int) -> None:
    with pytest.raises(UserError, match="held_out"):
        held_out(torch.tensor([0, 1, 0, 1]), count)


def test_the_parts_change_their_names_once() -> None:
    part = {name: (torch.arange(6 + i)[:, None], torch.arange(6 + i) % 2) for i, name in enumerate(("train", "test"))}
    assert {name: len(x) for name, (x, _) in with_val(part, 0).items()} == {"train": 6, "val": 7}
    assert {name: len(x) for name, (x, _) in with_val(part, 2).items()} == {"train": 4, "val": 2, "test": 7}
    val = {"train": part["train"], "val": part["test"]}
    assert {name: len(x) for name, (x, _) in with_val(val, 2).items()} == {"train": 4, "val": 2, "test": 7}
    three = with_val({**part, "val": (torch.zeros(1, 1), torch.zeros(1))}, 0)
    assert [len(x) for x, _ in three.values()] == [6, 1, 7]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chance = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for name, count in (("train", 64), ("val", 30), ("test", 50)):
        labels = chance.integers(0, 2, count)
        images = (chance.integers(0, 100, (count, 8, 8)) + 100 * labels[:, None, None]).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder


def test_a_folder_without_val_takes_it_from_train(arrays: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.npz").write_bytes((arrays / f"{name}.npz").read_bytes())
    with pytest.raises(UserError, match=r"val\.npz is missing.*data\.held_out=N"):
        npz(str(tmp_path))
    data = npz(str(tmp_path), held_out=10)
    assert (len(data.train), len(data.val), len(data.test)) == (54, 10, 50) and "held out" in data.source


def test_a_run_looks_at_the_test_part_once(arrays: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ("data=npz", f"data.path={arrays}", "data.train_limit=64", "averaging=ema", "averaging.decay=0.5")
    assert train(tmp_path, *command) == 0
    found = summary(tmp_path)
    assert 0 <= found["test/accuracy"] <= 1 and found["test/loss"] > 0
    assert [bool(row.get("test/accuracy")) for row in metrics(tmp_path)] == [False] * (len(metrics(tmp_path)) - 1) + [
        True
    ]
    assert "test part" in capfd.readouterr().out
    run = str(run_folder(tmp_path))
    assert evaluate([run, "split=test"]) == 0
    said = capfd.readouterr()
    assert "test/accuracy" in said.out and "last.ckpt" in said.err and "evaluations.jsonl" in said.err
    assert evaluate([f"{run}/best", "split=test"]) == 0
    assert "best.ckpt" in capfd.readouterr().err
    assert evaluate([run, "split=tset"]) == 2 and "val, test" in capfd.readouterr().err


def test_the_test_figure_is_that_of_evaluate(arrays: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "data=npz", f"data.path={arrays}", "data.train_limit=64") == 0
    run = run_folder(tmp_path)
    for _ in range(2):
        assert evaluate([str(run), "split=test"]) == 0
    assert evaluate([str(run)]) == 0
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["test", "val"]  # the same question has one answer
    assert rows[0]["test/loss"] == pytest.approx(summary(tmp_path)["test/loss"], rel=1e-5)
    assert rows[1]["val/loss"] == pytest.approx(summary(tmp_path)["val/loss"], rel=1e-5)


def test_no_test_part_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "trainer.max_steps=4") == 0
    assert not [name for name in summary(tmp_path) if name.startswith("test/")]
    run = str(run_folder(tmp_path))
    capfd.readouterr()
    assert evaluate([run, "split=test"]) == 2 and "no part 'test'" in capfd.readouterr().err
    assert evaluate([run, "format=fp32", "weights=fp32"]) == 0
    said = capfd.readouterr()
    assert "statistics=anew" in said.err
    before = float(said.out.split()[1])
    assert evaluate([run, "format=fp32", "weights=fp32", "statistics=anew"]) == 0
    said = capfd.readouterr()
    assert "note:" not in said.err and float(said.out.split()[1]) != before
