"""Code of one's own in a run: told when it changes, found by name, and what docs/own.md shows works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import run_folder, summary, train

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
