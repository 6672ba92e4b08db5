"""The house: a floor is a folder. Imports go down only and never in a circle; the lower floors know no framework."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LPT = Path(__file__).resolve().parents[1] / "lpt"
FLOORS = [
    {"formats"},
    {"weights", "dataflow", "indicators", "execution"},
    {"models", "data", "search", "hardware", "exchange"},
    {"tasks", "callbacks", "report"},
    {"runs"},
    {"reproductions", "benchmarks"},
    {"commands"},
]
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
LOOSE = {"__init__", "errors", "places"}  # open to all floors; the package itself shows what is on the lower two
FRAMEWORKS = {"hydra", "lightning", "lightning_fabric", "omegaconf", "pytorch_lightning", "wandb"}
FILES = sorted(LPT.rglob("*.py"))
MODULES = {".".join(["lpt", *path.relative_to(LPT).with_suffix("").parts]).removesuffix(".__init__") for path in FILES}


def name_of(path: Path) -> str:
    return ".".join(["lpt", *path.relative_to(LPT).with_suffix("").parts]).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, by their full names; of a package's, those that it names."""
    package = ["lpt", *path.relative_to(LPT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            parts = {f"{module}.{alias.name}" for alias in node.names} & MODULES
            found |= parts or {module}
    return found


def folder(module: str) -> str:
    """ "x" of "lpt.x.y"; "__init__" of "lpt"."""
    return [*module.split("."), "__init__"][1]


GRAPH = {name_of(path): imports(path) for path in FILES}


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_module_stands_on_a_floor() -> None:
    assert {path.stem for path in LPT.glob("*.py")} == LOOSE
    assert {path.parent.name for path in LPT.glob("*/__init__.py")} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LPT)))
def test_imports_go_downward_only(path: Path) -> None:
    own = folder(name_of(path))
    if own in LOOSE:
        return
    for module in GRAPH[name_of(path)]:
        if module.partition(".")[0] == "lpt" and folder(module) not in LOOSE:
            assert FLOOR[folder(module)] <= FLOOR[own], f"floor {FLOOR[own]} imports {module}, which is above it"


def test_no_two_modules_import_each_other() -> None:
    # (The package itself is open to all floors and so in every circle: left out.)
    inside = MODULES - {"lpt"}
    assert not circle({name: found & inside for name, found in GRAPH.items() if name in inside})


def test_no_two_folders_import_each_other() -> None:
    folders: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module, found in GRAPH.items():
        if folder(module) in FLOOR:
            folders[folder(module)] |= {folder(m) for m in found if m in MODULES} - {folder(module), *LOOSE}
    assert not circle(folders)


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LPT)))
def test_lower_floors_know_no_framework(path: Path) -> None:
    if FLOOR.get(folder(name_of(path)), 0) <= 2:
        assert not {module.partition(".")[0] for module in GRAPH[name_of(path)]} & FRAMEWORKS


@pytest.mark.parametrize("path", sorted(LPT.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_folder_says_what_is_in_it_and_what_to_open_first(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert any(f"`{other.stem}`" in text for other in path.parent.glob("*.py")), text
    assert "open" in text.lower()


def test_importing_lpt_imports_no_framework() -> None:
    code = f"import sys, lpt; sys.exit(', '.join({FRAMEWORKS!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=LPT.parent)
    assert result.returncode == 0, result.stderr
