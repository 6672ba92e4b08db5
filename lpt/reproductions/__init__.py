"""Experiments that test the paper's claims, one module each: `python scripts/reproduce.py NAME` runs its `run`.

A new name is a new module here with a docstring and `run(overrides) -> int`, the exit code.
"""
