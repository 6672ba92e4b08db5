"""W&B's sweep files, ours and those of the documentation, by W&B's own schema (the package `sweeps`)."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT

from lpt.reproductions.command import reproduce

config = pytest.importorskip("sweeps.config", reason="needs W&B's schema of sweeps: pip install sweeps")


def violations(sweep: dict[str, Any]) -> list[str]:
    return list(config.schema_violations_from_proposed_config(sweep))


def test_the_file_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    assert reproduce("scratch_vs_finetune", ["seeds=1", f"outputs={tmp_path}", f"sweep={file}"]) == 0
    assert violations(yaml.safe_load(file.read_text(encoding="utf-8"))) == []


def test_the_files_in_the_documentation() -> None:
    found = []
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for block in re.findall(r"^ {4}program: .*(?:\n {4}.*)*", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.append(sweep := yaml.safe_load(textwrap.dedent(block)))
            assert violations(sweep) == [], path
    assert found


def test_what_is_none_is_told() -> None:
    assert violations({"method": "nope", "parameters": {"run": {"values": [1]}}})
    assert violations({"method": "grid", "parameters": {"run": {"value": [1], "distribution": "x"}}})
