"""What others' run folders may not do: call, read the environment, load or write elsewhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
from omegaconf import DictConfig, OmegaConf

from lpt.commands import evaluate, export
from lpt.errors import UserError
from lpt.reproductions import archive
from lpt.runs.messages import CONF
from lpt.runs.trust import _nodes, check, trusted

FEW = ["trainer.max_steps=2", "data.train_limit=32", "indicators=none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outputs")
    assert running.train(out, *FEW) == 0
    return running.run_folder(out)


def changed(run: Path, to: Path, key: str, value: Any) -> Path:
    """A copy of a run whose config.yaml says `value` at `key`."""
    shutil.copytree(run, to)
    cfg = OmegaConf.load(to / "config.yaml")
    OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, to / "config.yaml")
    return to


HARMFUL = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["HARM"]}}
CALLS: list[tuple[str, Any]] = [
    *[(group, HARMFUL) for group in ("model", "data", "task", "format", "weights", "products", "trainer", "optimizer")],
    ("model.width", HARMFUL), ("data.extra", [HARMFUL]), ("format.rules", [{"pattern": "*", "activation": HARMFUL}]),
    ("model._target_", "torch.load"), ("model._target_", "builtins.open"), ("data._target_", "shutil.copyfile"),
    ("model._target_", "torch.hub.load"), ("model._target_", "joblib.load"), ("model._target_", "lpt.data.npz.np.load"),
    ("model._target_", "lpt.runs.files.replace"), ("model._target_", "lpt.callbacks.checkpoints.torch.load"),
    ("model._target_", ["torch.load"]), ("optimizer._target_", "torch.optim.optimizer.pickle.loads"),
    ("scheduler._target_", "torch.optim.lr_scheduler.types.FunctionType"), ("model._target_", "os.system"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CALLS, ids=lambda v: json.dumps(v)[:40])
def test_a_stored_configuration_calls_nothing_of_its_own(
    key: str, value: Any, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = changed(run, tmp_path / "bad", key, value)
    for command in (evaluate.main, export.main):
        assert command([str(bad)]) == 2
        assert "if you trust that run" in capfd.readouterr().err
    assert not (tmp_path / "HARM").exists()
    assert running.main("checkpoint=x") == 2  # (train.py has no such key; the search's way is `stored`, too)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "${oc.decode:x}",
        "${ oc.create:{a:1}}",
        "x${oc.env:A,${seed}}",
        "${oc.select:a,${oc.env:B}}",
        "${${a}:B}",
    ],
)
@pytest.mark.parametrize("key", ["seed", "data.note", "model._target_"])
def test_nothing_is_computed_on_reading(
    key: str, text: str, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = changed(run, tmp_path / "bad", key, text)
    assert evaluate.main([str(bad)]) == 2
    assert "would be computed when it is read" in capfd.readouterr().err


def test_a_key_may_refer_to_another_key(tmp_path: Path) -> None:
    check(OmegaConf.create({"data": {"size": "${oc.select:model.size,64}", "again": "${data.size}"}}), tmp_path)


def test_the_checkpoints_own_configuration_is_looked_at_too(run: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.create({"model": {"_target_": "torch.load"}, "data": {}})
    with pytest.raises(UserError, match=r"model\._target_=torch\.load"):
        check(cfg, tmp_path / "last.ckpt")


def test_whom_the_user_trusts_is_called(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"model": {"_target_": "mine.models.Net"}, "data": {"_target_": "lpt.data.digits"}})
    for trust in ("[mine]", "mine", ["mine"], "other, mine.models"):
        check(cfg, tmp_path, trusted(trust))
    for trust in ("", "[min]", "mine.model", "models"):
        with pytest.raises(UserError, match="name the package"):
            check(cfg, tmp_path, trusted(trust))
    for odd in ("a/b", "[1x]", "a b"):
        with pytest.raises(UserError, match="not the name of a package"):
            trusted(odd)


def test_no_weights_and_no_downloads_from_elsewhere(tmp_path: Path) -> None:
    for model in (
        {"name": "resnet18", "checkpoint_path": "/x"}, {"name": "hf-hub:me/mine"}, {"name": "local-dir:/x"},
    ):  # fmt: skip
        for target in ("lpt.models.timm", "lpt.models.torchvision"):
            with pytest.raises(UserError, match="for weights from elsewhere"):
                check(OmegaConf.create({"model": {"_target_": target, **model}}), tmp_path)
    cfg = OmegaConf.create({"model": {}, "data": {"_target_": "lpt.data.downloads", "root": "/", "download": True}})
    check(cfg, tmp_path)
    assert cfg.data.download is False


def test_everything_in_conf_is_allowed(tmp_path: Path) -> None:
    for path in CONF.rglob("*.yaml"):
        cfg = OmegaConf.load(path)
        assert isinstance(cfg, DictConfig)
        for _, node in _nodes(OmegaConf.to_container(cfg, resolve=False)):
            if isinstance(target := node.get("_target_"), str):
                check(OmegaConf.create({"x": {"_target_": target, "name": "resnet18"}}), tmp_path)


def test_an_archive_reads_within_its_folder(tmp_path: Path) -> None:
    entries = {"name": "flips", "size": "smoke", "command": "x", "plan": {"models": [], "arms": [], "notes": []}}
    cell = {"program": "config", "labels": {}, "seed": 0}
    for folder in ("../elsewhere", "/etc"):
        (tmp_path / "result.json").write_text(json.dumps({**entries, "cells": [{**cell, "folder": folder}]}))
        with pytest.raises(UserError, match="outside of it"):
            archive.rebuild(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({**entries, "name": "../../evil", "cells": []}))
    with pytest.raises(UserError, match="not that of a table"):
        archive.rebuild(tmp_path)
