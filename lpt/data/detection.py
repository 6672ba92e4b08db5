"""Images with boxes: what a data set for detection is, and how an image and its objects become a training example.

M objects an image; boxes are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import UserError
from .images import Normal, normalise
from .pixels import rgb

PADDING = -1  # the label of what fills up the rows of images with fewer objects
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # least overlap of a random crop and one object: Liu et al. 2016, section 2.2
CROP = 0.3  # least side of a random crop, as a share of the image's
TRIES = 30  # of finding such a crop
ZOOM = 2.0  # most by which an image shrinks (Liu et al. go to 4, on larger images)
# Least and most factor of each change of colour, which befalls half of the images.
COLOURS = {"Brightness": (0.875, 1.125), "Contrast": (0.5, 1.5), "Color": (0.5, 1.5)}
Box = tuple[float, float, float, float]
Place = tuple[int, int, int, int]
View = tuple[Box, Place]  # what is seen of the image, and where on the square it goes


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it.

    Args:
        image: a file, or the pixels, uint8 (H, W, 3).
        boxes: float64 (M, 4), within the image and of positive area.
        labels: int64 (M,).
        difficult: bool (M,); such an object is neither learned nor asked for.
    """

    image: Path | np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


@dataclass(frozen=True)
class Views:
    """What happens to a training image, after SSD's manner (Liu et al. 2016, section 2.2 and 3.6).

    Args:
        flip: mirror half of the images left to right.
        crop: of three images one is cropped around an object, and one shrunk onto a grey ground.
        colour: change brightness, contrast and saturation.
    """

    flip: bool = True
    crop: bool = True
    colour: bool = True

    def view(self, chance: random.Random, extent: tuple[int, int], boxes: np.ndarray, side: int) -> View:
        """What is seen of an image of `extent` (W, H), and where it goes on a square of `side` pixels."""
        width, height = extent
        seen: Box = (0.0, 0.0, float(width), float(height))
        place: Place = (0, 0, side, side)
        kind = chance.choice(("whole", "crop", "zoom")) if self.crop else "whole"
        if kind == "crop" and len(boxes):
            seen = _crop(chance, width, height, boxes)
        elif kind == "zoom":
            small = max(1, round(side / chance.uniform(1, ZOOM)))
            left, top = (chance.randint(0, side - small) for _ in range(2))
            place = (left, top, left + small, top + small)
        return seen, place

    def coloured(self, chance: random.Random, image: Any) -> Any:
        """The image in other colours, maybe."""
        from PIL import ImageEnhance

        for name, bounds in COLOURS.items() if self.colour else ():
            if chance.random() < 0.5:
                image = getattr(ImageEnhance, name)(image).enhance(chance.uniform(*bounds))
        return image


class Scenes:
    """A split for detection: images of any size, seen at `size` x `size` pixels.

    Args:
        scenes: where the images are, and their objects.
        size: side of the square that an image is stretched or shrunk to.
        normal: mean and deviation per channel, of values in [0, 1].
        views: the augmentation, applied when a batch is asked for with a generator.
        workers: threads that decode; results do not depend on it.
    """

    prefetch = 2

    def __init__(
        self, scenes: Sequence[Scene], size: int, normal: Normal, views: Views | None = None, workers: int = 1
    ) -> None:
        self.scenes = scenes
        self.size = size
        self.mean, self.deviation = (part.reshape(-1, 1, 1) for part in normal)
        self.grey = tuple(round(255 * float(m)) for m in normal[0])
        self.views = views
        self.workers = workers

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """The scenes at `indices`, int64 (N,).

        Args:
            indices: int64 (N,).
            generator: a CPU generator, the only source of randomness of the augmentation; None, no augmentation.

        Returns:
            images float32 (N, 3, size, size), normalised per channel; boxes float32 (N, M, 4), in pixels of these
            images; labels int64 (N, M), filled up with `PADDING`; difficult bool (N, M); and the indices.

        Raises:
            UserError: an image cannot be decoded.
        """
        seeds: list[int | None] = [None] * len(indices)
        if generator is not None and self.views is not None:  # drawn here, before any thread starts
            seeds = torch.randint(2**62, (len(indices),), generator=generator).tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            planes, boxes, labels, difficult = zip(*pool.map(self._one, indices.tolist(), seeds), strict=True)
        images = torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2).contiguous()
        return (
            normalise(images, self.mean, self.deviation),
            pad_sequence([torch.from_numpy(part).float() for part in boxes], batch_first=True),
            pad_sequence([torch.from_numpy(part) for part in labels], batch_first=True, padding_value=PADDING),
            pad_sequence([torch.from_numpy(part) for part in difficult], batch_first=True),
            indices,
        )

    def _one(self, index: int, seed: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        from PIL import Image

        scene, chance = self.scenes[index], random.Random(seed)
        image = decoded(scene.image)
        views = Views(False, False, False) if seed is None or self.views is None else self.views
        seen, place = views.view(chance, image.size, scene.boxes, self.size)
        boxes, kept = moved(scene.boxes, seen, place)
        left, top, right, bottom = place
        image = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=seen)
        image = views.coloured(chance, image)
        if image.size != (self.size, self.size):
            square = Image.new("RGB", (self.size, self.size), self.grey)
            square.paste(image, (left, top))
            image = square
        if views.flip and chance.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes[:, [0, 2]] = self.size - boxes[:, [2, 0]]
        return np.asarray(image), boxes, scene.labels[kept], scene.difficult[kept]


@dataclass(frozen=True)
class DetectionData:
    """A data set for detection.

    Args:
        name: short, as in `data=`.
        classes: their names; labels are their places.
        size: side of the square images, in pixels.
        train, val: the splits; `test`, if there is one, is looked at once, at the end of a run, and chooses nothing.
        source: one line: what the images are, and what they are not.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    train: Scenes
    val: Scenes
    source: str
    unit: str = "images"
    test: Scenes | None = None

    def __post_init__(self) -> None:
        for part, scenes in {"train": self.train, "val": self.val}.items():
            if not any((~scene.difficult).any() for scene in scenes.scenes):
                raise UserError(
                    f"data={self.name}: no object of {', '.join(self.classes) or 'any class'} is in the {part} images, "
                    f"or all are difficult: choose another data.{part} or data.classes"
                )

    def model_arguments(self) -> dict[str, Any]:
        """What a model must know."""
        return {"classes": len(self.classes)}


def decoded(image: Path | np.ndarray) -> Any:
    """A PIL image in RGB.

    Raises:
        UserError: as of `lpt.data.pixels.rgb`.
    """
    if isinstance(image, np.ndarray):
        from PIL import Image

        return Image.fromarray(image)
    return rgb(image)


def moved(boxes: np.ndarray, seen: Box, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) as they lie on the square, cut at the edge of what is seen, and which of them are kept (M,).

    Those are kept whose centre is seen.
    """
    origin, span = np.array(seen[:2] * 2), np.array([seen[2] - seen[0], seen[3] - seen[1]] * 2)
    target, side = np.array(place[:2] * 2), np.array([place[2] - place[0], place[3] - place[1]] * 2)
    shares = (boxes - origin) / span
    centres = (shares[:, :2] + shares[:, 2:]) / 2
    kept = ((centres > 0) & (centres < 1)).all(1)
    return shares[kept].clip(0, 1) * side + target, kept


def _crop(chance: random.Random, width: int, height: int, boxes: np.ndarray) -> Box:
    """A random crop that overlaps some object enough; the whole image if none is found."""
    least = chance.choice(OVERLAPS)
    for _ in range(TRIES):
        w, h = width * chance.uniform(CROP, 1), height * chance.uniform(CROP, 1)
        left, top = chance.uniform(0, width - w), chance.uniform(0, height - h)
        crop = (left, top, left + w, top + h)
        if 0.5 < w / h < 2 and moved(boxes, crop, (0, 0, 1, 1))[1].any() and _overlaps(boxes, crop).max() >= least:
            return crop
    return 0.0, 0.0, float(width), float(height)


def _overlaps(boxes: np.ndarray, crop: Box) -> np.ndarray:
    """Intersection over union of each box with the crop, (M,)."""
    sides = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
    common = sides.clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / (areas + (crop[2] - crop[0]) * (crop[3] - crop[1]) - common)
