"""lpt/report/figure.py and drawing.py: figures as data and drawn; made-up numbers."""

import json
import math
import re

import numpy as np
import pytest

from lpt.report.drawing import PANELS, draw
from lpt.report.figure import KINDS, Axis, Figure, Series


def figure(kind="lines", series=None, log=False, **entries):
    columns = ["a", "b", "c"] if kind in ("bars", "heatmap") else [1, 2, 3]
    series = series or [Series("one", columns, [1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [1.5, 2.5, 4.0]),
                        Series("two", columns, [3.0, None, 1.0])]  # fmt: skip
    return Figure("stem", "Title of it", kind, Axis("the x"), Axis("the y", log), series, **entries)


def texts(path):
    """The texts of an SVG: matplotlib leaves each as a comment beside its glyphs."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_and_twice_the_same(kind, tmp_path):
    paths = draw(figure(kind), tmp_path / "first")
    assert [path.name for path in paths] == ["stem.png", "stem.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    for label in ("Title of it", "the x", "the y", "one", "two"):
        assert label in texts(paths[1])
    again = draw(figure(kind), tmp_path / "second")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_as_a_dict_it_is_json_and_comes_back():
    series = Series("one", np.arange(3), np.array([1.0, math.nan, math.inf]), text=["p", "q", "r"], choice="conv1")
    text = json.dumps(figure(series=[series]).to_dict(), allow_nan=False)
    back = Figure.of(json.loads(text))
    assert back.series[0] == Series("one", [0, 1, 2], [1.0, None, None], text=["p", "q", "r"], choice="conv1")
    assert back.to_dict() == json.loads(text)


def test_choices_become_panels_and_further_files(tmp_path):
    series = [Series(label, [1, 2], [1, i], choice=f"layer{i}") for i in range(PANELS + 1) for label in ("p", "q")]
    paths = draw(figure(series=series), tmp_path)
    assert [path.name for path in paths] == ["stem.png", "stem.svg", "stem-2.png", "stem-2.svg"]
    first, second = texts(paths[1]), texts(paths[3])
    assert [t for t in first if t.startswith("layer")] == [f"layer{i}" for i in range(PANELS)]
    assert f"layer{PANELS}" in second
    assert first.count("the x") == 4 and second.count("the x") == 1  # below the lowest panels
    assert first.count("p") == first.count("q") == 1


def test_zeros_of_a_logarithmic_axis_lie_on_a_line_of_their_own(tmp_path):
    one = figure(log=True, series=[Series("flips", [1, 2, 3], [0.02, 0.0, None])])
    floor = one.floor("y")
    assert 0 < floor < 0.01
    assert one.values(one.series[0], "y")[:2] == [0.02, floor] and math.isnan(one.values(one.series[0], "y")[2])
    assert "0" in texts(draw(one, tmp_path)[1])
    assert figure(log=True).floor("y") is None
    assert figure(series=one.series).floor("y") is None


def test_zeros_alone_on_a_logarithmic_axis_are_drawn_without_a_warning(tmp_path):
    shown = texts(draw(figure(log=True, series=[Series("flips", [1, 2, 3], [0.0, 0.0, None])]), tmp_path)[1])
    assert "0.00" in shown  # a linear scale then


def test_a_series_that_has_an_earlier_one_s_point_circles_and_names_it(tmp_path):
    series = [Series("8 bits", [1, 2], [3, 4]), Series("7 bits", [5], [6]), Series("FP134", [2], [4])]
    one = figure("scatter", [*series, Series("front", [1, 2], [3, 3], joined=True)])
    assert [one.circles(s) for s in one.series] == [False, False, True, False]
    drawn = draw(one, tmp_path)[1].read_text()
    at = {label: drawn.index(f"<!-- {label} -->") for label in ("8 bits", "7 bits", "FP134", "front")}
    assert at["FP134"] < drawn.index('id="legend_1"') < min(at[label] for label in ("8 bits", "7 bits", "front"))


def test_no_data_is_drawn_as_such(tmp_path):
    path = draw(Figure("stem", "t", "lines", Axis(), Axis(), []), tmp_path)[1]
    assert "no data" in texts(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"kind": "pie"}, "'pie'; valid: scatter, lines, bars, dots, heatmap"),
        ({"series": [Series("s", [1, 2], [1.0])]}, "'s': 1 values of y for 2 of x"),
        ({"series": [Series("s", [1, 2], [1.0, 2.0], text=["only"])]}, "1 values of text for 2 of x"),
        ({"series": [Series("s", [1], [1.0], low=[0.5])]}, "low and high belong together"),
    ],
)
def test_what_cannot_be_drawn_is_told(entries, message):
    with pytest.raises(ValueError, match=message):
        figure(**entries)


@pytest.mark.parametrize("entries", [{}, {"series": [{"name": "s"}]}, {"series": [], "x": {}, "y": {}, "odd": 1}])
def test_a_dict_that_is_no_figure_is_told(entries):
    with pytest.raises(ValueError, match="not the description of a figure"):
        Figure.of(entries)
