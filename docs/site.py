"""What the site of documentation needs besides mkdocs.yml: the README as its home, and links that lead out of docs/.

A relative link is right where the file lies, in a clone or on a page of it. On the site README.md is the home page, and
a file that is no page (a folder of results, a yaml, a source file) is named without a link.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:#]+)(#[\w-]+)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as the home page."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let the links of a page lead to pages."""
    source = page.file.src_uri
    here = ROOT if source == "index.md" else (ROOT / "docs" / source).parent

    def mended(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = Path(os.path.normpath(here / target))
        if not path.exists():  # no link, but code; or one that mkdocs will complain of
            return found[0]
        known = "index.md" if path == ROOT / "README.md" else os.path.relpath(path, ROOT / "docs")
        if files.get_file_from_path(known) is None:
            return text
        return f"[{text}]({os.path.relpath(known, os.path.dirname(source) or '.')}{anchor or ''})"

    return LINK.sub(mended, markdown)
