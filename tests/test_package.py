"""lpt as a package: the wheel, its commands from another folder, and what is told where a package is missing."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from lpt.runs.extras import absent, extras

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = """
import sys
from pathlib import Path

import lpt
from lpt.commands import evaluate, export, train

print(lpt.__file__, "----")
assert train.main() == 0
[run] = Path("outputs").iterdir()
print("----")
assert evaluate.main([str(run)]) == 0
print("----")
assert export.main([str(run)]) == 0
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    [made] = out.glob("*.whl")
    return made


def test_the_wheel_holds_what_a_clone_holds(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "lpt", "conf", "hydra_plugins"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a clone: git lists no files")
    kept = {f"lpt/{name}" if name.startswith("conf/") else name for name in listed.stdout.split()}
    with zipfile.ZipFile(wheel) as inside:
        assert kept <= set(inside.namelist())
        assert not [name for name in inside.namelist() if name.startswith(("tests/", "scripts/", "outputs/"))]


def test_the_main_job_runs_from_another_folder_with_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that borrows, from the present one, everything but lpt."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as inside:
        inside.extractall(target)
    # Links in site-packages are followed for the present environment's folder only, so its link to the clone is not.
    path = os.pathsep.join([str(target), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    words = ["trainer.max_steps=2", "data.train_limit=64", "indicators=none", "logger.mode=disabled", "compile=false"]
    command = [str(python), "-c", COMMANDS, *words, "progress=false"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, trained, evaluated, exported = done.stdout.split("----")
    assert str(target) in where and "accuracy" in trained and "val/accuracy" in evaluated
    assert "weights as codes" in exported


def test_lpt_needs_torch_alone() -> None:
    """Rounding, data flow, products, weights and the built-in models in a plain loop, with nothing else to import."""
    code = """
import sys

BANNED = {"scipy", "matplotlib", "torchvision", "pytorch_lightning", "hydra", "omegaconf", "yaml", "tqdm", "PIL"}
BANNED |= {"wandb", "timm", "plotly", "jinja2", "tokenizers", "sacrebleu", "torchmetrics", "pycocotools", "sklearn"}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in BANNED else self.finder.find_spec(name, *more)

import torch
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import lpt
from lpt.models import resnet

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
flow = lpt.attach_(model, lpt.DataFlow(activation="fp134", error="fp134", gradient="fp134"))
weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.randint(4, (8,)))
loss.backward()
flow.step()
optimizer.step()
print(float(loss))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    assert {"wandb", "timm", "pycocotools", "tokenizers", "plotly"} <= set(extras())
    assert extras()["wandb"] == "wandb" and extras()["sacrebleu"] == "text"
    missing = ModuleNotFoundError("No module named 'timm.models'", name="timm.models")
    assert absent(missing) == "timm is not installed, and this needs it: pip install 'lpt[timm]'"
    outer = ValueError("model")
    outer.__cause__ = ModuleNotFoundError("Requirement 'wandb>=0.12.10' not met")
    assert absent(outer) == "wandb is not installed, and this needs it: pip install 'lpt[wandb]'"
    assert absent(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert absent(ValueError("something else")) is None
