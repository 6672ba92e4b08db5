"""scripts/export.py: the file of a run gives the run's metrics, others start from it, mistakes are told."""

import json
import re
from pathlib import Path

import pytest
import running
import torch
from safetensors.torch import save_file

import lpt
from lpt.commands.export import main
from lpt.exchange.loading import read
from lpt.runs import saved
from lpt.runs.build import build
from lpt.runs.evaluation import stored
from lpt.runs.exporting import export_run
from lpt.runs.parts import make_task

FEW = ["trainer.max_steps=4", "data.train_limit=64", "indicators=none", "logger.mode=disabled", "compile=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outputs")
    assert running.train(out, *FEW, "products=mxfp8", "weights=int4") == 0
    return running.run_folder(out)


def test_a_runs_file_gives_its_metrics_and_a_card(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    out = capfd.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert f"{summary['val/accuracy']:.6g}" in out and "model.safetensors" in out
    card = (run / "model.md").read_text()
    assert " in int4 (4 bits a value)" in card and "fp134" in card and "mxfp8_e4m3" in card
    assert f"| val/accuracy | {summary['val/accuracy']:.6g} |" in card and "| seed | 0 |" in card
    assert main([str(run), f"to={tmp_path / 'own.safetensors'}"]) == 0
    assert read(tmp_path / "own.safetensors")[0] == read(run / "model.safetensors")[0]


def test_what_stands_in_weights_place_is_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert running.train(tmp_path, *FEW, "recipe=deepshift_ps", "trainer.max_steps=1") == 0
    assert main([str(running.run_folder(tmp_path))]) == 2
    assert "a ShiftAndSign stands in its weights' place" in capfd.readouterr().err


def test_a_training_starts_from_such_a_file_and_from_plain_ones(run: Path, tmp_path: Path) -> None:
    file, _ = export_run(str(run))
    last = run / "checkpoints" / "last.ckpt"
    cfg = stored(last, saved.read(last))
    model = make_task(cfg, build("trainer", cfg.trainer)).model
    wanted = lpt.load_exported(file).state_dict()
    saved.load(model, file)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), wanted.values(), strict=True))
    save_file({f"module.{name}": t + 1 for name, t in wanted.items()}, tmp_path / "plain.safetensors")
    saved.load(model, tmp_path / "plain.safetensors")
    assert torch.equal(model.state_dict()["fc.weight"], wanted["fc.weight"] + 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no_such"], "no checkpoint at"), (["RUN", "as=x"], "give only to=FILE"),
        (["RUN", "to=no/such/folder/x.safetensors"], "cannot be written"),
        (["RUN", "to=net.pth"], "ends in .safetensors, .onnx or .pt2"),
    ],
)  # fmt: skip
def test_mistakes(words: list[str], told: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) if word == "RUN" else word for word in words]) == 2
    assert told in capfd.readouterr().err


def test_what_does_not_compute_the_runs_metrics_is_no_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(file: Path) -> torch.nn.Module:
        model = lpt.load_exported(file)
        torch.nn.init.zeros_(model.fc.weight)
        return model

    monkeypatch.setattr("lpt.runs.exporting.load_exported", other)
    with pytest.raises(ValueError, match="read back"):
        export_run(str(run), str(tmp_path / "m.safetensors"))
    assert not list(tmp_path.iterdir())


def test_a_file_says_nothing_of_the_machine(run: Path) -> None:
    told, _ = read(export_run(str(run))[0])
    assert str(run.parent) not in json.dumps(told)


def test_a_run_in_other_ways_gives_its_metrics(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    out = tmp_path / "outputs"
    assert running.train(out, *FEW, "format=int8", "format.input=single", "weights=int4") == 0
    run = running.run_folder(out)
    wanted = f"val/accuracy {json.loads((run / 'summary.json').read_text())['val/accuracy']:.6g}"
    for end, use in ((".onnx", "types of the weights: INT4"), (".pt2", "which needs torch alone")):
        assert main([str(run), f"to={tmp_path / 'm'}{end}"]) == 0
        said = capfd.readouterr().out
        assert wanted in said and re.search("own, bit for bit|predictions are others than lpt's", said)
        assert use in (tmp_path / "m.md").read_text()
    assert "lpt's own, bit for bit" in said, "a program has the same operators"


def test_a_run_that_cannot_be_onnx_says_so(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert main([str(run), f"to={tmp_path / 'm.onnx'}"]) == 2
    assert "products=none leaves as ONNX" in capfd.readouterr().err and not list(tmp_path.iterdir())
