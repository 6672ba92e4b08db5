"""Files that somebody made to do harm: bombs, XML with entities, paths that leave their folder, secrets, scripts."""

import ast
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import running

from lpt.data import lines, sizes
from lpt.data.images import opened
from lpt.data.npz import npz
from lpt.data.voc import _annotation, _ids
from lpt.errors import UserError

LPT = running.ROOT / "lpt"
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotation><object><name>&y;</name></object></annotation>'
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><object><name>&x;</name></object></annotation>'
)


def test_an_npz_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((1000, 32, 32), np.uint8), labels=np.zeros(1000, int))
    assert (tmp_path / "train.npz").stat().st_size < 20_000
    monkeypatch.setattr(sizes, "memory", lambda: 10**6)
    with pytest.raises(UserError, match=r"unpacks to 1,\d+,\d+ bytes, and this machine has 1,000,000"):
        npz(str(tmp_path), held_out=10)


def test_an_npz_without_a_true_size_is_refused(tmp_path: Path) -> None:
    """The header says (2**40,) numbers, and there are four bytes of them."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"abcd"
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("images.npy", array)
        archive.writestr("labels.npy", array)
    with pytest.raises(UserError, match=r"train\.npz"):
        npz(str(tmp_path), held_out=1)


def test_an_image_of_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with (
        pytest.warns(match="decompression bomb"),
        pytest.raises(UserError, match="12000 x 12000 pixels"),
        opened(tmp_path / "bomb.png"),
    ):
        raise AssertionError("it was opened")


def test_text_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"a\n" * 10**6))
    monkeypatch.setattr(sizes, "TEXT", 10**6)
    monkeypatch.setattr(sizes, "CHUNK", 2**16)
    with pytest.raises(UserError, match=r"train\.de\.gz unpacks to more than 1,000,000 bytes"):
        lines.TextFolder(str(tmp_path), "").lines("train.de")


@pytest.mark.parametrize("text", [LAUGHS, OUTSIDE])
def test_annotations_declare_no_entities(tmp_path: Path, text: str) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match="a document type, which could declare entities"):
        _annotation(tmp_path, "a")


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/b", "..\\c", ".."])
def test_paths_in_lists_and_names_are_refused(tmp_path: Path, name: str) -> None:
    listed = tmp_path / "ImageSets" / "Main"
    listed.mkdir(parents=True)
    (listed / "train.txt").write_text(f"one\n{name}\n")
    with pytest.raises(UserError, match="which is a path"):
        _ids(tmp_path, "train")
    if "\\" not in name:
        with pytest.raises(UserError, match="is a path"):
            lines.TextFolder(str(tmp_path), "").lines(name)


def test_whatever_is_loaded_executes_nothing() -> None:
    """Every call of torch.load and numpy.load says so itself; what executes stands nowhere else."""
    needed = {
        "torch.load": ("weights_only", True),
        "np.load": ("allow_pickle", False),
        "numpy.load": ("allow_pickle", False),
    }
    forbidden = {"pickle.load", "joblib.load", "yaml.unsafe_load", "torch.hub.load", "shelve.open"}
    found = 0
    for path in LPT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in forbidden, f"{path}:{node.lineno}"
                if name in needed:
                    key, value = needed[name]
                    given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg == key}
                    assert given == {key: value}, f"{path}:{node.lineno}: {ast.unparse(node)}"
                    found += 1
                if name == "yaml.load":
                    assert "SafeLoader" in path.read_text(encoding="utf-8"), f"{path}:{node.lineno}"
                if name == "pickle.loads":
                    assert path.name == "compiling.py", f"{path}:{node.lineno}"
    assert found >= 4


def test_a_run_keeps_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = "d0n7keepth15" + "0" * 28
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, marker)
    assert running.train(tmp_path, "trainer.max_steps=2", "data.train_limit=32", "logger.mode=offline") == 0
    files = [path for path in running.run_folder(tmp_path).rglob("*") if path.is_file()]
    assert len(files) > 4
    assert [path for path in files if marker.encode() in path.read_bytes()] == []
