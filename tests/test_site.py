"""The site of documentation: navigation, the reference, and links; without mkdocs, which `make docs` installs."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lpt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
HOME = "index.md"  # made of the README by docs/site.py
PAGES = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")) if "results" not in path.parts]
REFERENCE = re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in DOCS.glob("reference/*.md")), re.MULTILINE)
PACKAGES = ("formats", "weights", "indicators", "dataflow", "search", "models", "data", "exchange")


def entries(nav: Any) -> list[str]:
    """The files of a navigation, from top to bottom."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [file for part in parts for file in entries(part)]


def found(name: str) -> Any:
    """The object of a full name."""
    module, rest = name, []
    while True:
        try:
            node: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest = [last, *rest]
    for part in rest:
        node = getattr(node, part)
    return node


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page() -> None:
    assert sorted(entries(CONFIG["nav"])) == sorted([HOME, *PAGES])
    assert not (DOCS / HOME).exists()


@pytest.mark.parametrize("name", REFERENCE)
def test_what_the_reference_shows_is_there_and_says_what_it_is(name: str) -> None:
    thing = found(name)
    assert inspect.getdoc(thing)


def test_the_reference_has_every_public_name() -> None:
    assert len(REFERENCE) == len(set(REFERENCE))
    shown = [found(name) for name in REFERENCE]
    modules = [lpt, *(importlib.import_module(f"lpt.{name}") for name in PACKAGES)]
    public = {f"{m.__name__}.{n}": getattr(m, n) for m in modules for n in m.__all__}
    packages = [m for m in modules if m is not lpt]
    assert [n for n, thing in public.items() if not any(thing is one for one in [*shown, *packages])] == []


LINK = re.compile(r"\[[^\]]+\]\(([^)\s:#]*)(?:#([\w-]+))?\)")
WRITTEN = [ROOT / "README.md", *(DOCS / page for page in PAGES)]


def prose(file: Path) -> str:
    """A page less its blocks of code, and code within lines."""
    return re.sub(r"```.*?```|^    .*?$|`[^`\n]+`", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(file: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_in_a_clone_too(file: Path) -> None:
    for target, anchor in LINK.findall(prose(file)):
        there = (file.parent / target).resolve() if target else file
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_lists_stand_apart() -> None:
    """The generator, unlike GitHub, takes a list that follows a line of text for more of that text."""
    wrong = []
    for file in WRITTEN:
        lines = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL).splitlines()
        for before, line in itertools.pairwise(lines):
            item = re.match(r"(- |\d+\. |\|)", line)
            if item and before and not before.startswith(("    ", "  ", "- ", "|")) and not re.match(r"\d+\. ", before):
                wrong.append(f"{file.name}: {line[:60]}")
    assert wrong == []
