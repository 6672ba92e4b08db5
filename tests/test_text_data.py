"""Text on disk: layouts, vocabularies, columns, sentence pairs; what is missing, empty, unknown or too long."""

from __future__ import annotations

import gzip
import lzma
import math
from pathlib import Path

import pytest
import torch
from corpora import write_pairs, write_text

from lpt.data import Batches, PairData, iwslt14, number_names, parallel, pydoc, text
from lpt.data.lines import bpe
from lpt.data.loader import ByLength
from lpt.data.number_names import in_words
from lpt.data.text import Text
from lpt.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def words(folder: Path, *parts: str) -> list[list[str]]:
    data = text(path=str(folder))
    assert data.test is not None
    splits = {"train": data.train, "valid": data.val, "test": data.test}
    return [[data.vocabulary[i] for i in splits[part].tokens.tolist()] for part in parts]


# -- running text ------------------------------------------------------------------------------------------------------


def test_words_lines_and_unknown_words(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("b a\n\n a  b c\n")  # an empty line is one <eos>
    (tmp_path / "valid.txt").write_text("a new b\r\n")
    (tmp_path / "test.txt").write_text("c")
    data = text(path=str(tmp_path))
    assert data.vocabulary == ["b", "a", "<eos>", "c", "<unk>"]
    end = "<eos>"
    expected = [["b", "a", end, end, "a", "b", "c", end], ["a", "<unk>", "b", end], ["c", end]]
    assert words(tmp_path, "train", "valid", "test") == expected
    assert "1 tokens of val became <unk>" in data.source and data.model_arguments() == {"vocabulary": 5}


def test_unigram_perplexity(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a a\n")
    data = text(path=str(tmp_path))  # a 2, <eos> 1, <unk> 0, and one more of each: 3/6, 2/6, 1/6
    assert data.unigram_perplexity() == pytest.approx((3 / 6 * 3 / 6 * 2 / 6) ** (-1 / 3))


@pytest.mark.parametrize(("ending", "opened"), [(".xz", lzma.open), (".gz", gzip.open)])
def test_packed_files(tmp_path: Path, ending: str, opened: object) -> None:
    plain = words(write_text(tmp_path), "train", "valid", "test")
    for file in list(tmp_path.glob("*.txt")):
        with opened(f"{file}{ending}", "wt") as handle:  # type: ignore[operator]
            handle.write(file.read_text())
        file.unlink()
    assert words(tmp_path, "train", "valid", "test") == plain


def test_subwords_know_every_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "valid.txt").write_text("a dög\n\nsees 猫\n")
    data = text(path=str(tmp_path), tokens="bpe", vocabulary_size=280, cache=str(tmp_path / "cache"))
    tokenizer = bpe((tmp_path / "train.txt").read_text().splitlines(), 280, str(tmp_path / "cache"))
    assert len(data.vocabulary) == 280 and len(list((tmp_path / "cache").iterdir())) == 1
    ids = data.val.tokens.tolist()
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a dög<eos><eos>sees 猫<eos>"


def test_a_vocabulary_is_the_same_trained_again_or_cached(tmp_path: Path) -> None:
    lines = (write_text(tmp_path) / "train.txt").read_text().splitlines()
    files = [bpe(lines, 300, str(tmp_path / name)).to_str() for name in ("one", "two", "two")]
    assert files[0] == files[1] == files[2]
    assert bpe([*lines, "more"], 300, str(tmp_path / "one")) and len(list((tmp_path / "one").iterdir())) == 2
    (damaged,) = (tmp_path / "two").iterdir()
    damaged.write_text("{")
    with pytest.raises(UserError, match="delete it"):
        bpe(lines, 300, str(tmp_path / "two"))


def test_columns_read_on() -> None:
    tokens = torch.arange(23)
    columns = Text(tokens).columns(3, 2)  # 0..6, 7..13, 14..20
    loader = Batches(columns, 3)
    xs, ys = zip(*loader, strict=True)
    assert torch.equal(torch.cat(xs, 1), torch.tensor([[*range(6)], [*range(7, 13)], [*range(14, 20)]]))
    assert torch.equal(torch.cat(ys, 1), torch.cat(xs, 1) + 1)
    assert [x.shape[1] for x in xs] == [2, 2, 2] and len(loader) == 3
    last = list(Batches(Text(tokens).columns(2, 4), 2))  # 0..10: ten steps
    assert [x.shape[1] for x, _ in last] == [4, 4, 2]
    ranks = [list(Batches(Text(tokens).columns(4, 2), 2, rank=rank, world=2)) for rank in (0, 1)]
    assert [x[:, 0].tolist() for x, _ in ranks[0]] == [[0, 5], [2, 7]]
    assert [x[:, 0].tolist() for x, _ in ranks[1]] == [[10, 15], [12, 17]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"path": None}, "data.path is missing"),
        ({"path": "/nowhere"}, r"train\.txt is missing.*a folder with"),
        ({"path": "/nowhere", "name": "ptb", "train": "ptb.train.txt"}, r"ptb\.train\.txt is missing.*simple-examples"),
        ({"path": "/nowhere", "name": "wikitext2", "train": "wiki.train.tokens"}, r"wikitext-2-v1\.zip"),
        ({"tokens": "letters"}, "letters.*words, bpe"),
        ({"tokens": "bpe", "vocabulary_size": 100}, "at least 259"),
        ({"train_limit": 1}, "train_limit=1"),
        ({"train_limit": 10**9}, "train_limit=1000000000"),
    ],
    ids=str,
)
def test_text_refuses(tmp_path: Path, arguments: dict, says: str) -> None:
    write_text(tmp_path)
    with pytest.raises(UserError, match=says):
        text(**{"path": str(tmp_path), "cache": str(tmp_path), **arguments})


def test_files_that_are_no_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "valid.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"valid\.txt cannot be read as UTF-8"):
        text(path=str(tmp_path))
    (tmp_path / "valid.txt").unlink()
    (tmp_path / "valid.txt.xz").write_bytes(b"no xz")
    with pytest.raises(UserError, match=r"valid\.txt\.xz cannot be read"):
        text(path=str(tmp_path))
    (tmp_path / "valid.txt.xz").write_bytes(lzma.compress(b""))
    with pytest.raises(UserError, match="at least two"):
        text(path=str(tmp_path))
    with pytest.raises(UserError, match="too short for 200 columns"):
        Text(torch.arange(300)).columns(200, 5)


# -- sentence pairs ----------------------------------------------------------------------------------------------------


def pairs(folder: Path, **more: object) -> PairData:
    given = {"path": str(folder), "vocabulary_size": 300, "cache": str(folder / "cache"), **more}
    return parallel(**given)  # type: ignore[arg-type]


def test_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    data = pairs(write_pairs(tmp_path))
    source, target, index = data.val.batch(torch.tensor([3, 1, 7]), None)
    english, german = ((tmp_path / f"val.{language}").read_text().splitlines() for language in ("en", "de"))
    assert data.tokenizer.decode_batch(source.tolist()) == [german[i] for i in index]
    assert data.tokenizer.decode_batch(target.tolist()) == [english[i] for i in index]
    assert list(data.val.texts) == english and index.tolist() == [3, 1, 7]
    pad, begin, end = 0, 1, 2
    assert data.model_arguments() == {"vocabulary": 300, "pad": pad}
    for row in target.tolist():
        inside = row[1 : row.index(end)]
        assert row[0] == begin and set(row[row.index(end) + 1 :]) <= {pad} and not {pad, begin} & set(inside)
    assert all(row.count(end) == 1 and begin not in row for row in source.tolist())


def test_empty_and_long_pairs(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    for part, (german, english) in {
        "train": ("\nhund\nsehr " + "lang " * 60, "dog\n\nlong"),
        "val": ("\n", "dog\n"),
    }.items():
        for language, lines in (("de", german), ("en", english)):
            with (tmp_path / f"{part}.{language}").open("a") as file:
                file.write(lines)
    data = pairs(tmp_path, longest=40)
    assert len(data.train) == 80 and "2 pairs with an empty side, 1 longer than 40 tokens" in data.source
    assert len(data.val) == 13  # held-out pairs stay, an empty source is its end alone
    source, _, _ = data.val.batch(torch.tensor([12]), None)
    assert source.tolist() == [[2]] and data.val.texts[12] == "dog"
    assert len(pairs(tmp_path, train_limit=7).train) == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"path": None}, "data.path is missing"),
        ({"path": "/nowhere"}, r"train\.de is missing.*train\.de, train\.en, val\.de, val\.en"),
        ({"source": "fr"}, r"train\.fr is missing"),
        ({"test": "test"}, r"test\.de is missing"),
        ({"longest": 2}, "longest=2"),
        ({"longest": 3}, "no training pair"),
        ({"train_limit": 0}, "train_limit=0"),
        ({"train_limit": 2.5}, "train_limit=2.5"),
    ],
    ids=str,
)
def test_pairs_refuse(tmp_path: Path, arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        pairs(write_pairs(tmp_path), **arguments)


def test_sides_of_different_lengths(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with (tmp_path / "val.en").open("a") as file:
        file.write("one more\n")
    with pytest.raises(UserError, match="12 lines against 13"):
        pairs(tmp_path)


def test_batches_of_like_length(tmp_path: Path) -> None:
    data = pairs(write_pairs(tmp_path))
    lengths = data.train.lengths
    loader = ByLength(data.train, 8, shuffle=True, seed=3, drop_last=True)
    batches = loader.indices(0)
    assert len(batches) == len(loader) == 10 and sorted(torch.cat(batches).tolist()) == list(range(80))
    spread = max(int(lengths[b].max() - lengths[b].min()) for b in batches)
    assert spread < int(lengths.max() - lengths.min()) / 2
    assert [b.tolist() for b in loader.indices(1)] != [b.tolist() for b in batches]
    assert [b.tolist() for b in ByLength(data.train, 8, True, 3, drop_last=True).indices(0)] == [
        b.tolist() for b in batches
    ]
    ordered = torch.cat(ByLength(data.train, 8).indices(0))
    assert lengths[ordered].diff().min() >= 0
    sizes = [b.tolist() for b in loader.indices(0)]
    halves = [ByLength(data.train, 4, True, 3, drop_last=True, rank=r, world=2).indices(0) for r in (0, 1)]
    assert [a.tolist() + b.tolist() for a, b in zip(*halves, strict=True)] == sizes


# -- IWSLT'14 ----------------------------------------------------------------------------------------------------------


def write_iwslt(folder: Path) -> Path:
    for language, title in (("de", "Titel"), ("en", "Title")):
        lines = [
            "<url>http://x</url>",
            "<keywords>talks, x</keywords>",
            "<speaker>Someone</speaker>",
            "<talkid>1</talkid>",
        ]
        lines += [f"<title>{title}</title>", f"<description>About ({language})</description>"]
        lines += [f" Satz {i} {language} . " for i in range(44)]
        (folder / f"train.tags.de-en.{language}").write_text("\n".join(lines) + "\n")
        for part in ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"):
            segments = f'<seg id="1"> {part} &amp; {language} </seg>\n<seg id="2">two</seg>'
            xml = f'<mteval>\n<doc docid="1">\n{segments}\n</doc>\n'
            (folder / f"IWSLT14.{part}.de-en.{language}.xml").write_text(xml)
    return folder


def test_iwslt_as_published(tmp_path: Path) -> None:
    data = iwslt14(path=str(write_iwslt(tmp_path)), vocabulary_size=300, cache=str(tmp_path / "cache"))
    assert list(data.val.texts) == ["Title", "Satz 21 en ."]  # of 46 pairs the first and the 24th
    assert len(data.train) == 44 and data.train.texts[:2] == ["About (en)", "Satz 0 en ."]
    assert data.test is not None and len(data.test) == 10
    assert list(data.test.texts[:3]) == ["TED.dev2010 & en", "two", "TEDX.dev2012 & en"]
    source, _, _ = data.train.batch(torch.tensor([1]), None)
    assert data.tokenizer.decode(source[0].tolist()) == "Satz 0 de ."


def test_iwslt_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is missing.*WIT3"):
        iwslt14()
    write_iwslt(tmp_path)
    (tmp_path / "IWSLT14.TED.tst2011.de-en.en.xml").unlink()
    with pytest.raises(UserError, match=r"tst2011\.de-en\.en\.xml is missing.*WIT3"):
        iwslt14(path=str(tmp_path), vocabulary_size=300, cache=str(tmp_path))


# -- the real thing ----------------------------------------------------------------------------------------------------


def shared(name: str) -> str:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not in ../shared/data")
    return str(SHARED / name)


def test_penn_treebank_has_its_published_counts() -> None:
    data = text("ptb", shared("ptb"), "ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [929_589, 73_760, 82_430]
    assert len(data.vocabulary) == 10_000 and "became <unk>" not in data.source
    assert 600 < data.unigram_perplexity() < 800 and math.isfinite(data.unigram_perplexity())


def test_wikitext2_has_its_published_counts() -> None:
    data = text("text", shared("wikitext2_valid_test"), "wiki.valid.txt", "wiki.test.txt", None)
    assert [len(data.train), len(data.val)] == [217_646, 245_569]


def test_multi30k_loads(tmp_path: Path) -> None:
    data = parallel(path=shared("multi30k"), test="test_2016_flickr", train_limit=500, cache=str(tmp_path))
    assert data.test is not None and [len(data.train), len(data.val), len(data.test)] == [500, 1014, 1000]
    decoded = data.tokenizer.decode_batch([target for _, target in data.val.tokens])
    assert decoded == list(data.val.texts)


def test_embedded_language_and_translation(tmp_path: Path) -> None:
    words = [(0, "zero"), (7, "seven"), (20, "twenty"), (42, "forty two"), (100, "one hundred"),
             (115, "one hundred fifteen"), (1042, "one thousand forty two"),
             (340_000, "three hundred forty thousand")]  # fmt: skip
    assert [in_words(n) for n, _ in words] == [name for _, name in words]
    pairs = number_names(pairs=50, val_pairs=10, vocabulary_size=270, cache=str(tmp_path))
    assert (len(pairs.train), len(pairs.val)) == (50, 10)
    with pytest.raises(UserError, match="together"):
        number_names(pairs=90, val_pairs=20, largest=99)
    helps = pydoc(vocabulary_size=300, cache=str(tmp_path))
    assert len(helps.train) > 5 * len(helps.val) > 0
    with pytest.raises(UserError, match="letters"):
        pydoc(tokens="letters")
