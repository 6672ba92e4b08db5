"""Code of one's own in a run: told when it changes, and found by name."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, checkpoint, own_conf, run_folder, search, summary, train

from lpt.runs.code import changed, own_code

SCHEME = """
import lpt
from own_helper import SHARE

class Half:
    stochastic = False

    def __init__(self, format):
        self.format = lpt.formats.get(format)

    def __call__(self, master, previous, scale, key):
        return self.format.round(SHARE * master, scale)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported, until the test is over."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_scheme.py").write_text(SCHEME)
    (folder / "own_helper.py").write_text("SHARE = 1.0\nimport numpy, lpt.weights\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def forget() -> None:
    """As if another process began."""
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_own_code_is_what_targets_name_and_what_that_imports(own: Path) -> None:
    config = {"a": [{"_target_": "own_scheme.Half"}], "b": {"_target_": "lpt.DataFlow"}, "c": {"_target_": "no.such"}}
    before = own_code(config)
    assert [entry.split(" ")[0] for entry in before.split(", ")] == ["own_helper", "own_scheme"]
    assert changed(before, before) == []
    (own / "own_helper.py").write_text("SHARE = 0.5\n")
    assert changed(before, own_code(config)) == ["own_helper"]
    assert own_code({"b": {"_target_": "torch.optim.SGD"}}) == ""


def test_an_edited_scheme_makes_no_old_result_a_new_one(
    own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scheme = "+weights.scheme={_target_: own_scheme.Half, format: int4}"
    command = ("weights=custom", "weights.format=null", scheme.removeprefix("+"), "trainer.max_steps=4")
    out = tmp_path / "out"
    assert train(out, *command) == 0
    assert train(out, *command) == 0  # the same code: the same table
    assert "own_scheme " in summary(out)["own_code"]
    (own / "own_scheme.py").write_text(SCHEME.replace("SHARE * master", "SHARE * -master"))
    forget()
    capfd.readouterr()
    assert train(out, *command) == 2
    said = capfd.readouterr()
    assert "own_scheme" in said.err and "variant=WORD" in said.err and "accuracy" not in said.out
    assert train(out, *command, "resume=true") == 0
    said = capfd.readouterr()
    assert "note: your own code" in said.err and "accuracy" in said.out
    first = run_folder(out).name
    assert train(out, *command, "variant=minus") == 0
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 2 and first in names and any("-minus-" in name for name in names)


THIRDS = (
    "value:\n  _target_: lpt.formats.Table\n  name: thirds\n  values: [-1, -0.6667, -0.3333, 0, 0.3333, 0.6667, 1]\n"
)
HALF = "scheme:\n  _target_: own_scheme.Half\n  format: ${weights.format}\nformat: int4\nwidth: null\n"


@pytest.fixture
def conf(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ with a format and a scheme of one's own, which the commands take for conf/."""
    folder = own_conf(tmp_path, monkeypatch)
    (folder / "format" / "thirds.yaml").write_text(THIRDS)
    (folder / "weights" / "half.yaml").write_text(HALF)
    return folder


def test_a_format_and_a_scheme_work_by_name_everywhere(
    conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    few = ("trainer.max_steps=4", "data.train_limit=32")
    assert train(out, "format=thirds", "format.error=fp152", "weights=half", "weights.format=thirds", *few) == 0
    run, found = run_folder(out), summary(out)
    assert run.name.startswith("resnet8-digits-thirds_fp152_thirds-half-seed0-")
    assert (found["format"], found["weights"]) == ("thirds+fp152+thirds", "half")
    saved = (run / "config.yaml").read_text()
    assert "lpt.formats.Table" in saved  # what it was then, whatever the yaml says later
    weights = checkpoint(out)["callbacks"]["Quantization"]["weights"]
    assert "thirds" in str(weights["made"])
    (conf / "format" / "thirds.yaml").write_text(THIRDS.replace("0.6667", "0.5"))
    assert train(out, "format=thirds", "format.error=fp152", "weights=half", "weights.format=thirds", *few) == 0
    assert len(list(out.iterdir())) == 2  # another grid is another run
    capfd.readouterr()
    evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
    assert (
        evaluate([str(run), "format=thirds", "weights=custom", "weights.scheme=nearest", "weights.format=thirds"]) == 0
    )
    assert train(tmp_path / "b", "weights=half", "weights.format=int8", *few, "+weights.scheme.x=1") == 2
    assert "unexpected keyword" in capfd.readouterr().err


def test_a_search_ranks_a_format_of_ones_own(conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    few = ("model.width=8", "data.train_limit=64", "trainer.max_steps=4", "trainer.accelerator=cpu")
    few += ("logger.mode=disabled", "progress=false", "batches=2", "layers=0")
    assert search(f"paths.outputs={out}", *few, "formats=[thirds,fp134]") == 0
    assert "thirds" in capfd.readouterr().out
    assert search(f"paths.outputs={out}", *few, "formats=[thirds,no_such]") == 2
    assert "no_such" in capfd.readouterr().err
