"""The small files of a run, which may be anybody's, as text, JSON, YAML and CSV: what was read, or a ValueError.

Never more: no text that grows as it is read (YAML's aliases), no nesting that ends the interpreter, no endless file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# The same language, read seven times as fast where libyaml is there.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 2**28  # bytes of a file; a metrics.csv of a million rows has less
DEEPEST = 100
_SUSPECT = re.compile(rf"[&*]|[-?] +[-?] | {{{DEEPEST}}}")  # aliases, and nesting by signs or by spaces


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: it is not UTF-8, or too large.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"it has {size:,} bytes, more than a run writes")
    return path.read_text(encoding="utf-8")


def json_of(text: str) -> Any:
    """What a text in JSON says.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_yaml(text: str) -> None:
    """Raise if a text in YAML, read, would grow beyond itself, or is nested too deeply.

    Raises:
        ValueError: it would, it is, or it is no YAML.
    """
    if not _SUSPECT.search(text) and max(text.count("["), text.count("{")) <= DEEPEST / 2:
        return
    depth = 0
    try:
        for event in yaml.parse(text, Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise ValueError("it has aliases" if depth <= DEEPEST else "it is nested too deeply")
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from error


def yaml_of(text: str) -> Any:
    """What a text in YAML says.

    Raises:
        ValueError: it is none, has aliases, or is nested too deeply.
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, TypeError) as error:  # a key that can be none
        raise ValueError(f"it is no YAML: {error}") from error


def rows_of(text: str) -> Iterator[dict[str, Any]]:
    """The rows of a text in CSV, under the names in its first line.

    Raises:
        ValueError: on the way, where it is none.
    """
    try:
        yield from csv.DictReader(io.StringIO(text))
    except csv.Error as error:
        raise ValueError(f"it is no CSV: {error}") from error
