"""Code of one's own in a run: told when it changes, found by name, and what docs/own.md shows works."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, TINY, checkpoint, main, run_folder, summary, train

from lpt.runs.code import changed, own_code
from lpt.runs.messages import CONF

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


def search(*arguments: str) -> int:
    """`python scripts/search_formats.py ...`, in this process."""
    from lpt.runs.run import main
    from lpt.runs.searching import rank

    before, sys.argv = sys.argv, [str(ROOT / "scripts" / "search_formats.py"), *arguments]
    try:
        return main("search", rank)
    finally:
        sys.argv = before


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
    folder = tmp_path / "conf"
    shutil.copytree(CONF, folder)
    (folder / "format" / "thirds.yaml").write_text(THIRDS)
    (folder / "weights" / "half.yaml").write_text(HALF)
    for module in ("messages", "named", "run", "evaluation", "trust"):
        monkeypatch.setattr(f"lpt.runs.{module}.CONF", folder)
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


OWN = (ROOT / "docs" / "own.md").read_text()
BLOCKS = re.findall(r"```(?:python|yaml)\n(.*?)```", OWN, re.DOTALL)
FILES = {block.splitlines()[0].removeprefix("# "): block for block in BLOCKS if re.match(r"# [\w/]+\.\w+\n", block)}
COMMANDS = [line.split()[2:] for line in OWN.splitlines() if line.startswith("    python train.py")]


@pytest.fixture
def shown(conf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of docs/own.md, its conf/ the one that commands take."""
    for name, text in FILES.items():
        file = conf.parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(conf.parent))
    yield conf.parent
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


def test_what_the_page_shows_is_there() -> None:
    assert len(FILES) == 9 and len(COMMANDS) == 6 and len(BLOCKS) == 11


@pytest.mark.parametrize("number", range(6))
def test_the_pages_commands_run(number: int, shown: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny = [word for word in TINY if number < 4 or word != "model.width=8"]
    if number == 5:
        tiny = [word for word in TINY if "train_limit" not in word]
    assert main(*tiny, f"paths.outputs={tmp_path / 'out'}", "trainer.max_steps=3", *COMMANDS[number]) == 0
    assert "coverage: 100.0 %" in capfd.readouterr().err
    assert "_target_" not in run_folder(tmp_path / "out").name


def test_the_pages_family_of_formats_trains_compiled_and_packed(shown: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "out", "format=steps8", "trainer.max_steps=3", "memory=packed") == 0
    assert summary(tmp_path / "out")["format"] == "steps8" and summary(tmp_path / "out")["coverage"] == 1


def test_the_pages_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        if block not in FILES.values():
            exec(block, names)
