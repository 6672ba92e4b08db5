"""Small made-up corpora, and a made-up set of images with boxes."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

# A little grammar: each English word has one German word, and sentences of both run in the same order.
WORDS = {
    "a": "ein", "dog": "hund", "cat": "kater", "man": "mann", "sees": "sieht", "hears": "hoert", "bites": "beisst",
    "small": "kleiner", "old": "alter", "and": "und",
}  # fmt: skip


def sentence(chance: random.Random) -> list[str]:
    """ "a small dog sees a man", or the like."""

    def noun() -> list[str]:
        return ["a", *chance.choices([["small"], ["old"], []])[0], chance.choice(["dog", "cat", "man"])]

    words = [*noun(), chance.choice(["sees", "hears", "bites"]), *noun()]
    return [*words, "and", *noun()] if chance.random() < 0.3 else words


def write_text(folder: Path, lines: int = 60) -> Path:
    """train.txt, valid.txt and test.txt."""
    chance = random.Random(0)
    for name, count in {"train": lines, "valid": 20, "test": 10}.items():
        text = [" ".join(sentence(chance)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def write_pairs(folder: Path, pairs: int = 80) -> Path:
    """train.de, train.en, val.de and val.en."""
    chance = random.Random(0)
    for name, count in {"train": pairs, "val": 12}.items():
        english = [sentence(chance) for _ in range(count)]
        (folder / f"{name}.en").write_text("".join(" ".join(line) + "\n" for line in english))
        german = [[WORDS[word] for word in line] for line in english]
        (folder / f"{name}.de").write_text("".join(" ".join(line) + "\n" for line in german))
    return folder


# Objects of a made-up VOC folder: each class has its colour.
COLOURS = {"cup": (255, 0, 0), "book": (0, 0, 255)}
SIZES = {"a": ("a.jpg", 64, 48), "b.1": ("b.1.PNG", 40, 80), "c": ("c.bmp", 96, 96), "d": ("d.jpeg", 50, 50)}
VOC: dict[str, list[tuple[str, tuple[float, ...], int]]] = {
    "a": [("cup", (8, 8, 24, 40), 0), ("book", (32, 16, 60, 44), 0)],
    "b.1": [("book", (10, 20, 30, 70), 0), ("cup", (2, 2, 8, 8), 1)],
    "c": [("cup", (20, 20, 70, 60), 0)],
    "d": [],
}


def annotation(objects: list[tuple[str, tuple[float, ...], int]]) -> str:
    """An annotation as VOC writes it: (class, (left, top, right, bottom), difficult)."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    text = "".join(
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(corners, box, strict=True))
        + "</bndbox><part><name>handle</name><bndbox/></part></object>"
        for kind, box, difficult in objects
    )
    return f"<annotation><size><width>0</width><height>0</height></size>{text}</annotation>"


def write_voc(folder: Path, copies: int = 1) -> Path:
    """A VOC folder whose images show each object as a patch of its class's colour; train has `copies` of each image."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    ids = []
    for name, objects in VOC.items():
        file, width, height = SIZES[name]
        image = Image.new("RGB", (width, height), (0, 128, 0))
        for kind, box, _ in objects:
            ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), COLOURS[kind])
        for copy in range(copies):
            own = f"{name}x{copy}" if copy else name
            image.save(folder / "JPEGImages" / file.replace(name, own, 1))
            (folder / "Annotations" / f"{own}.xml").write_text(annotation(objects))
            ids.append(own)
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{name}\n" for name in ids))
    (folder / "ImageSets/Main/val.txt").write_text("a  1\nb.1 -1\n\n")
    return folder
