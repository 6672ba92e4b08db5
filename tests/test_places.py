"""Files, folders, names and words as people have them."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from PIL import Image
from running import ROOT, TINY, main, run_folder
from torch import nn

from lpt import data
from lpt.callbacks.loggers import wandb
from lpt.data.lines import TextFolder
from lpt.data.pixels import rgb, size_of
from lpt.errors import UserError
from lpt.places import place
from lpt.runs import saved
from lpt.runs.folder import LATER, run_name
from lpt.runs.messages import as_override, quoted, readable

SHORT = (*TINY, "trainer.max_steps=1", "indicators=none")

# -- home folders ----------------------------------------------------------------------------------------------------

TAKE_PATHS: dict[str, Callable[[str], Any]] = {
    "cifar10": lambda path: data.downloads("cifar10", path),
    "imagefolder": lambda path: data.folder(path, in_memory=True),
    "npz": lambda path: data.npz(path),
    "text": lambda path: data.text(path=path),
    "parallel": lambda path: data.parallel(path=path),
    "iwslt14": lambda path: data.iwslt14(path),
    "voc": lambda path: data.voc(path),
    "cache": lambda path: data.pydoc(cache=path),
    "init_from": lambda path: saved.find(path),
}


@pytest.mark.parametrize("kind", TAKE_PATHS)
def test_every_path_may_begin_with_a_home_folder(kind: str) -> None:
    with pytest.raises(UserError, match="no such home folder"):
        TAKE_PATHS[kind]("~nobody-of-this-name/here")


@pytest.mark.parametrize("value", [2024, 1.5, True, ["a"], ""])
def test_what_is_no_text_is_no_path(value: Any) -> None:
    with pytest.raises(UserError, match=r"data.path=.*'data.path=\".*in quotes|in quotes: 'data.path="):
        place(value, "data.path")


def test_runs_and_sweeps_go_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(*SHORT, 'paths.outputs="~/a"') == 0
    run = run_folder(tmp_path / "home" / "a")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert main("-m", *SHORT, 'paths.outputs="~/b ü=1"', "weights=fp32", f'init_from="~/a/{run.name}"') == 0
    assert run_folder(tmp_path / "home" / "b ü=1")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# -- words of the command line ---------------------------------------------------------------------------------------


def suggested(error: BaseException) -> str:
    """What the message says one should write, as the shell passes it on."""
    (word, *_) = shlex.split(readable(error).partition("write ")[2])
    return word


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1))
def test_what_hydra_cannot_read_is_told_in_quotes_that_it_can(value: str) -> None:
    """(The value in the message is the one that was given, or a list of its texts.)"""
    parser = OverridesParser.create()
    assert parser.parse_overrides([f"a={quoted(value)}"])[0].value() == value
    try:
        parser.parse_overrides([f"a={value}"])
    except HydraException as error:
        assert "hydra.cc" not in readable(error) and "Lexer" not in readable(error)
        (again,) = parser.parse_overrides([suggested(error)])
        assert again.value() == value or (isinstance(again.value(), list) and value.startswith("["))


@pytest.mark.parametrize(
    "value", ["runs/epoch=3-step=100.ckpt", "~/runs", "Läufe", "运行", "a(1)", "{a}", "x'y", "a,b"]
)
def test_values_as_people_have_them(value: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(*SHORT, f"init_from={value}") == 2
    err = capfd.readouterr().err
    assert shlex.quote(f'init_from="{value}"') in err or f"""'init_from="{value}"'""" in err or "x'\\''y" in err
    assert main(*SHORT, f'init_from="{value}"') == 2
    assert f"no checkpoint at {Path(value).expanduser()}" in capfd.readouterr().err


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0")))
def test_overrides_that_we_write_are_read_back(value: str) -> None:
    (read,) = OverridesParser.create().parse_overrides([as_override("a", value)])
    assert read.value() == value


def test_tables_take_folders_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpt.reproductions.command import Asked

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ü = {1}").mkdir()
    asked = Asked(["size=paper", "ptb=~/ü = {1}", f"outputs={tmp_path}/Läufe=1", "only.models=LSTM", "seeds=1"])
    words = asked.runs(asked.plan("table_8bit"))[0].overrides
    read = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(list(words))}
    assert read["data.path"] == str(tmp_path / "ü = {1}") and read["paths.outputs"] == f"{tmp_path}/Läufe=1/runs"
    assert as_override("data.path", "data/ptb") == "data.path=data/ptb"  # what needs no quotes has none


# -- text ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufeff\r")), st.sampled_from(["", ".gz"]))
def test_byte_order_marks_are_no_text(tmp_path_factory: pytest.TempPathFactory, text: str, ending: str) -> None:
    folder = tmp_path_factory.mktemp("text")
    opened: Callable[..., Any] = gzip.open if ending else open
    marks = {b"": "utf-8", codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    found = []
    for mark, encoding in marks.items():
        with opened(folder / f"a{ending}", "wb") as file:
            file.write(mark + text.encode(encoding))
        found.append(TextFolder(str(folder), "a folder").lines("a"))
    assert found == [found[0]] * 4


def test_lists_and_annotations_may_have_marks(tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    xml = f'<?xml version="1.0"?><annotation><object><name>ü</name>{box}</object></annotation>'
    (tmp_path / "Annotations" / "é1.xml").write_text(xml, encoding="utf-8-sig")
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "é1.png")
    for part, encoding in (("train", "utf-8-sig"), ("val", "utf-16")):
        (tmp_path / "ImageSets/Main" / f"{part}.txt").write_text("é1\n", encoding=encoding)
    assert data.voc(str(tmp_path)).classes == ("ü",)
    (tmp_path / "ImageSets/Main" / "val.txt").write_bytes("é1".encode("latin-1"))
    with pytest.raises(UserError, match=r"val.txt cannot be read as UTF-8"):
        data.voc(str(tmp_path))


# -- images ----------------------------------------------------------------------------------------------------------

GREY = np.array([[0, 255, 256, 4_000], [32_768, 60_000, 65_279, 65_535]], np.uint16)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "b.tif", "a.ppm"])
def test_16_bits_become_the_upper_8(tmp_path: Path, name: str) -> None:
    if name == "a.ppm":
        (tmp_path / name).write_bytes(b"P5 4 2 65535\n" + GREY.astype(">u2").tobytes())
    else:
        image = Image.fromarray(GREY.astype("<u2"))
        image.save(tmp_path / name, **({"compression": "tiff_lzw"} if name == "b.tif" else {}))
    pixels = np.asarray(rgb(tmp_path / name))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.repeat((GREY >> 8)[..., None], 3, 2))
    assert size_of(tmp_path / name) == (4, 2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_8_bits_stay_as_pillow_has_them(tmp_path: Path, mode: str) -> None:
    image = Image.effect_noise((16, 16), 90).convert("RGB").convert(mode)
    image.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as again:
        assert np.array_equal(np.asarray(rgb(tmp_path / "a.tif")), np.asarray(again.convert("RGB")))


REFUSED: dict[str, Callable[[Path], None]] = {
    "floating-point": lambda path: Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(path),
    "signed or 32-bit": lambda path: Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(path),
    "cannot be decoded": lambda path: path.write_bytes(b"II*\0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_certain_black_and_white_is_refused(tmp_path: Path, what: str) -> None:
    for part in ("train", "val"):
        for kind in ("a", "b"):
            (tmp_path / part / kind).mkdir(parents=True)
            REFUSED[what](tmp_path / part / kind / "1.tif")
    for read in (rgb, size_of, data.detection.decoded):
        with pytest.raises(UserError, match=rf"1.tif.*{what}|{what}.*1.tif"):
            read(tmp_path / "val" / "b" / "1.tif")
    with pytest.raises(UserError, match=what):
        data.folder(str(tmp_path), size=2, resize=2, in_memory=True)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))


PARTS = st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "net.", "backbone.encoder."]), max_size=3)


@settings(max_examples=40, deadline=None)
@given(PARTS, st.sampled_from([None, "model", "state_dict", "model_state_dict"]))
def test_prefixes_that_all_names_share_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], under: str | None
) -> None:
    source, model = network(), network()
    with torch.no_grad():
        source[1].weight.add_(1)
    state = {"".join(parts) + key: value for key, value in source.state_dict().items()}
    path = tmp_path_factory.mktemp("saved") / "epoch=3 ü.pt"
    torch.save({under: state, "epoch": 3} if under else state, path)
    saved.load(model, path)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_was_left_out_is_told_and_other_models_are_refused_by_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({f"module.{key}": value for key, value in network().state_dict().items()}, tmp_path / "a.pt")
    saved.load(network(), tmp_path / "a.pt")
    assert "a.pt: all names begin with module., which is left out" in capfd.readouterr().err
    compiled = network()
    torch.save({key.replace("0.0", "0._orig_mod.0"): v for key, v in compiled.state_dict().items()}, tmp_path / "b.pt")
    saved.load(network(), tmp_path / "b.pt")
    with pytest.raises(
        UserError, match=r"it lacks weight; it has module.0.0.bias.*; all its names begin with module\."
    ):
        saved.load(nn.Linear(3, 4, bias=False), tmp_path / "a.pt")
    some = dict(list(network().state_dict().items())[1:])
    torch.save({f"module.{key}": value for key, value in some.items()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"1 entries differ \(it lacks 0.0.weight\)"):
        saved.load(network(), tmp_path / "c.pt")
    assert saved.shared_prefix(["a.b.c", "a.b.d.e", "a.bc.f"]) == "a." and saved.shared_prefix([]) == ""


# -- names, terminals, W&B -------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=4))
def test_names_fit_a_file_system_and_do_not_change_if_they_did(head: list[str]) -> None:
    config = {"data": {"path": "x"}, "seed": 0}
    name = run_name(config, head)
    assert len(os.fsencode(name)) <= 255 and name[-9:] == run_name(config, ["a"])[-9:]
    if len(name) < 255:
        assert name[:-9] == run_name(config, [*head])[:-9] and run_name(config, [*head, "b"]).startswith(name[:-9])


@pytest.mark.parametrize("key", LATER)
def test_keys_that_came_later_leave_the_names_of_runs_as_they_were(key: str) -> None:
    config = {"data": {"path": "x"}, "seed": 0}
    assert run_name({**config, key: None}, ["a"]) == run_name(config, ["a"])
    assert run_name({**config, key: "other"}, ["a"]) != run_name(config, ["a"])


def test_a_run_with_a_long_name_is_done(tmp_path: Path) -> None:
    value = f"[{','.join('7654321')},{','.join('1' * 120)}]"
    assert main(*SHORT, f"paths.outputs={tmp_path}", "format=custom", f"format.value={value}", "weights=fp32") == 0
    assert len(run_folder(tmp_path).name) == 255


def test_paths_too_long_are_a_mistake(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(*SHORT, f"paths.outputs={tmp_path}/{'x' * 300}") == 2
    assert "paths.outputs" in capfd.readouterr().err


def test_a_terminal_that_cannot_show_a_name_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = io.BytesIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert main(*SHORT, 'paths.outputs="ü运"') == 0
    assert b"\\xfc\\u8fd0/resnet8" in shown.getvalue() and (tmp_path / "ü运").is_dir()
    assert main(*SHORT, 'paths.outputs="ü运"') == 0  # it is finished, and shows its table
    monkeypatch.undo()


def test_a_reader_that_goes_away_does_not_fail_what_is_done() -> None:
    code = "from lpt.runs.terminal import say; say('x' * 100000)"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert writer.stdout and writer.stderr
    writer.stdout.close()
    assert writer.wait() == 0 and writer.stderr.read() == b""
    writer.stderr.close()


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without W&B's key."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_online_without_a_key_is_told_before_anything_is_written(
    nobody: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(*SHORT, "logger.mode=online", f"paths.outputs={nobody / 'out'}") == 2
    err = capfd.readouterr().err
    assert all(word in err for word in ("wandb login", "WANDB_API_KEY", "offline")) and "Traceback" not in err
    assert not (nobody / "out").exists()
    assert main(*SHORT, f"paths.outputs={nobody / 'out'}") == 0


def test_a_key_is_found_where_wandb_looks(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logger() -> Any:
        return wandb(nobody, {}, "a", mode="online", project="p", group=None, tags=[])

    with pytest.raises(UserError, match="needs a key"):
        logger()
    (nobody / ".netrc").write_text(f"machine api.wandb.ai login user password {'a' * 40}\n")
    assert logger() is not None
    (nobody / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "b" * 40)
    assert logger() is not None


def test_the_messages_of_other_faults_are_as_they_were() -> None:
    parser = OverridesParser.create()
    with pytest.raises(HydraException) as told:
        parser.parse_overrides(["format"])
    assert readable(told.value) == "format: write format=VALUE"
    assert io.StringIO().write(quoted('a\\"b\\')) and quoted('a\\"b\\') == '"a\\\\\\"b\\\\"'
