"""From a node of the configuration to the object that its `_target_` names, mistakes told as the user's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from .arguments import Arguments
from .extras import absent

MISTAKES = (ValueError, TypeError, OSError, ImportError, AssertionError)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Within, a ValueError, a wrong argument or a missing file becomes a UserError that says `where`."""
    try:
        yield
    except UserError:
        raise
    except InstantiationException as error:
        raise UserError(f"{where}: {absent(error) or error.__cause__ or error}") from error
    except MISTAKES as error:
        raise UserError(f"{where}: {absent(error) or error}") from error


class Maker:
    """A node's `_target_` with the node's keys filled in, to be called with the rest.

    Args:
        where: the node's name, by which mistakes are told.
        made: a partial of the target.
        keys: as of `Arguments`.
    """

    def __init__(self, where: str, made: Any, keys: dict[str, str]) -> None:
        self._arguments, self._made = Arguments(where, made.func, made.keywords, keys), made

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._made)

    def __call__(self, *args: Any, **given: Any) -> Any:
        """What the target makes.

        Raises:
            UserError: it refuses an argument, or one is not what the target is annotated with.
        """
        known = self._arguments
        first = list(inspect.signature(known.target).parameters)[: len(args)] if args else []
        if unknown := known.unknown({*first, *given}):
            raise UserError(unknown)
        odd = known.misfit()
        try:
            found = self._made(*args, **given)
        except Exception as error:
            if absent(error) or not (odd or isinstance(error, MISTAKES)):
                raise
            # A constructor's own words say more than a type, and so they do of what stands in a list.
            listed = isinstance(error, ValueError) and isinstance(known.values.get(str(odd)), list)
            own = odd is None or listed or f"{odd}=" in str(error)
            raise UserError(known.by_key(error) if own else known.valid(str(odd))) from error
        if odd:
            raise UserError(known.valid(odd))
        return found


def build(where: str, node: DictConfig, **given: Any) -> Any:
    """Call the node's `_target_` with the node's keys and with `given`.

    Raises:
        UserError: the target is unknown, or refuses its arguments.
    """
    with told(where):
        return maker(where, node)(**given)


def maker(where: str, node: DictConfig) -> Maker:
    """The node's `_target_` with the node's keys filled in, to be called with the rest.

    Raises:
        UserError: there is no such target.
    """
    with told(where):
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ValueError("there is no _target_ in it; choose a file of this group")
        plain: dict[Any, Any] = OmegaConf.to_container(node, resolve=False)  # type: ignore[assignment]
        refers = {key: re.fullmatch(r"\$\{([\w.]+)\}", value) for key, value in plain.items() if isinstance(value, str)}
        keys = {key: match[1] for key, match in refers.items() if match}
        return Maker(where, instantiate(node, _partial_=True, _convert_="all"), keys)


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
