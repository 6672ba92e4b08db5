"""Scenes of scikit-learn's digits: detection without a download."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .base import first
from .detection import DetectionData, Scene, Scenes, Views
from .digits import digits
from .images import normal_of

SIDES = (0.25, 0.5)  # of a digit's square, as shares of the canvas
TRIES = 20  # of finding a free place for a digit
INK = 0.25  # from this share of full ink a pixel belongs to a digit's box


def digit_scenes(
    size: int = 64,
    canvas: int = 64,
    most: int = 4,
    scenes: int = 1000,
    val_scenes: int = 200,
    train_limit: int | None = None,
    seed: int = 0,
    flip: bool = False,
    crop: bool = True,
    colour: bool = True,
) -> DetectionData:
    """Handwritten digits of 8x8 pixels, enlarged and pasted at random places of a plain coloured canvas.

    The digits of the training scenes and of the validation scenes are different images (those of `digits`). Boxes are
    the squares' inked parts; digits do not overlap. Scenes are made, not found: figures on them say little of photos.

    Args:
        size: side of the square images, in pixels, as the network sees them.
        canvas: side at which the scenes are made.
        most: digits in a scene, at the most; the least is one.
        scenes, val_scenes: how many there are.
        train_limit: only the first so many training scenes.
        seed: of the scenes.
        flip, crop, colour: see `Views`; a mirrored digit is hardly one.

    Raises:
        UserError: numbers below 1, or a canvas too small for digits.
    """
    least = {"size": 1, "canvas": 32, "most": 1, "scenes": 1, "val_scenes": 1}
    given = {"size": size, "canvas": canvas, "most": most, "scenes": scenes, "val_scenes": val_scenes}
    if small := [name for name, value in given.items() if value < least[name]]:
        raise UserError(f"data.{small[0]}={given[small[0]]}: give a whole number from {least[small[0]]} upward")
    source = digits()
    made = {
        part: [_scene(random.Random(f"{seed}/{part}/{i}"), split, canvas, most) for i in range(count)]
        for part, split, count in (("train", source.train, scenes), ("val", source.val, val_scenes))
    }
    train = made["train"][: first(scenes, train_limit)]
    pixels = np.stack([np.asarray(scene.image) for scene in train])
    normal = normal_of(torch.from_numpy(pixels).permute(0, 3, 1, 2), None, None)
    return DetectionData(
        name="digit_scenes",
        classes=tuple("0123456789"),
        size=size,
        train=Scenes(train, size, normal, Views(flip, crop, colour)),
        val=Scenes(made["val"], size, normal),
        source=f"scikit-learn's digits, pasted on canvases of {canvas}x{canvas} pixels, 1 to {most} each; made scenes",
    )


def _scene(chance: random.Random, source: Any, canvas: int, most: int) -> Scene:
    """1 to `most` digits of `source`, an `Images`, on a dark ground; fewer where there is no free place."""
    from PIL import Image

    pixels = np.empty((canvas, canvas, 3), np.uint8)
    pixels[:] = [chance.randrange(90) for _ in range(3)]
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(chance.randint(1, most)):
        index, side = chance.randrange(len(source)), round(canvas * chance.uniform(*SIDES))
        digit = Image.fromarray(source.images[index, 0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
        ink = np.asarray(digit) / 255
        rows, columns = np.flatnonzero(ink.max(1) > INK), np.flatnonzero(ink.max(0) > INK)
        for _ in range(TRIES):
            left, top = chance.randint(0, canvas - side), chance.randint(0, canvas - side)
            box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
            if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in boxes):
                place = pixels[top : top + side, left : left + side]
                colour = np.array([chance.randint(150, 255) for _ in range(3)])
                place[:] = place + ink[:, :, None] * (colour - place)
                boxes.append([float(edge) for edge in box])
                labels.append(int(source.labels[index]))
                break
    found = np.array(boxes), np.array(labels, np.int64)
    return Scene(pixels, *found, np.zeros(len(labels), bool))
