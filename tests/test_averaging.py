"""Averages are those of the masters, validation sees them on the grid, and training does not notice."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import checkpoint, differences, metrics, train
from torch import nn

from lpt import DataFlow, QuantizedWeights
from lpt.callbacks.averaging import Averaging
from lpt.callbacks.quantization import Quantization
from lpt.weights import nearest


def test_averages_of_masters_are_evaluated_on_the_grid() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3))
    quantization = Quantization(DataFlow(), QuantizedWeights)
    quantization.weights = weights = QuantizedWeights(model, "int4_hyst")
    trainer = SimpleNamespace(callbacks=[quantization], global_step=0)
    task = SimpleNamespace(model=model)
    averaging = Averaging(decay=0.75)
    averaging.on_train_start(trainer, task)
    wanted = {"0.weight": weights.masters["0.weight"].clone(), "0.bias": model[0].bias.detach().clone()}
    for _ in range(3):
        weights.swap_in()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        weights.update()
        averaging.on_step(trainer, task, {})
        now = {"0.weight": weights.masters["0.weight"], "0.bias": model[0].bias.detach()}
        wanted = {name: 0.75 * wanted[name] + 0.25 * now[name] for name in wanted}
    for name, average in wanted.items():
        torch.testing.assert_close(averaging.averages[name], average)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    averaging.on_validation_start(trainer, task)
    average = averaging.averages["0.weight"]
    assert torch.equal(model[0].weight, nearest(average, "int4", weights.scheme.format.scale_of(average)))
    assert torch.equal(model[0].bias, averaging.averages["0.bias"])
    averaging.on_validation_end(trainer, task)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_training_does_not_notice_and_validation_does(tmp_path: Path) -> None:
    assert train(tmp_path / "plain") == 0
    assert train(tmp_path / "averaged", "averaging=ema", "averaging.decay=0.5") == 0
    plain, averaged = checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "averaged")
    assert differences(plain["state_dict"], averaged["state_dict"]) == []
    losses = [[row["val/loss"] for row in metrics(tmp_path / run) if row["val/loss"]] for run in ("plain", "averaged")]
    assert losses[0] != losses[1] and len(losses[0]) == len(losses[1])
    assert any(key.startswith("Averaging") for key in averaged["callbacks"])


def test_a_wrong_decay_is_told() -> None:
    with pytest.raises(ValueError, match="decay=1"):
        Averaging(decay=1)
