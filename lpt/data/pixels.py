"""Image files as 8-bit RGB; what has more bits a channel is scaled where that is certain, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .images import opened

# Modes of 8 bits a channel (or 1), of which Pillow's conversion to RGB keeps everything but transparency. Images of 16
# bits a channel in colour come in these modes, too: Pillow keeps the upper 8.
EIGHT = {"1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "LA", "La", "PA"}
SIXTEEN = {"I;16", "I;16L", "I;16B", "I;16N"}
ALWAYS_SIXTEEN = {"PNG", "PPM"}  # formats whose mode I means whole numbers from 0 to 65535
BITS, WHITE_IS_ZERO = 258, (262, 0)  # tags of TIFF


def rgb(path: Path) -> Any:
    """A PIL image in RGB.

    Raises:
        UserError: a file that cannot be decoded, or not be brought to 8 bits a channel for certain.
    """
    from PIL import Image

    with opened(path) as file:
        bits = _bits(file, path)
        if bits == 8:
            return file.convert("RGB")
        grey = np.asarray(file) >> (bits - 8)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def size_of(path: Path) -> tuple[int, int]:
    """Width and height, read without the pixels.

    Raises:
        UserError: as of `rgb`, as far as that shows before the pixels are read.
    """
    with opened(path) as file:
        _bits(file, path)
        size: tuple[int, int] = file.size
        return size


def _bits(file: Any, path: Path) -> int:
    """Bits a channel of an image's values, from 0 upward."""
    if file.mode in EIGHT:
        return 8
    tags = getattr(file, "tag_v2", {})
    if file.mode in SIXTEEN and tags.get(WHITE_IS_ZERO[0]) != WHITE_IS_ZERO[1]:
        return int(tags.get(BITS, (16,))[0])
    if file.mode == "I" and file.format in ALWAYS_SIXTEEN:
        return 16
    kinds = {"F": "floating-point numbers", "I": "signed or 32-bit numbers"}
    kind = kinds.get(file.mode, "16 bits, white at 0," if file.mode in SIXTEEN else "values of a kind not known here")
    raise UserError(
        f"{path} holds {kind} (mode {file.mode} of {file.format}), and nothing says which of them are black and white: "
        "save it with 8 bits a channel, or with 16 unsigned ones"
    )
