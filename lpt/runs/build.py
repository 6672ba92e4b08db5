"""From a node of the configuration to the object that its `_target_` names, mistakes told as the user's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from ..errors import UserError
from .extras import absent


@contextmanager
def told(where: str) -> Iterator[None]:
    """Within, a ValueError, a wrong argument or a missing file becomes a UserError that says `where`."""
    try:
        yield
    except UserError:
        raise
    except InstantiationException as error:
        raise UserError(f"{where}: {absent(error) or error.__cause__ or error}") from error
    except (ValueError, TypeError, OSError, ImportError, AssertionError) as error:
        raise UserError(f"{where}: {absent(error) or error}") from error


def build(where: str, node: DictConfig, **given: Any) -> Any:
    """Call the node's `_target_` with the node's keys and with `given`.

    Raises:
        UserError: the target is unknown, or refuses its arguments.
    """
    with told(where):
        return maker(where, node)(**given)


def maker(where: str, node: DictConfig) -> Any:
    """The node's `_target_` with the node's keys filled in, to be called with the rest."""
    with told(where):
        if "_target_" not in node:
            raise ValueError("there is no _target_ in it; choose a file of this group")
        return instantiate(node, _partial_=True, _convert_="all")


def numbers(where: str, node: DictConfig) -> None:
    """Check that no entry of the node is text or a number that is not finite.

    Raises:
        UserError: one is.
    """
    for key, value in dict(node).items():
        if key != "_target_" and (isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value))):
            raise UserError(f"{where}.{key!s}={value!r}: give a finite number")


def flag(where: str, value: Any) -> bool:
    """`value` as a truth value.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, bool):
        raise UserError(f"{where}={value!r}: give true or false")
    return value


def whole(where: str, value: Any, low: int = 0, high: int = 2**63 - 1) -> int:
    """`value` as a whole number from `low` to `high`.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{where}={value!r}: give a whole number from {low} upward")
    if value > high:
        raise UserError(f"{where}={value!r} is too large: give a whole number up to {high}")
    return value
