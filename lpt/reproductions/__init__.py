"""Experiments that test the paper's claims: `python scripts/reproduce.py NAME` runs the `run` of the module NAME.

A new name is a new module here: its docstring's first line is what `list` shows, and
`run(overrides: list[str]) -> None` does the work. Modules whose names begin with `_` are not listed.
"""
