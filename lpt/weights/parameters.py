"""Which parameters count as W, and so as G: the weights of products and embeddings."""

from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def quantizable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that network quantization applies to, by name, a tied weight once.

    These are the floating parameters called `weight...` or `..._weight` of two dimensions or more: not biases, not
    the parameters of normalizations, not position embeddings that are only added.
    """
    return {
        name: p
        for name, p in model.named_parameters()
        if p.ndim >= 2 and p.is_floating_point() and "weight" in name.rpartition(".")[2]
    }


def channel_dim(model: nn.Module, name: str) -> int | None:
    """The output channels' dimension of a convolution's weight; None for everything else (one scale a layer)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, _TRANSPOSED):
        return 1
    return 0 if isinstance(owner, _CONVOLUTION) else None
