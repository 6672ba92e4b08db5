"""Images with boxes: VOC folders as they are found, damage told, augmentation that moves boxes with their objects."""

from __future__ import annotations

import math
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import VOC, annotation, write_voc
from torch import Tensor

from lpt.data import Batches, digit_scenes, voc
from lpt.data.detection import PADDING, Scene, Scenes, Views, moved
from lpt.errors import UserError

SHARED = Path(os.environ.get("LPT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
BCCD = SHARED / "data/bccd/bccd.tar.xz"


def pixels(split: Scenes, x: Tensor) -> Tensor:
    """Images as the network sees them, back as colours 0 .. 255."""
    return (x * split.deviation + split.mean) * 255


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read(tmp_path: Path) -> None:
    data = voc(root=str(write_voc(tmp_path)), size=32)
    assert data.classes == ("book", "cup") and (len(data.train), len(data.val)) == (4, 2)
    assert data.model_arguments() == {"classes": 2}
    assert "train 5 objects, 1 of them difficult" in data.source and "left out" not in data.source
    x, boxes, labels, difficult, index = data.train.batch(torch.tensor([1, 3, 0]), None)
    assert x.shape == (3, 3, 32, 32) and boxes.shape == (3, 2, 4) and boxes.dtype == x.dtype == torch.float32
    assert labels.tolist() == [[0, 1], [PADDING] * 2, [1, 0]] and index.tolist() == [1, 3, 0]
    assert difficult.tolist() == [[False, True], [False] * 2, [False] * 2]
    scale = torch.tensor([32 / 40, 32 / 80] * 2)
    torch.testing.assert_close(boxes[0], torch.tensor([box for _, box, _ in VOC["b.1"]]) * scale)
    assert not boxes[1].any()
    book = pixels(data.train, x)[0, :, 15, 16]  # in the middle of it
    torch.testing.assert_close(book, torch.tensor([0.0, 0, 255]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("place", [".", "VOCdevkit/VOC2012", "VOC2007", "any name"])
def test_the_folder_may_lie_below(tmp_path: Path, place: str) -> None:
    write_voc(tmp_path / place)
    assert len(voc(root=str(tmp_path), train="val").train) == 2


def test_other_lists_and_classes(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "ImageSets/Main/some.txt").write_text("c.bmp\nc\nd")
    data = voc(root=str(tmp_path), train="some", classes=["cup", "plate"])
    assert len(data.train) == 2 and data.classes == ("cup", "plate")
    labels = [scene.labels.tolist() for scene in data.val.scenes]
    assert labels == [[0], [0]]  # the books are left out
    assert len(voc(root=str(tmp_path), train_limit=3).train) == 3


def test_boxes_are_cut_and_counted(tmp_path: Path) -> None:
    write_voc(tmp_path)
    odd = [
        ("cup", (-5.5, 10, 20, 2000), 0),
        ("cup", (5, 5, 5, 9), 0),
        ("cup", (9, 9, 4, 20), 0),
        ("cup", (70, 5, 90, 9), 0),  # beside the image, which is 64 wide
        ("book", (1.5, 2, 3, 4), 0),
    ]
    (tmp_path / "Annotations/a.xml").write_text(annotation(odd))
    data = voc(root=str(tmp_path), train="val")
    assert data.train.scenes[0].boxes.tolist() == [[0, 10, 20, 48], [1.5, 2, 3, 4]]
    assert "6 boxes without area left out" in data.source  # `a` is in both parts


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.rglob(name)).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def truncate(folder: Path) -> None:
    file = folder / "JPEGImages/a.jpg"
    file.write_bytes(file.read_bytes()[:-60])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no annotation": (remove("a.xml"), r"a\.xml is missing"),
    "no image": (remove("c.bmp"), r"JPEGImages has no image c"),
    "no list": (remove("val.txt"), r"val\.txt is missing; .* may be train"),
    "empty list": (write("ImageSets/Main/val.txt", "\n\n"), r"val\.txt names no image"),
    "not xml": (write("Annotations/a.xml", "<annotation"), r"a\.xml is no annotation"),
    "no box": (write("Annotations/a.xml", "<a><object><name>cup</name></object></a>"), r"a\.xml .*without name"),
    "no number": (write("Annotations/a.xml", annotation([("cup", ("x", 1, 2, 3), 0)])), r"a\.xml .*'x'"),
    "nan": (write("Annotations/a.xml", annotation([("cup", (math.nan, 1, 2, 3), 0)])), r"a\.xml .*not finite"),
    "no image at all": (write("JPEGImages/c.bmp", "text"), r"c\.bmp cannot be decoded"),
    "nothing to find": (write("ImageSets/Main/val.txt", "d"), "no object of book, cup is in the val images"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told(tmp_path: Path, kind: str) -> None:
    damage, says = DAMAGE[kind]
    damage(write_voc(tmp_path))
    with pytest.raises(UserError, match=says):
        voc(root=str(tmp_path))


def test_a_truncated_image_is_told_when_it_is_met(tmp_path: Path) -> None:
    truncate(write_voc(tmp_path))
    data = voc(root=str(tmp_path))
    data.train.batch(torch.tensor([1, 2]), None)
    with pytest.raises(UserError, match=r"a\.jpg cannot be decoded"):
        data.train.batch(torch.tensor([0, 1]), None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"root": None}, "data.root is missing"),
        ({"root": "/nowhere"}, r"/nowhere is not there.*Annotations/ID\.xml.*VOCtrainval.*host\.robots"),
        ({"classes": ["dog"]}, "have book, cup"),
        ({"classes": ["cup", "cup"]}, "at most once"),
        ({"train_limit": 9}, "4 training images"),
        ({"size": 0}, "size=0"),
        ({"mean": [0.5]}, "one per channel"),
    ],
    ids=str,
)
def test_voc_refuses(tmp_path: Path, arguments: dict, says: str) -> None:
    write_voc(tmp_path)
    with pytest.raises(UserError, match=says):
        voc(**{"root": str(tmp_path), **arguments})


def test_several_folders_are_told(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007")
    write_voc(tmp_path / "VOC2012")
    with pytest.raises(UserError, match=r"holds 2 such sets.*VOC2007.*VOC2012"):
        voc(root=str(tmp_path))
    with pytest.raises(UserError, match=r"VOC2007 has no JPEGImages"):
        (tmp_path / "VOC2007/JPEGImages").rename(tmp_path / "VOC2007/Images")
        voc(root=str(tmp_path / "VOC2007"))


def test_bccd_is_read(tmp_path: Path) -> None:
    if not BCCD.exists():
        pytest.skip("the shared data data/bccd is not beside the repository (set LPT_SHARED)")
    with tarfile.open(BCCD) as archive:
        wanted = [m for m in archive if "JPEGImages" not in m.name or "_0000" in m.name or "_0033" in m.name]
        archive.extractall(tmp_path, wanted, filter="data")
    ids = [file.stem for file in sorted((tmp_path / "BCCD/JPEGImages").iterdir())]
    (tmp_path / "BCCD/ImageSets/Main/few.txt").write_text("\n".join(ids))
    data = voc(root=str(tmp_path / "BCCD"), train="few", val="few")
    assert data.classes == ("Platelets", "RBC", "WBC") and len(data.train) == len(ids) > 10
    assert "2 boxes without area left out" in data.source  # one, in both parts


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_boxes_stay_on_their_objects(tmp_path: Path) -> None:
    data = voc(root=str(write_voc(tmp_path)), size=64, colour=False)
    colours = torch.tensor([[0.0, 0, 255], [255, 0, 0]])  # of book and cup
    seen, inside = 0, []
    for trial in range(60):
        x, boxes, labels, *_ = data.train.batch(torch.arange(4), torch.Generator().manual_seed(trial))
        images = pixels(data.train, x)
        assert boxes.min() >= 0 and boxes.max() <= 64
        for image, own, kinds in zip(images, boxes, labels, strict=True):
            for (left, top, right, bottom), kind in zip(own.tolist(), kinds.tolist(), strict=True):
                if kind == PADDING or min(right - left, bottom - top) < 6:
                    continue
                seen += 1
                core = image[:, math.ceil(top) + 2 : int(bottom) - 2, math.ceil(left) + 2 : int(right) - 2]
                inside.append((core - colours[kind][:, None, None]).abs().max().item() < 60)  # JPEG blurs
    assert seen > 200 and sum(inside) == seen


def test_views_differ_and_follow_the_generator_alone(tmp_path: Path) -> None:
    split = voc(root=str(write_voc(tmp_path)), size=32, workers=3).train
    order = torch.tensor([0, 1, 2])

    def batch(seed: int | None) -> tuple[Tensor, ...]:
        return split.batch(order, None if seed is None else torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = batch(1)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, batch(1), strict=True))
    plain = batch(None)
    kinds = {"moved": 0, "same": 0}
    for seed in range(20):
        kinds["same" if torch.equal(batch(seed)[0], plain[0]) else "moved"] += 1
    assert kinds["moved"] >= 19
    loader = Batches(split, 2, shuffle=True, seed=3)
    again = Batches(split, 2, shuffle=True, seed=3)
    again.load_state_dict({"epoch": 0, "position": 1})
    for a, b in zip(list(loader)[1:], again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_boxes_are_cut_at_the_edge_of_a_crop() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [4, 4, 8, 12], [20, 0, 30, 10]])
    found, kept = moved(boxes, (4.0, 4.0, 24.0, 24.0), (0, 0, 40, 20))
    assert kept.tolist() == [True, True, False] and found.tolist() == [[0, 0, 12, 6], [0, 0, 8, 8]]


def test_a_mirrored_box_is_mirrored() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:6, 1:5] = 255
    scene = Scene(image, np.array([[1.0, 2, 5, 6]]), np.array([0]), np.array([False]))
    split = Scenes([scene], 40, (torch.zeros(3), torch.ones(3)), Views(crop=False, colour=False))
    found = {
        tuple(split.batch(torch.tensor([0]), torch.Generator().manual_seed(seed))[1].flatten().tolist())
        for seed in range(20)
    }
    assert found == {(2.0, 8.0, 10.0, 24.0), (30.0, 8.0, 38.0, 24.0)}


# -- scenes of digits --------------------------------------------------------------------------------------------------


def test_digit_scenes_are_what_they_say() -> None:
    data = digit_scenes(scenes=30, val_scenes=10, size=64)
    again, other = digit_scenes(scenes=20, val_scenes=10, size=64), digit_scenes(scenes=20, val_scenes=10, seed=1)
    for a, b, c in zip(data.train.scenes, again.train.scenes, other.train.scenes, strict=False):
        assert np.array_equal(a.image, b.image) and not np.array_equal(a.image, c.image)
    x, boxes, labels, *_ = data.train.batch(torch.arange(30), None)
    assert {int((row != PADDING).sum()) for row in labels} == {1, 2, 3, 4}
    for image, own, kinds in zip(x, boxes, labels, strict=True):
        outside = torch.ones(64, 64, dtype=torch.bool)
        for (left, top, right, bottom), kind in zip(own.int().tolist(), kinds.tolist(), strict=True):
            if kind != PADDING:
                assert image[:, top:bottom, left:right].std() > 0.3
                assert outside[top:bottom, left:right].all()  # they do not overlap
                outside[top:bottom, left:right] = False
        rest = image[:, outside]
        ground = (rest == rest.median(1, keepdim=True).values).all(0)
        assert ground.float().mean() > 0.85  # but for the digits' faint rims
    assert data.classes == tuple("0123456789") and "made scenes" in data.source


@pytest.mark.parametrize("arguments", [{"size": 0}, {"canvas": 16}, {"most": 0}, {"train_limit": 2000}], ids=str)
def test_digit_scenes_refuse(arguments: dict) -> None:
    with pytest.raises(UserError, match=re.escape("=".join(map(str, *arguments.items())))):
        digit_scenes(**arguments)
