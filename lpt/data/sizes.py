"""How large a file of data may become when it is unpacked; and XML that cannot grow at all.

A few kilobytes unpack to terabytes where somebody means them to. What is allowed is generous: memory, not taste, is
the limit.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import UserError

PIXELS = 2**27  # of one image: 134 million, 400 MB as RGB
TEXT = 2**32  # bytes of one unpacked file of text
XML = 2**24  # bytes of one annotation
CHUNK = 2**24


def check_npz(file: Path) -> None:
    """Refuse an .npz that unpacks to more than there is memory.

    Raises:
        UserError: it does, or says of an array another size than it unpacks to.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > (limit := memory()):
        raise UserError(
            f"{file} unpacks to {total:,} bytes, and this machine has {limit:,} bytes of memory: use images in a "
            "folder (data=imagefolder), or a smaller file"
        )


def check_pixels(file: Path, width: int, height: int) -> None:
    """Refuse an image that is too large, by what its header says.

    Raises:
        UserError: it has more than `PIXELS` pixels.
    """
    if width * height > PIXELS:
        raise UserError(f"{file} is an image of {width} x {height} pixels, more than {PIXELS:,}: make it smaller")


def read_text(file: Path, handle: Any) -> bytes:
    """What the open file unpacks to.

    Raises:
        UserError: more than `TEXT` bytes.
    """
    parts, size = [], 0
    while part := handle.read(CHUNK):
        size += len(part)
        if size > TEXT:
            raise UserError(f"{file} unpacks to more than {TEXT:,} bytes: split it")
        parts.append(part)
    return b"".join(parts)


def parsed(file: Path) -> ElementTree.Element:
    """The root of an XML file that declares no entity and reads no other file.

    Raises:
        ValueError: it has a document type, in which entities are declared, or is larger than `XML` bytes.
        ElementTree.ParseError, OSError: it cannot be read.
    """
    if file.stat().st_size > XML:
        raise ValueError(f"larger than {XML:,} bytes")
    parser = ElementTree.XMLParser(target=_Plain())
    parser.feed(file.read_bytes())
    root: ElementTree.Element = parser.close()
    return root


class _Plain(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Expat tells it before it reads what is declared in there."""
        raise ValueError("a document type, which could declare entities: remove the lines of <!DOCTYPE ...>")


def memory() -> int:
    """Bytes of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return 2**36
