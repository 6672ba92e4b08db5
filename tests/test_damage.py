"""What a hostile disk does to a run's folder is noticed: nothing is continued or evaluated as if it were whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from running import ROOT, TINY, checkpoint, differences, metrics, run_folder, summary, train
from spies import Stop
from torch import nn

from lpt.callbacks.sealing import Damaged, opened, seal
from lpt.errors import UserError
from lpt.runs import saved
from lpt.runs.build import build
from lpt.runs.evaluation import Asked, prepared
from lpt.runs.folder import RunFolder
from lpt.runs.parts import make_task
from lpt.runs.recovery import Recovery
from lpt.tasks.task import Task

TINIEST = (
    "model.width=4", "trainer.checkpoint_every=3", "trainer.batch_size=24", "data.train_limit=96", "trainer.epochs=3",
    "+indicators.spy._target_=spies.Stop",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed on its way, with best, previous and last; one of another seed; and one that ended."""
    folder = tmp_path_factory.mktemp("runs")
    for name, at, more in (("cut", 11, ()), ("other", 11, ("seed=1",)), ("whole", -1, ())):
        Stop.at = at
        assert train(folder / name, *TINIEST, *more) == (0 if name == "whole" else 75)
    Stop.at = -1
    return folder


def parts(run: Path) -> Path:
    return run / "checkpoints"


def flipped(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def unsealed(path: Path) -> None:
    """As an older version wrote it."""
    state = torch.load(path, weights_only=True)
    del state["lpt"]
    torch.save(state, path)


def exchanged(name: str, by: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = parts(run) / name
        path.unlink()
        by(path)

    return damage


# -- the checksum ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "a.ckpt"
    state = nn.Linear(40, 40).state_dict()
    torch.save({"state_dict": state, "lpt": {"run": "a"}, "pytorch-lightning_version": "2"}, path)
    seal(path)
    return path


def damaged(content: bytes, kind: str, at: float, size: int) -> bytes:
    start = int(at * len(content))
    block = content[start : start + size]
    put = {
        "flip": bytes([block[0] ^ (1 << size % 8)]) + block[1:] if block else b"",
        "zeros": bytes(len(block)), "ones": b"\xff" * len(block), "cut out": b"", "twice": block * 2,
    }  # fmt: skip
    return content[:start] if kind == "end" else content[:start] + put[kind] + content[start + size :]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["flip", "zeros", "ones", "cut out", "twice", "end"]), st.floats(0, 1), st.integers(1, 5000))
@example("flip", 1, 3)
@example("zeros", 0.9, 90)
@example("end", 0, 1)
def test_no_damage_goes_unseen(file: Path, kind: str, at: float, size: int) -> None:
    content = file.read_bytes()
    now = damaged(content, kind, at, size)
    if now == content:
        return
    other = file.with_name("b.ckpt")
    other.write_bytes(now)
    with pytest.raises(Damaged):
        opened(other)


def test_every_byte_of_a_file_counts(file: Path) -> None:
    content = file.read_bytes()
    other = file.with_name("c.ckpt")
    ends = [*range(700), *range(len(content) - 1200, len(content))]  # pickle, directory, end, checksum
    for at in [*ends[::7], *range(len(content) - 90, len(content))]:
        other.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Damaged):
            opened(other)
    assert differences(*(opened(path)[0] for path in (file, file))) == []


def test_a_file_without_a_checksum_is_believed_if_its_parts_are(file: Path, tmp_path: Path) -> None:
    old, weights = tmp_path / "old.ckpt", torch.linspace(1, 2, 4000)
    torch.save({"state_dict": {"w": weights}, "pytorch-lightning_version": "2"}, old)
    assert torch.equal(opened(old)[0]["state_dict"]["w"], weights) and not opened(old)[1]
    flipped(old)
    with pytest.raises(Damaged, match="not what was written"):
        opened(old)


# -- a run that is continued -----------------------------------------------------------------------------------------

Started = tuple[Task, DictConfig]


@pytest.fixture(scope="module")
def started() -> Started:
    """What a continued run has before it looks at its folder."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*TINY, *TINIEST])
    task = make_task(cfg, build("trainer", cfg.trainer))
    task.total_steps = 12
    return task, cfg


def looked(
    runs: Path, to: Path, damage: Callable[[Path], Any], started: Started, capfd: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """Damage a copy of the run that was cut and look at it: the checkpoint to go on from, and what was said."""
    capfd.readouterr()
    shutil.copytree(runs / "cut", to, dirs_exist_ok=True)
    folder = RunFolder(next(to.iterdir()))
    damage(folder.path)
    recovery = Recovery(folder, *started, leads=True)
    try:
        assert not recovery.look(folder.open(resume=True))
    finally:
        folder.close()
    said = capfd.readouterr().err
    assert all(text in said for text in recovery.said)
    return recovery.start.name if recovery.start else "", said


def both(run: Path) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        flipped(parts(run) / name)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "nothing": (lambda run: None, "last.ckpt", ""),
    "a bit": (lambda run: flipped(parts(run) / "last.ckpt"), "previous.ckpt", "its checksum is not"),
    "empty": (exchanged("last.ckpt", lambda path: path.touch()), "previous.ckpt", "it is empty"),
    "gone": (lambda run: (parts(run) / "last.ckpt").unlink(), "previous.ckpt", "of step 8, takes the place of last"),
    "a folder": (exchanged("last.ckpt", Path.mkdir), "previous.ckpt", "a folder is in its place"),
    "a link": (exchanged("last.ckpt", lambda path: path.symlink_to("no")), "previous.ckpt", "a dangling link is"),
    "a pipe": (exchanged("last.ckpt", os.mkfifo), "previous.ckpt", "it is no regular file"),
    "text": (exchanged("last.ckpt", lambda path: path.write_text("PK\x03\x04")), "previous.ckpt", "cannot read it"),
    "other tensors": (exchanged("last.ckpt", lambda path: torch.save([1], path)), "previous.ckpt", "no checkpoint"),
    "an old one": (lambda run: unsealed(parts(run) / "last.ckpt"), "last.ckpt", "has no checksum"),
    "both": (both, "best.ckpt", "best.ckpt, of step 8, takes the place"),
    "the best": (lambda run: flipped(parts(run) / "best.ckpt"), "last.ckpt", "will be the best from here on"),
    "a worse best": (exchanged("best.ckpt", Path.mkdir), "last.ckpt", "a folder is in its place"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_one_that_is_whole(
    kind: str, runs: Path, tmp_path: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, start, words = DAMAGES[kind]
    found, said = looked(runs, tmp_path, damage, started, capfd)
    assert found == start and words in said and bool(said) == (kind != "nothing")
    opened(parts(next(tmp_path.iterdir())) / start)


@pytest.mark.parametrize("kind", ["a bit", "both"])
def test_what_is_continued_then_ends_as_if_nothing_had_been(
    kind: str, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "cut", tmp_path, dirs_exist_ok=True)
    DAMAGES[kind][0](run_folder(tmp_path))
    assert train(tmp_path, *TINIEST, "resume=true") == 0
    said = capfd.readouterr().err
    assert f"continuing from {DAMAGES[kind][1]}" in said and "Traceback" not in said
    assert differences(checkpoint(runs / "whole"), checkpoint(tmp_path)) == []
    assert differences(metrics(runs / "whole"), metrics(tmp_path)) == []
    assert {path.name for path in parts(run_folder(tmp_path)).glob("*.ckpt")} == {"last.ckpt", "best.ckpt"}
    assert "last.damaged" in summary(tmp_path)["mended"]


def test_no_checkpoint_that_is_whole_is_one_error(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "cut", tmp_path, dirs_exist_ok=True)
    run = run_folder(tmp_path)
    theirs = run_folder(runs / "other")
    shutil.copyfile(parts(theirs) / "last.ckpt", parts(run) / "last.ckpt")  # whole, and another run's
    flipped(parts(run) / "previous.ckpt", 0.01)
    flipped(parts(run) / "best.ckpt", 0.99)
    for _ in range(2):  # nor does it start afresh by itself the second time
        assert train(tmp_path, *TINIEST, "resume=true") == 2
        assert "start afresh" in (said := capfd.readouterr().err) and "Traceback" not in said
    assert "is another run" not in said


@pytest.mark.parametrize("name", ["checkpoints/writing.tmp", "metrics.csv", "summary.json.tmp", ".lock", "checkpoints"])
def test_what_stands_in_the_place_of_a_file_is_told(
    name: str, runs: Path, tmp_path: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    def put(run: Path) -> None:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
        (run / name).touch() if name == "checkpoints" else (run / name).mkdir()

    with pytest.raises(UserError, match=f"{name}.*move it away"):
        looked(runs, tmp_path, put, started, capfd)


# -- the small files -------------------------------------------------------------------------------------------------


def rewritten(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return damage


def nothing_of(run: Path) -> None:
    shutil.rmtree(parts(run))


SMALL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no summary": (lambda run: (run / "summary.json").unlink(), "summary.json was gone"),
    "an odd status": (rewritten("summary.json", '"stopped"', "7"), "has the status 7"),
    "no JSON": (lambda run: (run / "summary.json").write_bytes(b"\x00{"), "summary.json was damaged"),
    "said to be finished": (rewritten("summary.json", "stopped", "finished"), "11 of 12 steps are all"),
    "no config": (lambda run: (run / "config.yaml").unlink(), "config.yaml was gone: it is written again"),
    "an edited config": (rewritten("config.yaml", "width: 4", "width: 40"), "config.yaml was edited"),
    "no yaml": (lambda run: (run / "config.yaml").write_bytes(b"\xff: ["), "config.yaml was edited or damaged"),
    "edited metrics": (rewritten("metrics.csv", "\n2,", "\n3,"), "cut or edited: its rows up to step 9 are not"),
    "cut metrics": (lambda run: (run / "metrics.csv").write_text("step,epoch\n"), "metrics.csv was cut"),
    "no metrics": (lambda run: (run / "metrics.csv").unlink(), "metrics.csv was gone"),
    "garbage": (lambda run: (run / "metrics.csv").write_bytes(b"\x00\xff,\n\"\n1,2,3\n"), "metrics.csv was cut"),
    "no checkpoints": (nothing_of, "there is no checkpoint, though metrics.csv reaches step 10: from the start"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_wrong_with_small_files_is_said(
    kind: str, runs: Path, tmp_path: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, words = SMALL[kind]
    found, said = looked(runs, tmp_path, damage, started, capfd)
    assert words in said and found == ("" if kind == "no checkpoints" else "last.ckpt")
    assert "width: 4\n" in (next(tmp_path.iterdir()) / "config.yaml").read_text()


def test_all_of_it_at_once_is_mended(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "cut", tmp_path / "a")
    run = run_folder(tmp_path / "a")
    for name in ("summary.json", "config.yaml", "metrics.csv"):
        (run / name).write_bytes(b"\xff\x00{garbage,\n")
    assert train(tmp_path / "a", *TINIEST) == 2
    assert "its summary.json is damaged or gone" in capfd.readouterr().err
    assert train(tmp_path / "a", *TINIEST, "resume=true") == 0
    assert "Traceback" not in capfd.readouterr().err
    assert differences(checkpoint(runs / "whole"), checkpoint(tmp_path / "a")) == []
    whole, own = summary(runs / "whole"), summary(tmp_path / "a")
    assert own["status"] == "finished" and own["val/loss"] == whole["val/loss"]
    assert all(f"{name} was" in own["mended"] for name in ("summary.json", "config.yaml", "metrics.csv"))
    assert "width: 4\n" in (run / "config.yaml").read_text()


def test_a_run_without_summary_is_not_begun_afresh(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "cut", tmp_path / "a")
    (run_folder(tmp_path / "a") / "summary.json").unlink()
    assert train(tmp_path / "a", *TINIEST) == 2
    assert "already holds this very run" in capfd.readouterr().err


def test_a_finished_run_that_was_edited_is_mended(
    runs: Path, tmp_path: Path, started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    def again(name: str, *damages: Callable[[Path], Any]) -> tuple[dict[str, Any], str]:
        shutil.copytree(runs / "whole", tmp_path / name)
        folder = RunFolder(run_folder(tmp_path / name))
        for damage in damages:
            damage(folder.path)
        recovery = Recovery(folder, *started, leads=True)
        recovery.look(folder.open(resume=True))
        folder.close()
        return summary(tmp_path / name), "\n".join(recovery.said)

    before = summary(runs / "whole")
    assert again("a") == (before, "")
    edit = rewritten("summary.json", f'"val/loss": {before["val/loss"]}', '"val/loss": 0.001')
    found, said = again("b", edit)
    assert found == before and "summary.json was edited (val/loss)" in said
    found, said = again("c", lambda run: (run / "metrics.csv").unlink())
    assert found == before and "metrics.csv is not what the run left" in said
    shutil.copytree(runs / "whole", tmp_path / "d")
    (run_folder(tmp_path / "d") / "summary.json").unlink()
    assert train(tmp_path / "d", *TINIEST, "resume=true") == 0
    found = summary(tmp_path / "d")
    assert found["status"] == "finished" and found["best/val/accuracy"] == before["best/val/accuracy"]


# -- what reads a run ------------------------------------------------------------------------------------------------


def test_evaluation_and_init_from_refuse_what_is_damaged(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "whole", tmp_path / "a")
    run = run_folder(tmp_path / "a")
    flipped(parts(run) / "last.ckpt")
    for path in (run, parts(run) / "last.ckpt"):
        with pytest.raises(UserError, match=r"last\.ckpt is damaged.*whole is .*best\.ckpt"):
            saved.load(nn.Linear(1, 1), path)
    assert train(tmp_path / "b", *TINIEST, f"init_from={run}") == 2
    assert "last.ckpt is damaged" in capfd.readouterr().err and not (tmp_path / "b").exists()
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        prepared(str(run), [], Asked())
    (parts(run) / "best.ckpt").unlink()
    (parts(run) / "best.ckpt").mkdir()
    with pytest.raises(UserError, match="a folder is in its place"):
        saved.find(run / "best")


def test_evaluation_says_whose_configuration_it_takes(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "whole", tmp_path / "a")
    run = run_folder(tmp_path / "a")
    prepared(str(run), [], Asked(trust=("spies",)))
    assert "was edited" not in capfd.readouterr().err
    rewritten("config.yaml", "epochs: 3", "epochs: 4")(run)
    prepared(str(run), [], Asked(trust=("spies",)))
    assert "was edited since the run" in capfd.readouterr().err
    (run / "config.yaml").write_text("{")
    prepared(str(run), [], Asked(trust=("spies",)))
    assert "the configuration is that in last.ckpt" in capfd.readouterr().err
