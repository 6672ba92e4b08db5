"""scripts/evaluate.py: a run in its own formats gives its own figures; other formats and mistakes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from running import ROOT, run_folder, summary, train

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    assert train(folder, "trainer.epochs=4", "data.train_limit=400") == 0
    return folder


def figures(text: str) -> dict[str, float]:
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()}


def test_the_runs_own_formats_give_its_own_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(run_folder(folder))]) == 0
    found = figures(capsys.readouterr().out)
    for name in ("val/loss", "val/accuracy"):
        assert found[name] == pytest.approx(summary(folder)[name], rel=1e-4)
    assert evaluate([str(run_folder(folder) / "checkpoints" / "best.ckpt")]) == 0
    assert figures(capsys.readouterr().out)["val/accuracy"] == pytest.approx(
        summary(folder)["best/val/accuracy"], rel=1e-4
    )


@pytest.mark.parametrize(
    "overrides",
    [["format=fp32"], ["format=posit8_1"], ["format.error=fp152"], ["format=custom", "format.value=[1]"],
     ["weights=int8"], ["weights=custom", "weights.scheme=nearest", "weights.format=[2,1]"],
     ["format=int8", "weights=fp32"], ["trainer.eval_batch_size=7"]],
    ids=" ".join,
)  # fmt: skip
def test_other_formats(folder: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(run_folder(folder)), *overrides]) == 0
    found = figures(capsys.readouterr().out)
    assert 0 <= found["val/accuracy"] <= 1
    same = pytest.approx(summary(folder)["val/loss"], rel=1e-4)
    unchanged = overrides[0].startswith(("format.error", "trainer"))  # neither matters to the forward pass
    assert (found["val/loss"] == same) == unchanged


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["/nowhere"], "no checkpoint"), (["RUN", "format=fp99"], "no such choice"), (["RUN", "nonsense=1"], "nonsense"),
     (["RUN", "format.activation=int99"], "int99"), (["RUN", "model.width=8"], "only format=, products=, weights="),
     (["RUN", "weights=custom", "weights.scheme=x", "weights.format=int4"], "unknown weight scheme")],
    ids=["folder", "format", "key", "number", "model", "scheme"],
)  # fmt: skip
def test_mistakes(folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([str(run_folder(folder)) if a == "RUN" else a for a in arguments]) == 2
    assert said in capsys.readouterr().err
