"""Lines of text files, packed or not, and vocabularies of subwords."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..places import place
from .places import text_of
from .sizes import read_text

_OPEN: dict[str, Callable[..., Any]] = {"": Path.open, ".xz": lzma.open, ".gz": gzip.open}
Item = TypeVar("Item")
SPECIAL = PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"  # the first three tokens of every vocabulary of subwords


class TextFolder:
    """A folder of text files.

    Args:
        path: the folder.
        layout: what it must hold and where that comes from, for messages.

    Raises:
        UserError: `path` is None.
    """

    def __init__(self, path: str | None, layout: str) -> None:
        if path is None:
            raise UserError(f"data.path is missing: give data.path=DIR, {layout}")
        self.path, self.layout = place(path, "data.path"), layout

    def lines(self, name: str) -> list[str]:
        """The lines of the file `name`, or of that file packed as .xz or .gz, without their ends and a byte-order mark.

        Raises:
            UserError: the file is missing, or is no UTF-8 text.
        """
        if Path(name).name != name or name == "..":
            raise UserError(f"{name!r} is a path: name a file in data.path={self.path} itself")
        for ending, opened in _OPEN.items():
            file = self.path / f"{name}{ending}"
            if file.is_file():
                try:
                    with opened(file, "rb") as handle:
                        text = text_of(read_text(file, handle))
                except UserError:
                    raise
                except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
                    raise UserError(f"{file} cannot be read as UTF-8 text ({error}); convert or fetch it") from error
                return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
        raise UserError(f"{self.path / name} is missing (also as .xz or .gz); data.path must be {self.layout}")


def held_out(items: Sequence[Item], every: int) -> tuple[list[Item], list[Item]]:
    """What is left for training, and every `every`-th of `items`, the first among them, for validation."""
    return [item for i, item in enumerate(items) if i % every], list(items[::every])


def bpe(texts: Sequence[str], size: int, cache: str | None = None) -> Any:
    """A byte-pair vocabulary of `size` tokens, trained on `texts` and kept in the folder `cache`.

    It works on bytes, so that every text can be written in it and nothing is unknown; decoding gives the text back.

    Args:
        cache: None means `lpt` in $XDG_CACHE_HOME, or in ~/.cache. A file's name is a hash of size and texts.

    Raises:
        UserError: a size that does not hold the 256 bytes and the special tokens; a damaged file.
    """
    least = 256 + len(SPECIAL)
    if size < least:
        raise UserError(f"data.vocabulary_size={size}: give at least {least}, for 256 bytes and {', '.join(SPECIAL)}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at every fork
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # needed here only

    folder = place(cache, "data.cache") if cache else home()
    key = hashlib.sha256("\n".join([str(size), *SPECIAL, *texts]).encode()).hexdigest()[:16]
    file = folder / f"bpe-{size}-{key}.json"
    if os.path.isfile(file):
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises a plain Exception
            raise UserError(f"{file} is damaged ({error}): delete it, it is made anew") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(tokenizer.to_str(), encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        print(f"the vocabulary is not kept: {folder} cannot be written ({error.strerror})", file=sys.stderr)
    return tokenizer


def home() -> Path:
    """`lpt` in the user's cache folder, or in a temporary one if there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lpt"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "lpt"
