"""A checksum within a checkpoint's file: what a disk, a cut or another file in its place made of it is noticed.

`torch.save` writes a zip archive. Its comment, the last bytes of the file, takes the SHA-256 of everything before; so
the file stays one that `torch.load` reads, and seal and content cannot be parted. The content says that there is a seal
(`SEALED`), so that a damaged seal is not taken for a file of an older version, which has none.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

SEALED = "lpt"  # the entry of a checkpoint that `entry` makes
_COMMENT = b"\nlpt checkpoint sha256 "  # and 64 digits behind it
_LENGTH = len(_COMMENT) + 64
_END = b"PK\x05\x06"  # how the last record of a zip archive begins; its last two bytes tell the length of the comment
_END_SIZE = 22


class Damaged(ValueError):
    """A file is not what was written; the message says what is wrong with it, without its name."""


def seal(path: Path) -> None:
    """Put the checksum into a file that `torch.save` has just written."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size - _END_SIZE)
        if not file.read(4) == _END:
            raise ValueError(f"{path} is no archive of torch.save without a comment")
        file.seek(size - 2)
        file.write(struct.pack("<H", _LENGTH))
        digest = _digest(file, size)
        file.seek(size)
        file.write(_COMMENT + digest)


def opened(path: Path) -> tuple[Any, bool]:
    """What the file holds, on the CPU, and whether a checksum has shown that this is what was written.

    Raises:
        Damaged: it is not, or it is no regular file, or none that `torch.load` reads with `weights_only=True`.
    """
    if why := no_file(path):
        raise Damaged(why)
    try:
        sealed = _verified(path)
        _check_size(path)
        import torch  # what only looks at folders does without

        content = torch.load(path, map_location="cpu", weights_only=True)
    except Damaged:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise Damaged(f"torch.load cannot read it ({type(error).__name__})") from error
    if isinstance(content, dict):
        if not sealed and SEALED in content:
            raise Damaged("its checksum is gone")
        if not sealed and "pytorch-lightning_version" in content and (odd := _odd_record(path)):
            raise Damaged(f"its part {odd} is not what was written")
    return content, sealed


def _check_size(path: Path) -> None:
    """Raise if the parts of an archive are more than its file: `torch.save` packs nothing, and shares nothing.

    Raises:
        Damaged: they are.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    unpacked = sum(part.file_size for part in parts)
    if unpacked > path.stat().st_size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise Damaged("its parts would unpack to more than the file holds, which torch.save never does")


def no_file(path: Path) -> str:
    """What is in the place of a file: a folder, a dangling link, ...; "" for a file, and where there is nothing."""
    if path.is_file() or not (path.exists() or path.is_symlink()):
        return "" if path.is_file() or path.parent.is_dir() else "its folder is not there"
    return "a dangling link is in its place" if not path.exists() else (
        "a folder is in its place" if path.is_dir() else "it is no regular file"
    )  # fmt: skip


def _verified(path: Path) -> bool:
    """Whether there is a checksum; it is right, then."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise Damaged("it is empty")
        file.seek(max(0, size - _LENGTH))
        comment = file.read()
        if len(comment) < _LENGTH or not comment.startswith(_COMMENT):
            return False
        if _digest(file, size - _LENGTH) != comment[len(_COMMENT) :]:
            raise Damaged("its checksum is not that of its content")
    return True


def _digest(file: BinaryIO, size: int) -> bytes:
    """The SHA-256 of the first `size` bytes, in hexadecimal digits."""
    file.seek(0)
    hashed = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        hashed.update(block)
        size -= len(block)
    return hashed.hexdigest().encode()


def _odd_record(path: Path) -> str | None:
    """A part of the archive that its own CRC-32 does not fit; older files have no other checksum."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError) as error:
        return str(error)
