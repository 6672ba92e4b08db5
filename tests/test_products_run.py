"""Products in a run: `products=`, a run that was killed, indicators, evaluation."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT, checkpoint, differences, metrics, run_folder, summary, train

from lpt.callbacks.checkpoints import Checkpoints, Stopped
from lpt.dataflow.slots import SLOTS

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
NVFP4 = ("products=nvfp4", "products.x.transform=null", "trainer.checkpoint_every=2", "format.rounding=stochastic")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("outputs")


def test_a_run_that_was_stopped_goes_on_bit_for_bit(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = outputs / "whole", outputs / "stopped"
    probes = ("indicators=default", "indicators.angles.every=3", "indicators.angles.batch_size=8")
    assert train(whole, *NVFP4, *probes) == 0
    own = Checkpoints.on_train_batch_end

    def stop(self: Checkpoints, trainer: object, *rest: object) -> None:
        own(self, trainer, *rest)  # type: ignore[arg-type]
        if trainer.global_step == 7:  # type: ignore[attr-defined]
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert train(stopped, *NVFP4, *probes) == 75
    assert train(stopped, *NVFP4, *probes, "resume=true") == 0
    assert differences(checkpoint(whole), checkpoint(stopped)) == []
    saved = next(s for name, s in checkpoint(whole)["callbacks"].items() if name.startswith("Quantization"))
    calls = saved["products"][0]
    assert len(calls) == 10 and set(map(int, calls.values())) == {12}  # one a step; probes leave it alone
    assert summary(whole)["products"] == "nvfp4" and "-nvfp4-" in run_folder(whole).name
    angles = [float(row["angle/flow"]) for row in metrics(whole) if row.get("angle/flow")]
    assert len(angles) > 2 and min(angles) > 5
    own = [slot for slot in SLOTS if slot != "dgrad_w"]  # which reads the tiles of w
    shares = [row[f"product/{slot}/underflow"] for row in metrics(whole) for slot in own if row.get("angle/flow")]
    assert len(shares) == 5 * len(angles) and all(0 < float(share) < 1 for share in shares if share)


def test_products_alone_and_none(outputs: Path) -> None:
    """None is what a run without the key does; full precision in all six slots as well."""
    plain, none, alone = outputs / "plain", outputs / "none", outputs / "alone"
    assert train(plain) == 0 and train(none, "products=custom") == 0
    assert differences(checkpoint(plain)["state_dict"], checkpoint(none)["state_dict"]) == []
    assert "products" not in summary(plain)
    assert train(alone, "format=fp32", "weights=fp32", "products=mxfp8") == 0
    assert differences(checkpoint(plain)["state_dict"], checkpoint(alone)["state_dict"]) != []


def test_a_run_is_evaluated_with_other_products(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def figures(*overrides: str) -> dict[str, float]:
        assert evaluate([str(run_folder(outputs / "alone")), *overrides]) == 0
        return {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}

    capsys.readouterr()
    own = figures()["val/loss"]
    assert own == pytest.approx(summary(outputs / "alone")["val/loss"], rel=1e-4)
    assert own != figures("products=none")["val/loss"] != figures("products=mxfp4")["val/loss"]


@pytest.mark.parametrize(
    ("given", "said"),
    [("products.x=mxpf4", "products.x='mxpf4': unknown format"), ("products.skip=[layer9]", "matches no module"),
     ("products.first=3", "give true"), ("products=nvfp4 products.x.rounding=up", "is not one of nearest")],
)  # fmt: skip
def test_mistakes(given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = given.split() if given.startswith("products=") else ["products=mxfp8", given]
    assert train(tmp_path, *overrides) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in said.split("|")) and "Traceback" not in error and not [*tmp_path.iterdir()]
