"""The layers of the design: imports go downward only, and the lower ones know nothing of Lightning, Hydra or W&B."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LPT = Path(__file__).resolve().parents[1] / "lpt"

# Every module of lpt has its layer here; the numbers are those of the design.
LAYERS = {
    "errors": 0, "formats": 0, "heap": 0,
    "": 1, "audit": 1, "bf16": 1, "coverage": 1, "edge": 1, "flow": 1, "indicators": 1, "ops": 1, "packing": 1,
    "parameters": 1, "quantizer": 1, "weights": 1,
    "data": 2, "models": 2, "search": 2,
    "callbacks": 3, "loggers": 3, "report": 3, "tasks": 3,
    "benchmarks": 4, "build": 4, "evaluation": 4, "experiment": 4, "folder": 4, "messages": 4, "reproductions": 4,
    "run": 4, "saved": 4, "searching": 4, "summary": 4, "training": 4,
}  # fmt: skip
FRAMEWORKS = {"hydra", "lightning", "lightning_fabric", "omegaconf", "pytorch_lightning", "wandb"}
FILES = sorted(LPT.rglob("*.py"))


def top(module: str) -> str:
    """ "x" of "lpt.x.y"."""
    return [*module.split("."), ""][1]


def layer_of(module: str) -> int:
    """The layer of "lpt.x.y"."""
    name = top(module)
    assert name in LAYERS, f"{module}: give lpt/{name} a layer in tests/test_layers.py"
    return LAYERS[name]


def imports(path: Path) -> list[str]:
    """The modules that a file imports, anywhere in it, by their full names."""
    inside = ["lpt", *path.relative_to(LPT).with_suffix("").parts]
    package = inside[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            found += [".".join([*base, alias.name] if base in (["lpt"], []) else base) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LPT)))
def test_imports_go_downward_only(path: Path) -> None:
    inside = path.relative_to(LPT).with_suffix("").parts
    own = layer_of(".".join(["lpt", *inside]) if inside != ("__init__",) else "lpt")
    for module in imports(path):
        if module.split(".")[0] == "lpt":
            # `from lpt import attach_` names no module: it is the package's own layer.
            target = layer_of(module) if top(module) in LAYERS else LAYERS[""]
            assert target <= own, f"layer {own} imports {module} of layer {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LPT)))
def test_lower_layers_know_no_framework(path: Path) -> None:
    inside = path.relative_to(LPT).with_suffix("").parts
    if layer_of(".".join(["lpt", *inside]) if inside != ("__init__",) else "lpt") <= 2:
        assert not {module.split(".")[0] for module in imports(path)} & FRAMEWORKS


def test_importing_lpt_imports_no_framework() -> None:
    code = f"import sys, lpt; sys.exit(', '.join({FRAMEWORKS!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=LPT.parent)
    assert result.returncode == 0, result.stderr
