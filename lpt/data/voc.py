"""PASCAL VOC, or any folder laid out like it: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch

from ..errors import UserError
from ..places import place
from .base import first
from .detection import DetectionData, Scene, Scenes, Views
from .folder import SUFFIXES
from .images import normal_of
from .pixels import size_of
from .places import text_of
from .sizes import parsed

LAYOUT = (
    "Annotations/ID.xml, JPEGImages/ID.jpg and ImageSets/Main/train.txt with an ID a line, or a folder "
    "VOCdevkit/VOC2012 of that kind (PASCAL VOC 2012 is VOCtrainval_11-May-2012.tar from its home page, "
    "host.robots.ox.ac.uk/pascal/VOC/voc2012)"
)
Object = tuple[str, list[float], bool]  # class, left, top, right and bottom, whether it is difficult


def voc(
    root: str | None = None,
    name: str = "voc",
    train: str = "train",
    val: str = "val",
    classes: Sequence[str] | None = None,
    size: int = 320,
    train_limit: int | None = None,
    flip: bool = True,
    crop: bool = True,
    colour: bool = True,
    workers: int = 4,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    test: str | None = None,
) -> DetectionData:
    """A folder in the layout of PASCAL VOC; images of any size and format, which are stretched to a square.

    Coordinates are taken as they stand in the annotations. What sticks out of the image is cut off; boxes that then
    have no area are left out and counted in `source`. Images without objects stay. Objects marked as difficult are
    neither learned nor asked for. All annotations are read, and all images' sizes, before anything else happens.

    Args:
        root: the folder, or one above it.
        name: what the set is called in logs.
        train, val, test: files in ImageSets/Main, without their ending; `test` may be None.
        classes: their names; None takes those that occur, sorted. Objects of other classes are left out.
        size: side of the square, in pixels.
        train_limit: only the first so many training images.
        flip, crop, colour: see `Views`.
        workers: threads that decode.
        mean, std: for normalisation, three numbers.

    Raises:
        UserError: a missing folder, list, annotation or image; one that cannot be read; lists without an object.
    """
    if size < 1 or workers < 1:
        raise UserError(f"data.size={size}, data.workers={workers}: give whole numbers from 1 upward")
    if isinstance(classes, str):
        raise UserError(f"data.classes={classes!r} is not a list: write data.classes=[{classes}]")
    folder = _folder(root)
    ids = {part: _ids(folder, listed) for part, listed in (("train", train), ("val", val), ("test", test)) if listed}
    ids["train"] = ids["train"][: first(len(ids["train"]), train_limit)]
    found = {part: [_annotation(folder, i) for i in listed] for part, listed in ids.items()}
    occurring = sorted({kind for objects in (*found["train"], *found["val"]) for kind, *_ in objects})
    names = tuple(occurring if classes is None else classes)
    _check_classes(names, occurring, folder)
    empty: Counter[str] = Counter()
    images = _images(folder)
    scenes = {
        part: [
            _scene(_image(folder, images, i), objects, names, empty)
            for i, objects in zip(ids[part], found[part], strict=True)
        ]
        for part in ids
    }
    normal = normal_of(torch.empty(0, 3, 1, 1, dtype=torch.uint8), mean, std)
    return DetectionData(
        name=name,
        classes=names,
        size=size,
        train=Scenes(scenes["train"], size, normal, Views(flip, crop, colour), workers),
        val=Scenes(scenes["val"], size, normal, None, workers),
        test=Scenes(scenes["test"], size, normal, None, workers) if test else None,
        source=_told(folder, names, scenes, empty["boxes"]),
    )


def _check_classes(names: tuple[str, ...], occurring: list[str], folder: Path) -> None:
    if not set(names) & set(occurring) or len(set(names)) < len(names):
        has = ", ".join(occurring) or "none"
        raise UserError(f"data.classes={list(names)}: the annotations in {folder} have {has}; name each at most once")


def _folder(root: str | None) -> Path:
    """The folder that holds Annotations, JPEGImages and ImageSets."""
    if root is None:
        raise UserError(f"data.root is missing: give data=voc data.root=DIR, which holds {LAYOUT}")
    top = place(root, "data.root")
    below = [top.glob("*"), top.glob("*/*")] if top.is_dir() else []
    found = [path for paths in ([top], *map(sorted, below)) for path in paths if (path / "Annotations").is_dir()]
    if top in found:
        found = [top]
    if len(found) > 1:
        raise UserError(f"data.root={root} holds {len(found)} such sets, choose one: {', '.join(map(str, found))}")
    lacking = [part for part in ("JPEGImages", "ImageSets/Main") if found and not (found[0] / part).is_dir()]
    if not found or lacking:
        what = f"{found[0]} has no {lacking[0]}" if lacking else f"data.root={root} is not there, or has no Annotations"
        raise UserError(f"{what}; it must hold {LAYOUT}")
    return found[0]


def _ids(folder: Path, part: str) -> list[str]:
    """The images in ImageSets/Main/`part`.txt; a second column, as the lists of single classes have, is passed over."""
    file = folder / "ImageSets" / "Main" / f"{part}.txt"
    if not file.is_file():
        others = sorted(path.stem for path in file.parent.glob("*.txt"))
        raise UserError(f"{file} is missing; data.train and data.val may be {', '.join(others[:20]) or '(none there)'}")
    try:
        listed = text_of(file.read_bytes())
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({error}); convert or replace it") from error
    ids = [line.split()[0] for line in listed.splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{file} names no image: choose another data.train or data.val")
    if outside := [i for i in ids if "/" in i or "\\" in i or i in (".", "..")]:
        raise UserError(f"{file} names {outside[0]!r}, which is a path: write names of files in JPEGImages alone")
    return list(dict.fromkeys(Path(i).stem if Path(i).suffix.lower() in SUFFIXES else i for i in ids))


def _annotation(folder: Path, image: str) -> list[Object]:
    file = folder / "Annotations" / f"{image}.xml"
    try:
        return list(_objects(parsed(file)))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing, and a list in {folder / 'ImageSets' / 'Main'} names it") from error
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is no annotation of VOC's kind ({error}); mend or replace that file") from error


def _objects(root: ElementTree.Element) -> Iterator[Object]:
    for item in root.iter("object"):
        kind = (item.findtext("name") or "").strip()
        texts = {key: item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")}
        if not kind or None in texts.values():
            raise ValueError(f"an object without name, xmin, ymin, xmax or ymax: {kind or 'no name'}, {texts}")
        box = [float(text or "") for text in texts.values()]
        if not all(map(math.isfinite, box)):
            raise ValueError(f"a box of {kind} is not finite: {box}")
        yield kind, box, (item.findtext("difficult") or "0").strip() not in ("0", "")


def _images(folder: Path) -> dict[str, Path]:
    """By their names in the lists."""
    return {path.stem: path for path in sorted((folder / "JPEGImages").iterdir()) if path.suffix.lower() in SUFFIXES}


def _image(folder: Path, images: dict[str, Path], image: str) -> Path:
    if image not in images:
        endings = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{folder / 'JPEGImages'} has no image {image} ({endings}), and a list names it")
    return images[image]


def _scene(path: Path, objects: Sequence[Object], classes: tuple[str, ...], empty: Counter[str]) -> Scene:
    """The objects of `classes` in an image; `empty` counts the boxes that are left out."""
    width, height = size_of(path)
    known = [item for item in objects if item[0] in classes]
    boxes = np.array([box for _, box, _ in known], np.float64).reshape(-1, 4).clip(0, [width, height] * 2)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    empty["boxes"] += int((~kept).sum())
    labels = np.array([classes.index(kind) for kind, *_ in known], np.int64)
    return Scene(path, boxes[kept], labels[kept], np.array([difficult for *_, difficult in known], bool)[kept])


def _told(folder: Path, classes: tuple[str, ...], scenes: dict[str, list[Scene]], empty: int) -> str:
    parts = []
    for part, images in scenes.items():
        difficult = sum(int(scene.difficult.sum()) for scene in images)
        objects = f"{sum(len(scene.labels) for scene in images)} objects"
        parts.append(f"{part} {objects}, {difficult} of them difficult" if difficult else f"{part} {objects}")
    left = f"; {empty} boxes without area left out" if empty else ""
    return f"VOC folder {folder.name}: {len(classes)} classes; {', '.join(parts)}{left}"
