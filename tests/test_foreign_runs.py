"""Folders of runs that somebody made to do harm: files that grow, never end, or are not what they should be; links."""

from __future__ import annotations

import json
import math
import shutil
import types
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from running import run_folder, train

from lpt.callbacks.sealing import Damaged, opened
from lpt.errors import UserError
from lpt.report.grouping import settings_of
from lpt.report.runs import read as read_run
from lpt.report.stored import json_of, rows_of, yaml_of
from lpt.runs import comparing
from lpt.runs.evaluation import stored
from lpt.runs.files import replace
from lpt.runs.folder import RunFolder
from lpt.runs.run import compare_code
from lpt.runs.summary import table

DEEP = "[" * 100_000
GROWING = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijkl"))


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, "a" * 10 + ": " + DEEP, GROWING, "- " * 5000, "? " * 5000])
def test_text_that_grows_or_never_ends_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|aliases|no YAML"):
        yaml_of(text)
    with pytest.raises(ValueError):
        json_of(text)


def test_a_field_without_end_is_refused() -> None:
    rows = rows_of('step\n1\n"' + "x" * 200_000)
    assert next(rows) == {"step": "1"}
    with pytest.raises(ValueError, match="no CSV"):
        list(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert train(out, "model.width=4", "data.train_limit=32", "trainer.epochs=1", "indicators=none") == 0
    return run_folder(out)


ODD: list[tuple[str, str]] = [
    *[("summary.json", text) for text in (DEEP, "[]", "NaN", '{"seed": 1e999}')],
    *[("metrics.csv", text) for text in ('"', 'step\n"' + "x" * 200_000, "a,b\n1,2,3\n", "\0")],
    *[("config.yaml", text) for text in (GROWING, DEEP, "- 1", "? [a]\n: b", "init_from: [1]")],
    ("config.yaml", f"init_from: {'x' * 5000}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), ODD, ids=lambda text: text[:12].encode("unicode_escape").decode())
def test_odd_files_of_a_run_end_in_a_line(name: str, text: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / name).write_text(text)
    for command in (comparing.listed, comparing.compared, grouping_of):
        try:
            command([str(folder)])
        except UserError as error:
            assert "\n" not in str(error)
    if name != "config.yaml":
        return
    try:
        overrides = stored(folder / "checkpoints" / "last.ckpt", {})
    except UserError as error:
        assert "config.yaml" in str(error)
    else:
        assert "model" in overrides


@pytest.mark.parametrize("key", ["seed", "steps", "wall_seconds", "val/accuracy", "model", "data_hash", "own_code"])
def test_odd_entries_of_a_summary_are_shown_or_told(
    key: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = types.SimpleNamespace(own_code="", leads=False, folder=RunFolder(tmp_path), resume=True)
    for number, value in enumerate([None, "x\x1b[2J", [], {}, math.inf, math.nan, True, -1, "9" * 5000]):
        folder = tmp_path / str(number)
        shutil.copytree(run, folder)
        entries = json.loads((run / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**entries, key: value}))
        assert "1 runs" in comparing.listed([str(folder)])
        assert table(read_run(folder).summary, folder)
        compare_code(read_run(folder).summary, experiment)
    assert "\x1b" not in capfd.readouterr().out


def grouping_of(words: list[str]) -> None:
    settings_of(read_run(Path(words[0])))


def test_runs_that_start_from_each_other_are_no_circle(run: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, other in ((one, two), (two, one)):
        shutil.copytree(run, folder)
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("init_from: null", f"init_from: {other}"))
    assert any(key.startswith("init_from.init_from") for key in settings_of(read_run(one)))


def test_a_checkpoint_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(10**6)}, plain := tmp_path / "plain.pt")
    assert opened(plain)[0]["weight"].shape == (10**6,)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    assert packed.stat().st_size < 10**4
    with pytest.raises(Damaged, match="would unpack to more"):
        opened(packed)


@pytest.mark.parametrize("name", ["metrics.csv", "curves.png", "checkpoints/writing.tmp", "summary.json.tmp", ".lock"])
def test_links_lead_no_writing_elsewhere(
    name: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    shutil.copytree(run, tmp_path / "o" / run.name)
    link = tmp_path / "o" / run.name / name
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    with pytest.raises(UserError, match=r"is a link to .*victim"):
        RunFolder(tmp_path / "o" / run.name).open(resume=True)
    replace(tmp_path / "o" / run.name / name.removesuffix(".tmp"), "new")
    assert victim.read_text() == "mine"
