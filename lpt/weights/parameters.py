"""Which parameters count as W, and so as G: the weights of products and embeddings. And which do not, and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMALIZATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.CrossMapLRN2d)  # _NormBase: batch, instance


def quantizable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that network quantization applies to, by name, a tied weight once.

    These are the floating parameters called `weight...` or `..._weight` of two dimensions or more, of products,
    embeddings and modules of one's own. Not biases, not the parameters of normalizations of any dimensions, not
    position embeddings that are only added, not what a parametrization computes a weight from (`why_not`).

    Raises:
        ValueError: a lazy module has not run yet, so that its weight has no shape.
    """
    return {name: p for name, p, reason in _told(model) if not reason}  # type: ignore[misc]


def why_not(model: nn.Module) -> dict[str, str]:
    """What `quantizable` leaves out although it may look like a weight (two dimensions or more), by name: the reason.

    A weight that is computed from other parameters stands under its own name ("0.weight").
    """
    return {name: reason for name, _, reason in _told(model) if reason}


def chosen(model: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """`quantizable` less what the globs of `skip` match.

    Raises:
        ValueError: a glob that matches no weight, or an embedding that rewrites its weight in its forward pass.
    """
    everything = quantizable(model)
    if isinstance(skip, str):
        raise ValueError(f"skip={skip!r} is not a list of patterns: write ['{skip}']")
    for pattern in skip:
        if not fnmatch.filter(everything, pattern):
            some = ", ".join(list(everything)[:6])
            raise ValueError(f"skip={pattern!r} matches no weight; there are {some}, ...")
    left = {n: p for n, p in everything.items() if not any(fnmatch.fnmatchcase(n, pattern) for pattern in skip)}
    for name in left:
        if getattr(owner(model, name), "max_norm", None) is not None:
            raise ValueError(
                f"{name!r} is renormalized in every forward pass (max_norm), which takes it off its grid: "
                f"make the embedding with max_norm=None, or leave it in full precision with skip=[{name!r}]"
            )
    return left  # type: ignore[return-value]


def owner(model: nn.Module, name: str) -> nn.Module:
    """The module that a parameter belongs to."""
    return model.get_submodule(name.rpartition(".")[0])


def channel_dim(model: nn.Module, name: str) -> int | None:
    """The output channels' dimension of a convolution's weight; None for everything else (one scale a layer).

    A transposed convolution's weight is (in, out / groups, ...): the output channels are `channel_groups` times its
    second dimension, each group with input channels of its own.
    """
    module = owner(model, name)
    if isinstance(module, TRANSPOSED):
        return 1
    return 0 if isinstance(module, CONVOLUTION) else None


def channel_groups(model: nn.Module, name: str) -> int:
    """How many groups of input channels, along the first dimension, have output channels of their own."""
    module = owner(model, name)
    return int(module.groups) if isinstance(module, TRANSPOSED) else 1


def _told(model: nn.Module) -> Iterator[tuple[str, Tensor | None, str]]:
    """(name, parameter, why it is no weight, or "") of every parameter that is or may look like a weight.

    None stands for what is computed: to look at it would be to compute it, and some parametrizations count that.
    """
    seen: set[int] = set()
    inside = ""  # of a parametrization, whose parameters are its own affair
    for prefix, module in model.named_modules():
        if inside and prefix.startswith(inside):
            continue
        computed = dict(_computed(module))
        for name, reason in computed.items():
            yield f"{prefix}.{name}".lstrip("."), None, reason
        if isinstance(module, ParametrizationList):
            inside = f"{prefix}."
            continue
        for name, p in module._parameters.items():
            if p is None or id(p) in seen:
                continue
            seen.add(id(p))
            full = f"{prefix}.{name}".lstrip(".")
            if is_lazy(p):
                raise ValueError(
                    f"{full!r} of {type(module).__name__} has no shape yet: run the model once on an example first"
                )
            if p.ndim >= 2 and not any(name in (f"{n}_orig", f"{n}_g", f"{n}_v") for n in computed):
                yield full, p, _reason(module, name, p)


def _reason(module: nn.Module, name: str, p: Tensor) -> str:
    if isinstance(module, _NORMALIZATION):
        return f"a normalization's scales ({type(module).__name__})"
    if not p.is_floating_point():
        return f"not real numbers ({str(p.dtype).removeprefix('torch.')})"
    return "" if "weight" in name else "not called weight: taken for a value that is added"


def _computed(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(name, reason) of each of the module's weights that is computed from other parameters."""
    for name, parts in getattr(module, "parametrizations", {}).items():
        kinds: Any = ", ".join(type(part).__name__.strip("_") for part in parts)
        yield name, f"computed by a parametrization ({kinds}); remove_parametrizations() makes it a weight"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name, f"computed by a hook ({type(hook).__name__}) from other parameters"
