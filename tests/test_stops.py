"""Signals at any moment: acted on within a batch, and never the reason why work that is done counts as undone."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from running import ROOT, checkpoint, differences, main, metrics, run_folder, summary, train
from spies import Signal

SHORT = ("model.width=4", "trainer.epochs=1", "data.train_limit=48", "trainer.eval_batch_size=32")


def spy(moment: str, number: int = signal.SIGTERM) -> tuple[str, ...]:
    name = "+indicators.spy._target_=spies.Signal"
    return name, f"+indicators.spy.moment={moment}", f"+indicators.spy.number={int(number)}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_in_validation_is_acted_on_within_a_batch(number: int, tmp_path: Path) -> None:
    assert train(tmp_path, *SHORT, *spy("validation", number)) == 75
    assert Signal.batches == 1 and summary(tmp_path)["status"] == "stopped"


def test_what_was_stopped_in_validation_continues(tmp_path: Path) -> None:
    more = (*SHORT, "trainer.epochs=2", "trainer.checkpoint_every=1")
    assert train(tmp_path / "a", *more, *spy("validation")) == 75
    assert train(tmp_path / "b", *more, *spy("never")) == 0
    path = run_folder(tmp_path / "a")
    other = run_folder(tmp_path / "b").name  # another spy, another name: the state is what counts
    assert path.name != other
    assert checkpoint(tmp_path / "a")["global_step"] == 2, "the last before the validation"
    Signal.batches = 1  # not again
    assert train_again(tmp_path / "a", more) == 0
    assert differences(checkpoint(tmp_path / "a")["state_dict"], checkpoint(tmp_path / "b")["state_dict"]) == []
    assert differences(metrics(tmp_path / "a"), metrics(tmp_path / "b")) == []


def train_again(folder: Path, more: tuple[str, ...]) -> int:
    """Continue a run with the spy silenced."""
    before, Signal._send = Signal._send, lambda self, moment: None  # type: ignore[method-assign]
    try:
        return train(folder, *more, *spy("validation"), "resume=true")
    finally:
        Signal._send = before  # type: ignore[method-assign]


@pytest.mark.parametrize("moment", ["end", "teardown"])
def test_a_stop_after_the_last_checkpoint_ends_a_finished_run(
    moment: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *SHORT, *spy(moment)) == 0
    assert summary(tmp_path)["status"] == "finished" and "accuracy" in capfd.readouterr().out
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_stop_while_the_summary_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpt.runs.folder import RunFolder

    write = RunFolder.write_summary

    def interrupted(self: RunFolder, **entries: object) -> dict[str, object]:
        if entries.get("status") == "finished":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # impatient
        return write(self, **entries)

    monkeypatch.setattr(RunFolder, "write_summary", interrupted)
    assert train(tmp_path, *SHORT) == 0
    assert summary(tmp_path)["status"] == "finished"


def test_a_late_stop_ends_the_sweep_all_the_same(tmp_path: Path) -> None:
    assert train(tmp_path, "-m", *SHORT, *spy("end"), "seed=0,1") == 75
    assert summary(tmp_path)["status"] == "finished", "one run, and it is finished"


def test_nohup_is_respected(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(tmp_path, *SHORT, *spy("validation", signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_stops_the_run_as_sigterm_does(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # its output goes to the terminal, which is about to be closed
        code = 1
        try:
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
            code = main(*SHORT, "trainer.epochs=2000", "trainer.accelerator=cpu", "logger.mode=disabled",
                        "compile=false", f"paths.outputs={tmp_path}")  # fmt: skip
        finally:
            os._exit(code)
    said = b""
    while b"epoch" not in said and b"step" not in said.split(str(tmp_path).encode())[-1]:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert summary(tmp_path)["status"] == "stopped"
    assert str(ROOT)
