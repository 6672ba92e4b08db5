"""Packages that only parts of lpt need: which extra of `pip install 'lpt[...]'` brings them, as pyproject.toml says."""

from __future__ import annotations

import re
from importlib import metadata


def absent(error: BaseException) -> str | None:
    """One line for an error whose cause is that a package is not installed; None if it is another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            lightnings = re.match(r"Requirement '(\w+)", str(cause))  # it raises the error without a name
            package = lightnings[1] if lightnings else (cause.name or "").partition(".")[0]
            extra = extras().get(package)
            return extra and f"{package} is not installed, and this needs it: pip install 'lpt[{extra}]'"
        cause = cause.__cause__ or cause.__context__
    return None


def extras() -> dict[str, str]:
    """{package: the extra that brings it}; `all` and `test`, which bring many, only where no other does."""
    found: dict[str, str] = {}
    try:
        wanted = metadata.requires("lpt") or []
    except metadata.PackageNotFoundError:  # a clone that is not installed
        return {}
    for line in wanted:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line):
            package = match[1].replace("-", "_")
            if package not in found or found[package] in ("all", "test"):
                found[package] = match[2]
    return found
