"""Whatever text runs wrote: in a table, on the page, in a figure and in a terminal it is text, and nothing else."""

from __future__ import annotations

import csv
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from lpt.report import drawing, page
from lpt.report.figure import Axis, Figure, Series
from lpt.report.interactive import plotly
from lpt.report.languages import aligned, code, latex, markdown, to_csv
from lpt.report.plain import line
from lpt.report.sections import Table
from lpt.runs.folder import run_name
from lpt.runs.terminal import say

PIECES = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td>", "[a](javascript:alert(1))", "![a](b)",
    "[a]: b", "|", "\\", "\\|", "`", "``", "$", "$\\frac$", "%", "&", "&lt;", "#", "_", "{", "}", "\\input{x}", "[",
    "*", "~", "^", "=1+1", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "'", '"', ",", "\n", "\r", "\t", "\x00",
    "\x1b[2J", "\x07", "\x9b", "\u202e", "\u2028", "\udc80", "%{x}", "a", " ", "ä",
)  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=12)
cases = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def table(texts: list[str]) -> Table:
    a, b, c, d = texts
    return Table(a, [b, c], [[c, d], [d, 1.5], [a, None]])


tables = st.lists(hostile, min_size=4, max_size=4).map(table)


def cells(row: str) -> list[str]:
    """The cells of a row of Markdown, as it is read: a backslash takes the meaning of the sign behind it."""
    parts = re.findall(r"(?:\\[^\w\s]|[^|])*\|", row.removeprefix("| "))
    return [re.sub(r"\\([^\w\s])", r"\1", part[:-1].strip()) for part in parts]


@cases
@given(tables)
def test_markdown(made: Table) -> None:
    head, rule, *rows = markdown(made).split("\n")[:-1]
    assert rule == "|---|---|" and len(rows) == 3
    for row, wanted in zip([head, *rows], [made.columns, *made.rows], strict=True):
        assert not re.search(r"<[A-Za-z/!?]", row), "a tag"
        assert not re.search(r"(?<!\\)(?:\\\\)*\][(:\[]", row), "a link"
        assert line(row) == row
        read = [re.sub("&lt;", "<", cell).replace("&amp;", "&") for cell in cells(row)]
        texts = [line(cell).strip() if isinstance(cell, str) else cell for cell in wanted]
        assert [r for r, t in zip(read, texts, strict=True) if isinstance(t, str)] == [
            t for t in texts if isinstance(t, str)
        ]


@cases
@given(hostile)
def test_code_in_markdown(text: str) -> None:
    made = code(text)
    ticks = re.match("`+", made)
    assert ticks and made.endswith(ticks[0]) and line(made) == made
    assert ticks[0] not in made[len(ticks[0]) : -len(ticks[0])] or not text


@cases
@given(tables)
def test_latex(made: Table) -> None:
    text = latex(made, made.title, made.title)
    assert len(text.splitlines()) == 14 + bool(made.title)
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    known = (
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\$\\pm\$|\$\\dagger\$|\$[<>|]\$|\\[&%$#_{}]"
    )
    rows = [row.strip() for row in body.replace(r"\midrule", "").split("\n") if row.strip()]
    assert len(rows) == 4
    for row in rows:
        assert row.endswith(r"\\") and row[:1] not in ("[", "*")
        rest = re.sub(known, "", row[:-2])
        assert rest.count("&") == 1 and not re.search(r"[\\%$#_~^]", rest)
        assert not re.search(r"[{}]", re.sub(r"\{([\[*])\}", r"\1", rest))
    assert re.fullmatch(r"[\w.:+-]*", (re.search(r"\\label\{tab:(.*)\}", text) or [0, ""])[1], re.ASCII)


@cases
@given(tables)
@example(table(["=1+1", "-2", "+0.5 [a]", "@x"]))
def test_csv(made: Table) -> None:
    rows = list(csv.reader(to_csv(made).splitlines()))
    assert [len(row) for row in rows] == [2] * 4
    for row, wanted in zip(rows, [made.columns, *made.rows], strict=True):
        for cell, text in zip(row, wanted, strict=True):
            if isinstance(text, str):
                assert cell.removeprefix("'") == line(text).removeprefix("'")
                number = re.fullmatch(r"[-+]?[\d.,]*(e[-+]?\d+)?", cell, re.IGNORECASE)
                assert number or not cell.lstrip().startswith(("=", "+", "-", "@"))


@cases
@given(tables)
def test_a_terminal(made: Table) -> None:
    text = aligned(made)
    assert text.count("\n") == 5 and all(line(row) == row for row in text.split("\n"))


def test_what_is_said_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\nb\x07\ud800")
    assert capsys.readouterr().out == "a\\x1b[2J\nb\\x07\\ud800\n"


# -- figures -----------------------------------------------------------------------------------------------------------


def figure(kind: str, text: str) -> Figure:
    names = [text, text + "b"]
    series = [Series(t, names, [1.0, 2.0], [0.5, 1.0], [1.5, 3.0], names, choice=text) for t in names]
    return Figure("f", text, kind, Axis(text), Axis(text, log=True), series)


def texts(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [text for one in inner for text in texts(one)]


@cases
@given(st.sampled_from(["bars", "dots", "heatmap", "scatter", "lines"]), hostile)
def test_plotly_reads_no_html_but_ours(kind: str, text: str) -> None:
    plot = plotly(figure(kind, text))
    for trace in plot["data"]:
        trace["meta"] = trace["legendgroup"] = None  # for the page's own script
    for shown in texts([plot["data"], plot["layout"]]):
        assert not re.search(r"<(?!/?b>|br>|/?extra>)", shown), shown


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("kind", ["bars", "dots", "heatmap"])
def test_matplotlib_reads_no_mathematics(kind: str, tmp_path: Path) -> None:
    for text in ("$\\x$ a $", "$a_{$", "a\x00\x1b\nb", "\\$"):
        assert drawing.draw(figure(kind, text), tmp_path)
    drawing.sheet([figure("bars", "$\\x$")], tmp_path, "s", "$\\x$")


# -- the page ----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """What is a tag in a page, and its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The tags of a page of plain words and numbers, which have a class of their own."""
    folder = tmp_path_factory.mktemp("plain")
    return set().union(*(Tags(written(folder, list(t))).found for t in itertools.product("a0", repeat=4)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(hostile, min_size=4, max_size=4))
def test_the_page(texts: list[str], tmp_path: Path, plain: set[str]) -> None:
    assert Tags(written(tmp_path, texts)).found <= plain


def written(tmp_path: Path, texts: list[str]) -> str:
    """A page on which `texts` stand wherever a run's text can."""
    a, b, c, d = (text or "a" for text in texts)
    entries = {
        "name": a, "title": b, "size": c, "rebuilds": d, "claim": a, "finding": b, "command": c, "data": [d],
        "runs": [a, b], "git_commit": c, "versions": {d: a}, "hardware": b, "wall_seconds": 1.0, "notes": [c, d],
        "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in [table([a, b, c, d])]],
        "figures": [],
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(entries))
    page.build([tmp_path], tmp_path / "index.html")
    return (tmp_path / "index.html").read_text(encoding="utf-8")


@cases
@given(st.lists(hostile, max_size=4), hostile)
def test_the_name_of_a_run_is_one_of_a_file_and_of_wandb(head: list[str], variant: str) -> None:
    name = run_name({"data": {}, "variant": variant, "seed": 0}, head)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name) and len(name) <= 255
