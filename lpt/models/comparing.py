"""What a model does with an example, and whether another does the same; what tracing must not do in passing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .aliases import Refused

CLOSE = 1e-3  # by how much of the largest value fused attention may differ from its plain form, through all layers
Seen = dict[str, Tensor]


def observed(model: nn.Module, example: Tensor, name: str) -> Seen:
    """Output, buffers and the input afterwards, in training and in evaluation, with fixed random numbers.

    And which parameters the output in training would give a gradient; none is computed. The model's mode and buffers,
    and torch's generators, are as before when it returns.

    Raises:
        UserError: the model does not take the example.
    """
    kept = {key: buffer.clone() for key, buffer in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    named = list(model.named_parameters())
    found: Seen = {}
    try:
        for mode in ("training", "evaluation"):
            given = example.clone()
            with torch.set_grad_enabled(mode == "training"), torch.random.fork_rng(devices=devices):
                torch.manual_seed(0)
                output = model.train(mode == "training")(given)
            if mode == "training":
                ids = _trained(output)
                found |= {f"whether {key} gets a gradient": torch.tensor(id(p) in ids) for key, p in named}
            found[f"its output in {mode}"] = output.detach().clone()
            found[f"its input after {mode}"] = given
            found |= {
                f"its buffer {key} after {mode}": buffer.detach().clone() for key, buffer in model.named_buffers()
            }
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        hint = (
            "give another"
            if example.ndim != 4
            else "give images of another size (data.size=, where the data set has it), or another model="
        )
        raise UserError(f"{name} cannot take {told(example)} ({str(error).rstrip('.')}): {hint}") from error
    finally:
        with torch.no_grad():
            for key, buffer in model.named_buffers():
                buffer.copy_(kept[key])
        for module, training in modes.items():
            module.training = training
    return found


def _trained(output: Tensor) -> set[int]:
    """The ids of the leaves that a backward pass from `output` would reach."""
    seen, nodes, ids = set(), [output.grad_fn], set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ids.add(id(getattr(node, "variable", None)))
        nodes += [following for following, _ in node.next_functions]
    return ids


def told(example: Tensor) -> str:
    """What an example is, in words."""
    if example.ndim != 4:
        return f"an example of shape {tuple(example.shape)}"
    _, channels, height, width = example.shape
    return f"images of {height}x{width} pixels and {channels} channels"


def same_or_refused(expected: Seen, got: Seen, exact: bool, name: str) -> None:
    """Compare two observations, bit for bit or, if not `exact`, up to `CLOSE`.

    Raises:
        UserError: they differ; the message says in what, and by how much.
    """
    for what, value in expected.items():
        other = got[what]
        same = value.shape == other.shape and value.dtype == other.dtype
        if not same or not _equal(value, other, exact):
            apart = (value.double() - other.double()).abs().max().item() if value.shape == other.shape else None
            by = (
                f"by up to {apart:.3g}"
                if same
                else f"{value.dtype} {tuple(value.shape)} against {other.dtype} {tuple(other.shape)}"
            )
            raise UserError(
                f"{name} cannot be made visible without computing something else: {what} differs ({by}), compared on "
                "an example. Write its forward without in-place operations, or with lpt.ops"
            )


def _equal(value: Tensor, other: Tensor, exact: bool) -> bool:
    if exact or not value.is_floating_point() or not value.numel():
        return bool(((value == other) | ((value != value) & (other != other))).all())
    return torch.allclose(value, other, rtol=0.0, atol=CLOSE * float(value.abs().max()), equal_nan=True)


class Modes:
    """What blocks around a call say of it, and no graph of modules does; as it is when this is made."""

    def __init__(self) -> None:
        self._gradients, self._casts = torch.is_grad_enabled(), _autocasts()

    def switched(self) -> str:
        """What has been switched since, in words; "" if nothing."""
        forgets = "which a graph of modules forgets"
        if torch.is_grad_enabled() != self._gradients:
            return f"it switches gradients on or off, {forgets}: use detach(), or requires_grad_(False) on parameters"
        if _autocasts() != self._casts:
            return (
                f"it calls something within torch.autocast, {forgets}: cast with to(dtype), or put it around the model"
            )
        return ""


def _autocasts() -> int:
    """How many `torch.autocast` blocks are open, those with enabled=False included."""
    count: int = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return count


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within, `model` is traced: nothing that a trace would fix for good may happen.

    Raises:
        Refused: the forward drew random numbers by itself, or set attributes of its modules. They are set back.
    """
    places = [(path, there) for path, module in model.named_modules() for there in _attributes(module)]
    before = [dict(there) for _, there in places]
    state = random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        odd = [(path, _set_back(there, own)) for (path, there), own in zip(places, before, strict=True)]
    if random.getstate() != state[0] or not torch.equal(torch.get_rng_state(), state[1]):
        random.setstate(state[0])
        torch.set_rng_state(state[1])
        raise Refused(
            "model", "it draws random numbers that a graph would fix for good: use dropout, or a module of its own"
        )
    for path, keys in odd:
        if keys:
            raise Refused(
                f"model.{path}".rstrip("."), f"it sets {keys[0]} in its forward, which a graph of modules forgets"
            )


def _attributes(module: nn.Module) -> list[dict[str, Any]]:
    """What a forward could set: attributes, buffers, entries of a cache."""
    return [vars(module), *(value for value in vars(module).values() if isinstance(value, dict))]


def _set_back(there: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """The attributes that are other objects than before; all are set back."""
    odd = [key for key in {**own, **there} if key not in own or key not in there or there[key] is not own[key]]
    for key in odd:
        if key in own:
            there[key] = own[key]
        else:
            del there[key]
    return odd
