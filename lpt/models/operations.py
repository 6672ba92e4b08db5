"""What is known of torch's functions and methods, by name: which keep values, which have a module of their own."""

from collections.abc import Callable

from torch import nn

from ..dataflow.ops import Add, MatMul, Mul

# What these return is a number, or a fact about a tensor, and none of its values.
FACTS = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "item", "len", "__len__", "is_floating_point"),
}

# What these return is values of one argument, moved, selected or compared: it stays on the grid of that argument.
# Everything that is not named here is taken to make new values: also what joins tensors of several scales, or clips
# at a bound that need not be a level.
KEEPS_VALUES = {
    *FACTS,
    *("getattr", "getitem", "_assert", "type", "type_as", "to", "float", "contiguous", "clone", "detach"),
    *("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    *("permute", "transpose", "t", "swapaxes", "movedim", "roll", "flip", "rot90"),
    *("expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "unfold", "pad"),
    *("chunk", "split", "tensor_split", "unbind"),
    *("select", "narrow", "index_select", "gather", "take", "where", "masked_fill", "masked_fill_", "tril", "triu"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *("relu", "relu_", "max", "min", "amax", "amin", "argmax", "argmin", "sort", "topk"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_", "invert", "logical_not", "is_", "is_not"),
    *("arange", "meshgrid", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
}

# Attributes that are a tensor's values; all others (shape, dtype, device, ...) are facts.
TENSOR_ATTRIBUTES = {"T", "mT", "H", "mH", "data", "real"}

# Operations of exactly two tensors that have a module of their own.
PAIRS: dict[str, Callable[[], nn.Module]] = {
    "add": Add,
    **dict.fromkeys(("mul", "multiply"), Mul),
    **dict.fromkeys(("matmul", "bmm", "mm"), MatMul),
}

# `a += b` and so on: what operator calls it in place, and out of place.
_REGULAR = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "xor")
IN_PLACE = {**{f"i{name}": name for name in _REGULAR}, "iand": "and_", "ior": "or_"}

# What may return memory of its first argument though torch's schemas do not say so: methods that are no operators,
# attributes, and what returns its argument if there is nothing to do. "module" is a leaf module of that kind.
SHARES = {
    *("getitem", "getattr", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "view_as_real"),
    *("relu_", "masked_fill_", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "module"),
    *("dropout1d", "dropout2d", "dropout3d", "pad", "rot90", "interpolate", "channel_shuffle"),
}
JOINS_MEMORY = {
    "einsum",
    "meshgrid",
    "broadcast_tensors",
    "align_tensors",
    "cartesian_prod",
    "atleast_1d",
    "atleast_2d",
}

# Whose result holds one memory several times.
BROADCASTS = {"expand", "expand_as", "broadcast_to", "broadcast_tensors", "meshgrid", "unfold", "as_strided"}

DROPOUTS: dict[str, Callable[[float], nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}

# Positional arguments of F.scaled_dot_product_attention, which has no signature that Python can read.
ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
