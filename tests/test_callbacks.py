"""The indicators are what they say, and looking changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import checkpoint, differences, metrics, run_folder, train
from spies import Watch
from torch import nn

from lpt.callbacks.angles import alike, shares, untouched, weight_gradients
from lpt.callbacks.loggers import MetricsCSV
from lpt.callbacks.quantization import Quantization
from lpt.callbacks.rows import column, read_metrics
from lpt.dataflow import DataFlow
from lpt.indicators import flip_frequency
from lpt.models import ResNet
from lpt.runs.summary import figures
from lpt.tasks import schedules
from lpt.weights import QuantizedWeights

RANDOM = ("format.rounding=stochastic", "weights=log4_sr", "weights.momentum=fp169", "trainer.log_every=3")


def test_a_run_with_probes_equals_one_without_bit_for_bit(tmp_path: Path) -> None:
    probes = ("indicators=default", "indicators.angles.every=1", "indicators.angles.batch_size=8")
    assert train(tmp_path / "with", *RANDOM, *probes) == 0
    assert train(tmp_path / "without", *RANDOM, "indicators=none") == 0
    looked, not_looked = checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without")
    for saved in (looked, not_looked):  # what the indicators keep for themselves; flips are counted until they are read
        saved["callbacks"] = {
            k: v for k, v in saved["callbacks"].items() if not k.startswith(("Angles", "Flips", "Traces"))
        }
        for state in saved["callbacks"].values():
            state.get("weights", {}).pop("flips", None)
    assert differences(looked, not_looked) == []
    assert any(key.startswith("angle/flow/layer/") for key in metrics(tmp_path / "with")[0])
    common = list(metrics(tmp_path / "without")[0])
    rows = [
        {key: row[key] for key in common} for row in metrics(tmp_path / "with") if row["train/loss"] or row["val/loss"]
    ]
    assert differences(rows, metrics(tmp_path / "without")) == []


def test_flip_frequency_is_the_mean_over_each_window(tmp_path: Path) -> None:
    spy = "+indicators.spy._target_=spies.Watch"
    assert train(tmp_path, spy, "trainer.log_every=5", "trainer.accumulate_grad_batches=1", "weights=int4") == 0
    steps = list(zip(Watch.seen[1:], Watch.seen, strict=False))
    per_step = [flip_frequency(list(new.values()), list(old.values())).item() for new, old in steps]
    first = [flip_frequency(new["conv.weight"], old["conv.weight"]).item() for new, old in steps]
    logged = {int(row["step"]): row for row in metrics(tmp_path) if row["flip_frequency"]}
    for end, begin in ((5, 0), (10, 5), (12, 10)):
        assert float(logged[end]["flip_frequency"]) == pytest.approx(np.mean(per_step[begin:end]))
        layer = float(logged[end]["flip_frequency/layer/conv.weight"])
        assert layer == pytest.approx(np.mean(first[begin:end]))
        parts = [float(logged[end][f"flip_frequency/{part}"]) for part in ("level", "regrid")]
        assert sum(parts) == pytest.approx(float(logged[end]["flip_frequency"]))


def test_hysteresis_flips_less(tmp_path: Path) -> None:
    settings = ("trainer.epochs=6", "format=fp32")
    assert train(tmp_path / "plain", *settings, "weights=log4") == 0
    assert train(tmp_path / "hyst", *settings, "weights=log4_hyst") == 0
    plain, hyst = (figures(run_folder(tmp_path / n) / "metrics.csv", 36)["flip_frequency"] for n in ("plain", "hyst"))
    assert hyst < plain


def test_angles_vanish_without_data_flow_quantization(tmp_path: Path) -> None:
    probes = ("indicators=default", "indicators.angles.every=4", "indicators.angles.batch_size=8")
    assert train(tmp_path / "off", *probes, "format=fp32") == 0
    assert train(tmp_path / "coarse", *probes, "format=int4", "format.gradient=int3") == 0
    assert max(column(metrics(tmp_path / "off"), "angle/gradient")) < 1e-3
    flow, gradient = (column(metrics(tmp_path / "coarse"), f"angle/{key}") for key in ("flow", "gradient"))
    assert min(flow) > 1 and flow != gradient
    underflow = column(metrics(tmp_path / "coarse"), "underflow")
    assert len(underflow) == 3 and all(0 < share < 1 for share in underflow)


def test_traces_hold_masters_and_weights(tmp_path: Path) -> None:
    spy = "+indicators.spy._target_=spies.Watch"
    assert train(tmp_path, "indicators=default", spy, "indicators.traces.weights=4") == 0
    with np.load(run_folder(tmp_path) / "traces.npz") as traces:
        assert traces["step"].tolist() == list(range(1, 13))
        assert traces["master"].shape == traces["quantized"].shape == (12, 4)
        for i, place in enumerate(traces["names"]):
            name, index = str(place).rstrip("]").split("[")
            assert [float(seen[name].view(-1)[int(index)]) for seen in Watch.seen[1:]] == traces["quantized"][
                :, i
            ].tolist()
        weights = sum(weight.numel() for weight in Watch.seen[0].values())
        assert traces["histogram"].sum(1).tolist() == [weights] * len(traces["histogram_step"])
    assert (run_folder(tmp_path) / "traces.png").read_bytes().startswith(b"\x89PNG")


# -- the parts -------------------------------------------------------------------------------------------------------


def test_untouched_brings_back_buffers_and_random_states() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    with untouched(model):
        g = [alike(lambda: weight_gradients(model(x).square().sum(), model)) for _ in range(2)]
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert differences(dict(model.state_dict()), before) == [] and torch.equal(torch.get_rng_state(), random)
    assert differences(*g) == [], "equal random numbers, equal dropout"
    assert all(p.grad is None for p in model.parameters())


def test_shares_are_means_over_edges() -> None:
    counts = {
        "a": {
            "activation/saturation": 0.2,
            "activation/underflow": 0.0,
            "error/saturation": 0.0,
            "error/underflow": 1.0,
        },
        "b": {"activation/saturation": 0.4, "activation/underflow": 0.0, "nan": 0},
    }
    found = shares(counts)
    assert found["activation/saturation"] == pytest.approx(0.3) and found["saturation"] == pytest.approx(0.2)
    assert found["error/underflow"] == 1 and found["underflow"] == pytest.approx(1 / 3)


def test_quantized_weights_come_back_when_a_step_fails() -> None:
    model = ResNet(8, classes=3, width=8, in_channels=1)
    quantization = Quantization(DataFlow(), lambda m: QuantizedWeights(m, "log4_hyst"))
    quantization.weights = quantization.make_weights(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quantization.weights.swap_in(torch.optim.SGD(model.parameters(), lr=1.0))
    assert differences(dict(model.state_dict()), before)
    quantization.on_exception(None, None, RuntimeError())  # type: ignore[arg-type]
    assert differences(dict(model.state_dict()), before) == []


def test_metrics_csv_grows_columns_and_is_cut(tmp_path: Path) -> None:
    file = MetricsCSV(tmp_path / "metrics.csv")
    file.cut(0)
    file.log_metrics({"loss": 1.5, "seconds": 1}, 1)
    file.log_metrics({"loss": 1.0, "seconds": 2}, 2)
    file.log_metrics({"accuracy": 0.5}, 2)
    file.log_metrics({"loss": 0.5, "seconds": 3}, 12)
    assert file.path.read_text() == "step,accuracy,loss,seconds\n1,,1.5,1\n2,0.5,1.0,2\n12,,0.5,3\n"
    with file.path.open("a") as half:
        half.write("1")  # killed while it wrote a row of step 13
    assert [row["step"] for row in read_metrics(file.path)] == ["1", "2", "12"]
    again = MetricsCSV(file.path)
    again.cut(2)
    again.log_metrics({"loss": 0.25, "seconds": 4}, 4)
    assert file.path.read_text() == "step,accuracy,loss,seconds\n1,,1.5,1\n2,0.5,1.0,2\n4,,0.25,4\n"
    assert column(read_metrics(file.path), "loss", after=1) == [1.0, 0.25]


def test_schedules() -> None:
    step = schedules.step(90, milestones=[1 / 3, 2 / 3])
    assert [step(i) for i in (0, 29, 30, 59, 60, 89)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = schedules.cosine(100, last=0.1, warmup=0.1)
    assert cosine(0) == 0.1 and cosine(9) == 1 and cosine(100) == pytest.approx(0.1)
    onecycle = schedules.onecycle(100, peak=0.25, first=0.04)
    assert [onecycle(i) for i in (0, 25, 100)] == pytest.approx([0.04, 1, 0])
    assert schedules.constant(10)(7) == 1
    for wrong in (
        lambda: schedules.step(10, [0.6, 0.3]),
        lambda: schedules.onecycle(10, peak=1),
        lambda: schedules.cosine(10, warmup=-1),
    ):
        with pytest.raises(ValueError, match="scheduler"):
            wrong()
