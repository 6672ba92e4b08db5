"""Two processes (gloo, CPU) agree on every quantized weight, and what they agree on is resumable."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from running import ROOT, TINY, checkpoint, differences, metrics, summary

Process = subprocess.CompletedProcess[str]
TWO = (
    "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.batch_size=8",
    "trainer.accumulate_grad_batches=2", "format.rounding=stochastic", "weights=log4_sr", "weights.momentum=fp169",
    "indicators=default", "indicators.angles.every=3", "indicators.angles.batch_size=8", "trainer.checkpoint_every=2",
    "remedy=freezing", "remedy.after=0.0", "remedy.momentum=0.4", "remedy.first=0.3", "remedy.last=0.3",
    "products=nvfp4", "products.wgrad_x.transform={size: 16, signs: fresh, fit: true}",
    "+indicators.dump._target_=spies.Dump", "data.train_limit=80",  # 5 batches an epoch and rank: steps of 2, 2 and 1
)  # fmt: skip


def launch(folder: Path, *overrides: str, base: tuple[str, ...] = TWO, **env: str) -> Process:
    command = [sys.executable, str(ROOT / "train.py"), *TINY, *base, f"paths.outputs={folder}", *overrides]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests"), "LPT_DUMP": str(folder), **env}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_two_ranks_agree_and_resume(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = launch(whole)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mean angle") == 1, "the first rank alone reports"
    assert summary(whole)["steps"] == 6
    first, second = (torch.load(whole / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert differences(first, second) == []
    assert any(frozen.any() for frozen in first["weights"]["memory/frozen"].values())
    saved = {name.removeprefix("model."): value for name, value in checkpoint(whole)["state_dict"].items()}
    quantized = first["weights"]["quantized"]
    assert set(quantized) >= {"conv.weight", "fc.weight"}
    assert differences(quantized, {name: saved[name] for name in quantized}) == []
    state = next(s for name, s in checkpoint(whole)["callbacks"].items() if name.startswith("Quantization"))
    assert len(state["products"]) == 2 and {int(n) for rank in state["products"] for n in rank.values()} == {10}

    assert launch(killed, LPT_CRASH="5").returncode != 0
    assert checkpoint(killed)["global_step"] == 4
    result = launch(killed, "resume=true")
    assert result.returncode == 0, result.stderr
    assert differences(checkpoint(whole), checkpoint(killed)) == []
    assert differences(metrics(whole), metrics(killed)) == []


def test_two_ranks_are_one_with_the_batch_of_both(tmp_path: Path) -> None:
    """Batch-norm statistics, first scales, moved scales and G are of all ranks' batches."""
    same = (
        "+trainer.sync_batchnorm=true", "data.crop_padding=0", "data.train_limit=null", "trainer.max_steps=5",
        "indicators=none", "+indicators.dump._target_=spies.Dump",
    )  # fmt: skip
    held = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        result = launch(folder, *same, f"trainer.devices={ranks}", f"trainer.batch_size={32 // ranks}", base=())
        assert result.returncode == 0, result.stderr
        held.append(torch.load(folder / "rank0.pt", weights_only=True)["weights"]["quantized"])
    equal = [(a == held[1][name]).float().mean() for name, a in held[0].items()]
    assert all(share > 0.999 for share in equal), equal
