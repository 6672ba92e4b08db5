"""The pages that a reader types along with: every block and every command of theirs runs, in the order of the page.

Trainings are a few steps of a narrow network; of the paper's tables the runs are planned and not started.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, TINY, main, own_conf, search, summary, train

PAGES = {path.stem: path.read_text() for path in [ROOT / "docs/own.md", *sorted(ROOT.glob("docs/tutorials/*.md"))]}
ITEM = re.compile(r"^```(?:python|yaml)\n(.*?)^```|^    (python [^\n]+)", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"# ([\w/]+\.\w+)\n")  # a file's first line
ITEMS = {page: [block or command for block, command in ITEM.findall(text)] for page, text in PAGES.items()}
FILES = {found[1]: item for items in ITEMS.values() for item in items if (found := NAMED.match(item))}
STEPS = "trainer.max_steps=3"


def test_every_page_shows_something_that_runs() -> None:
    assert {page: len(items) for page, items in ITEMS.items()} == {
        "own": 3, "format": 9, "scheme": 6, "model_and_loop": 5, "recipes": 4, "report": 5,
    }  # fmt: skip
    assert len(FILES) == 9
    for page, text in PAGES.items():
        assert set(re.findall(r"^```(\w*)$", text, re.MULTILINE)) <= {"python", "yaml", "text", ""}, page
        assert not re.search(r"\\$", text, re.MULTILINE), f"{page}: a command is one line"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder, with the files of all pages where they belong."""
    own_conf(tmp_path, monkeypatch)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


def trained(words: list[str]) -> int:
    odd = ("model.width=8",) if "model=vit" in words else ("data.train_limit=96",) if "data=rings" in words else ()
    words = [re.sub("seed=0,.*", "seed=0", word) for word in words]
    return main(*words, *(word for word in TINY if word not in odd), STEPS, "paths.outputs=outputs")


def ranked(words: list[str]) -> int:
    few = ("model.width=8", "data.train_limit=64", "trainer.accelerator=cpu", "logger.mode=disabled", "progress=false")
    return search(
        *(word.replace("family8", "fp134") for word in words),
        *few,
        STEPS,
        "batches=2",
        "layers=0",
        "paths.outputs=outputs",
    )


def script(name: str) -> Callable[[list[str]], Any]:
    return runpy.run_path(str(ROOT / "scripts" / name))["main"]


def evaluated(words: list[str]) -> int:
    run = next(path.parent for path in sorted(Path("outputs").glob("*/checkpoints")))
    return script("evaluate.py")([word.replace("outputs/RUN", str(run)) for word in words])


def compared(words: list[str]) -> int:
    return script("compare.py")([word.replace("steps=60", "steps=3") for word in words])


def reproduced(words: list[str]) -> int:
    from lpt.reproductions.command import Asked

    if words == ["report"]:
        return script("reproduce.py")(words)
    assert Asked(words[1:]).runs(Asked(words[1:]).plan(words[0]))  # planned, with the settings of each
    return 0


COMMANDS = {
    "train.py": trained, "scripts/search_formats.py": ranked, "scripts/evaluate.py": evaluated,
    "scripts/compare.py": compared, "scripts/reproduce.py": reproduced,
}  # fmt: skip


@pytest.mark.parametrize("page", ITEMS)
def test_a_page_runs_from_top_to_bottom(page: str, reader: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for item in ITEMS[page]:
        if item.startswith("python "):
            _, program, *words = shlex.split(item)
            assert COMMANDS[program](words) == 0, item
            said = capfd.readouterr()
            expected = "coverage: nothing is rounded" if "format=fp32" in words else "coverage: 100.0 %"
            assert program != "train.py" or expected in said.err, item
        elif not NAMED.match(item):
            exec(item, names)
    assert not any("_target_" in path.name for path in (reader / "outputs").glob("*"))
    if page == "report":
        assert "Validation accuracy" in (reader / "outputs/report/index.html").read_text()


def test_a_family_of_formats_trains_packed(reader: Path) -> None:
    assert train(reader / "out", "format=steps8", STEPS, "memory=packed") == 0
    assert summary(reader / "out")["format"] == "steps8" and summary(reader / "out")["coverage"] == 1
