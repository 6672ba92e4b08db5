"""Files that are whole at every moment."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a run killed here, sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # somebody's, which leads to another file
        temporary.unlink()
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
