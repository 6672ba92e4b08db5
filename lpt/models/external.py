"""Classifiers of timm and torchvision, with their arithmetic made visible."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from .visible import Visible, visible


def timm(
    name: str | None = None,
    *,
    classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    example: Tensor | None = None,
    **options: Any,
) -> Visible:
    """A timm classifier.

    Args:
        name: as timm spells it, for example resnet18, mobilenetv2_100, vit_tiny_patch16_224.
        classes: number of outputs; with `pretrained`, another number than the weights' gives a new last layer.
        in_channels: of the images.
        pretrained: load published weights (downloads them).
        example: images (N, in_channels, H, W), N above 1; see `visible`.
        options: passed on to `timm.create_model`, for example img_size=64, drop_path_rate=0.1.

    Raises:
        UserError: a missing or unknown name (with the nearest ones), options the model does not take, a model that
            cannot be traced.
    """
    import timm as library  # slow to import, and needed here only

    name = _known(name, library.list_models(), "timm")
    try:
        model = library.create_model(name, num_classes=classes, in_chans=in_channels, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        raise _refused("timm", name, options, error, pretrained) from error
    return visible(model, f"timm's {name}", example)


def torchvision(
    name: str | None = None,
    *,
    classes: int,
    in_channels: int = 3,
    pretrained: bool = False,
    small_input: bool = False,
    example: Tensor | None = None,
    **options: Any,
) -> Visible:
    """A torchvision classifier.

    Args:
        name: as torchvision spells it, for example resnet18, mobilenet_v2.
        classes: number of outputs; with `pretrained`, another number than the weights' gives a new last layer.
        in_channels: of the images; other than 3, the first convolution is made anew.
        pretrained: load published weights (downloads them).
        small_input: ResNets only: the first convolution is 3x3 of stride 1 and there is no max-pooling, as is usual
            for images of 32x32 (CIFAR).
        example: as of `timm`.
        options: passed on to `torchvision.models.get_model`, for example width_mult=0.5.

    Raises:
        UserError: a missing or unknown name (with the nearest ones), options the model does not take, `small_input`
            for another kind of model, a model that cannot be traced.
    """
    from torchvision import models  # slow to import, and needed here only

    name = _known(name, models.list_models(module=models), "torchvision")
    try:
        if pretrained:
            model = models.get_model(name, weights="DEFAULT", **options)
            _replace_last(model, classes)
        else:
            model = models.get_model(name, weights=None, num_classes=classes, **options)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise _refused("torchvision", name, options, error, pretrained) from error
    if small_input and not isinstance(model, models.ResNet):
        raise UserError(f"small_input=true is for ResNets; {name} is a {type(model).__name__}: leave it false")
    if small_input or in_channels != 3:
        _replace_first(model, in_channels, small_input)
    if small_input:
        model.maxpool = nn.Identity()
    return visible(model, f"torchvision's {name}", example)


def _replace_first(model: nn.Module, in_channels: int, small: bool) -> None:
    """A new first convolution, drawn as torchvision draws them."""
    path, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    shape: dict[str, Any] = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    if small:
        shape = {"kernel_size": 3, "stride": 1, "padding": 1}
    new = nn.Conv2d(in_channels, old.out_channels, bias=old.bias is not None, **shape)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, new)


def _replace_last(model: nn.Module, classes: int) -> None:
    """A new last linear layer, if the published one has another number of outputs."""
    linears = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError("it does not end in a linear layer, so its classes cannot be changed")
    path, old = linears[-1]
    if old.out_features != classes:
        model.set_submodule(path, nn.Linear(old.in_features, classes))


def _known(name: str | None, names: list[str], library: str) -> str:
    if name is None:
        raise UserError(
            f"model.name is missing: give model={library} model.name=resnet18, or another of its classifiers"
        )
    if name.partition(".")[0] in names:  # timm writes the training recipe behind a dot
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"for example {', '.join(names[:3])}"
    raise UserError(f"model.name={name!r} is none of the {len(names)} classifiers of {library}; {hint}")


def _refused(library: str, name: str, options: dict[str, Any], error: Exception, pretrained: bool) -> UserError:
    given = ", ".join(f"{key}={value}" for key, value in options.items()) or "no further options"
    hint = ". Without a network, give init_from=FILE, a state dict, and leave model.pretrained=false" * pretrained
    return UserError(f"{library} cannot build {name} with {given}: {error}{hint}")
