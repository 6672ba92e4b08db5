"""Which modules get an Edge: by what they do, not by their place in the tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import ParametrizationList

# Modules whose output is a product of their input and their weight, and all that derive from them.
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Modules that return values of their input and so stay on its grid. Everything else that computes gets an Edge.
KEEPS_GRID = (
    nn.Identity, nn.ReLU, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ChannelShuffle,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.UpsamplingNearest2d,
)  # fmt: skip
# Modules whose products happen inside one fused call, where no Edge can reach.
HIDES_PRODUCTS = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.Bilinear)
# Modules of torch's that have children and leave the computing to them.
_CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.AdaptiveLogSoftmaxWithLoss,
)  # fmt: skip
_KEEPING = {kind.forward for kind in KEEPS_GRID}


@dataclass(frozen=True)
class Place:
    """A module behind which an Edge stands, or the reason why none does."""

    name: str
    module: nn.Module
    reason: str = ""
    # True where the module may be taken apart by whoever calls its children: its Edge counts once it has run.
    waits: bool = False


def places(model: nn.Module) -> Iterator[Place]:
    """Every module of `model` that computes, and every one of which somebody might think so.

    Raises:
        ValueError: a lazy module that has not run yet.
    """
    outside: dict[str, str] = {}  # where no Edge can be: the module's name and a dot -> why
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} whose shape is not known yet: run the model once "
                "on a batch, then attach"
            )
        reason = next((why for prefix, why in outside.items() if name.startswith(prefix)), "")
        if isinstance(module, ParametrizationList):
            outside[f"{name}."] = "makes a weight, not an activation: see the layer that it belongs to"
        elif isinstance(module, nn.MultiheadAttention):
            outside[f"{name}." if name else ""] = "is not called: nn.MultiheadAttention computes in one fused call"
        elif reason:
            if not any(module.children()):
                yield Place(name, module, reason)
            continue
        if not isinstance(module, ParametrizationList):
            yield from _place(name, module)


def _place(name: str, module: nn.Module) -> Iterator[Place]:
    children = any(not _makes_weights(child) for child in module.children())
    if isinstance(module, PRODUCTS):
        yield Place(name, module, waits=children)
    elif reason := why_no_edge(module):
        yield Place(name, module, reason)
    elif not children and not _makes_weights(module):
        yield Place(name, module, waits=isinstance(module, KEEPS_GRID))
    elif children and _computes(module):
        yield Place(name, module, waits=True)


def why_no_edge(module: nn.Module) -> str:
    """Why there is no Edge behind `module` itself; "" if there is one, or if it is only a container."""
    if isinstance(module, HIDES_PRODUCTS):
        return "its products are inside one fused call; lpt.models.visible_ spells out attention"
    empty = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not any(module.children())
    return "keeps its input's values" if empty or keeps_grid(module) else ""


def keeps_grid(module: nn.Module) -> bool:
    """Whether all that `module` returns are values of its input, or zeros."""
    if "forward" in vars(module) or type(module).forward not in _KEEPING:  # another forward may do anything
        return False
    return isinstance(module, KEEPS_GRID) or (isinstance(module, nn.Upsample) and module.mode == "nearest")


def _makes_weights(module: nn.Module) -> bool:
    """Is this the `parametrizations` of a layer?"""
    return isinstance(module, nn.ModuleDict) and any(isinstance(m, ParametrizationList) for m in module.values())


def _computes(module: nn.Module) -> bool:
    """Whether a module with children also computes on its own: it derives from one of torch's that does."""
    bases = [kind for kind in type(module).__mro__ if kind.__module__.startswith(torch.nn.modules.__name__)]
    return bool(bases) and bases[0] is not nn.Module and not issubclass(bases[0], _CONTAINERS)


def by_order(model: nn.Module) -> tuple[set[str], set[str]]:
    """The last product, and what only follows it, as far as the modules' order tells."""
    modules = dict(model.named_modules())
    products = [name for name, module in modules.items() if isinstance(module, PRODUCTS)]
    last = set(getattr(model, "last_products", products[-1:]))
    if not products:
        return last, set()
    parents = [products[-1].rsplit(".", i)[0] for i in range(1, products[-1].count(".") + 1)] + [""]
    in_a_row = all(isinstance(modules[parent], nn.Sequential) for parent in parents if products[-1])
    behind = list(modules)[list(modules).index(products[-1]) + 1 :] if in_a_row and last == {products[-1]} else []
    return last, {n for n in behind if not n.startswith(f"{products[-1]}.")}
