"""lpt/report/page.py: what is in the page, and how it behaves in a browser. All numbers here are made up for the test.

The tests in a browser need Chromium and its driver (Debian: chromium, chromium-driver); they are skipped without.
"""

from __future__ import annotations

import csv
import html
import json
import math
import random
import shutil
from pathlib import Path

import pytest

import lpt
from lpt.report.figure import Axis, Figure, Series
from lpt.report.interactive import plotly
from lpt.report.page import build, cell, numeric
from lpt.report.sections import found, read
from lpt.search.ranking import COLUMNS

LAYERS = [f"layer{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2)]
MODELS = ["ResNet-18", "MobileNetV2", "LSTM", "Transformer"]


def flips() -> list[Figure]:
    """Curves with and without hysteresis, of the whole and of each layer; one ends in zeros."""
    rng = random.Random(0)
    steps = list(range(0, 5000, 100))
    whole, layered = [], []
    for label, start, rate in (("log4", 0.2, 1), ("log4_hyst", 0.05, 4), ("int4", 0.1, 1), ("int4_hyst", 0.01, 9)):
        for choice in (None, *LAYERS):
            y = [start * math.exp(-rate * s / 5000) * rng.uniform(0.85, 1.15) for s in steps]
            if choice is None:
                y[-4:] = [0.0] * 4 if label == "int4_hyst" else y[-4:]
                whole.append(Series(label, steps, y, [0.8 * v for v in y], [1.2 * v for v in y]))
            else:
                layered.append(Series(label, steps, y, choice=choice))
    step, share = Axis("optimizer step"), Axis("flip frequency (share of weights a step)", log=True)
    return [Figure("flips", "Flip frequency <over> training", "lines", step, share, whole),
            Figure("flips_layers", "Flip frequency of a layer", "lines", step, share, layered)]  # fmt: skip


def accuracy() -> list[Figure]:
    rng = random.Random(1)
    bars = [Series(label, MODELS, y := [rng.uniform(60, 75) for _ in MODELS], [v - 1 for v in y], [v + 1 for v in y])
            for label in ("FP32", "FP134 + INT8", "FP134 + FP8")]  # fmt: skip
    cells = [Series(f"fp{n}", MODELS, [rng.uniform(1, 60) if n != 152 or m != "LSTM" else None for m in MODELS])
             for n in (125, 134, 143, 152)]  # fmt: skip
    degrees = Axis("angle (degrees)", log=True)
    return [Figure("accuracy", "Accuracy", "bars", Axis("model"), Axis("accuracy (%)"), bars),
            Figure("angles", "Angle of a format", "heatmap", Axis("model"), degrees, cells)]  # fmt: skip


def result(folder: Path, figures: list[Figure], **entries: object) -> Path:
    folder.mkdir(parents=True)
    rows = [["ResNet-18", "fp32", "71.2 ± 0.3", None], ["MobileNetV2", "log4_hyst", 68.123456, "+0.2 [-0.1, 0.5]"]]
    whole = {
        "name": "flips", "size": "smoke", "title": "Made-up numbers: how often weights change",
        "rebuilds": "The figure of the weight-change frequency.", "claim": "Hysteresis lowers it strongly.",
        "command": "python scripts/reproduce.py flips size=smoke", "data": ["digits (stand-in for ImageNet)"],
        "runs": ["outputs/a", "outputs/b"], "git_commit": "0123abc", "versions": {"torch": "2.11"},
        "hardware": "2 CPU threads", "wall_seconds": 431.0, "notes": ["A note: 3 < 4 & 5 > 4."],
        "tables": [{"title": "Last values", "columns": ["model", "weights", "accuracy", "paper"], "rows": rows * 9}],
        "figures": [figure.to_dict() for figure in figures],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps({**whole, **entries}))
    return folder


def search(folder: Path) -> Path:
    """A ranking of all formats of 8, 7 and 6 bits, with made-up angles."""
    folder.mkdir(parents=True)
    rng = random.Random(2)
    formats = [f for bits in (8, 7, 6) for f in lpt.formats.family(bits)]
    with (folder / "ranking.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for rank, format in enumerate(formats, 1):
            angles = {k: rng.uniform(1, 60) for k in ("error", "activation", "both")}
            writer.writerow({
                "rank": rank, "name": format.name, "valid_bits": ",".join(map(str, format.valid_bits)),
                "bits": format.bits, "octaves": len(format.octaves), **angles, **{f"{k}_se": 0.1 for k in angles},
                "batches": 10, "top": rank <= 10, "cost": rng.uniform(500, 2000), "pareto": rank == 1,
            })  # fmt: skip
    (folder / "ranking.txt").write_text("angle: made up\nrounding: none\n\nrank name\n")
    (folder / "summary.json").write_text(
        json.dumps({"versions": "python 3.11, torch 2.11", "title": "made-up network"})
    )
    return folder


def page(folder: Path) -> Path:
    """A page of three sections."""
    out = folder / "report" / "index.html"
    result(folder / "reproduce" / "flips-smoke", flips())
    result(folder / "reproduce" / "table_8bit-small", accuracy(), name="table_8bit", size="small", git_commit="ffff",
           title="Made-up numbers: training with 8 bits")  # fmt: skip
    search(folder / "search-made-up")
    assert build(found(folder), out) == []
    return out


def body(path: Path) -> str:
    """The page without the library and the figures."""
    return path.read_text(encoding="utf-8").partition('<script type="application/octet-stream"')[0]


def test_what_a_section_shows(tmp_path):
    text = body(page(tmp_path))
    for shown in ("Made-up numbers: how often weights change", "The figure of the weight-change frequency.",
                  "Hysteresis lowers it strongly.", "python scripts/reproduce.py flips size=smoke", "0123abc",
                  "7.2 min", "digits (stand-in for ImageNet)", "2 CPU threads", "torch 2.11", "not available", "68.12",
                  "Search: made-up network", "angle: made up", "2 different versions of the code"):  # fmt: skip
        assert shown in text, shown
    assert text.count("Smoke run.") == text.count("Reduced run.") == 1
    for anchor in ("flips-smoke", "table_8bit-small"):
        assert f'href="#{anchor}"' in text and f'id="{anchor}"' in text


def test_the_page_asks_for_no_other_file(tmp_path):
    text = body(page(tmp_path))
    assert "src=" not in text and "@import" not in text and "url(" not in text and "http" not in text


def test_everything_from_files_is_escaped(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    series = [Series(evil, [1, 2], [1, 2], text=[evil, evil], choice=evil)]
    table = {"title": evil, "columns": [evil], "rows": [[evil]]}
    result(tmp_path / "r", [Figure(evil, evil, "lines", Axis(evil), Axis(evil), series)], name=evil, title=evil,
           size=evil, claim=evil, command=evil, data=[evil], runs=[evil], git_commit=evil, versions={evil: evil},
           hardware=evil, notes=[evil], rebuilds=evil, tables=[table])  # fmt: skip
    result(tmp_path / evil.replace("/", ""), [], tables=[evil])
    warnings = build([tmp_path / "r", tmp_path / evil.replace("/", "")], tmp_path / "index.html")
    assert len(warnings) == 1
    text = (tmp_path / "index.html").read_text()
    assert "<img" not in text and html.escape(evil) in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[1]", "not that of a reproduction"),
        ('{"name": "x"}', "no name and title"),
        ('{"name": "x", "title": "t", "notes": "all in one"}', "notes in result.json is a str, not a list"),
    ],
)
def test_a_broken_result_is_one_line_and_the_others_are_shown(tmp_path, text, message):
    result(tmp_path / "reproduce" / "good", flips())
    bad = tmp_path / "reproduce" / "bad"
    bad.mkdir()
    (bad / "result.json").write_text(text)
    (warning,) = build(found(tmp_path), tmp_path / "index.html")
    assert str(bad) in warning and message in warning and "\n" not in warning
    shown = body(tmp_path / "index.html")
    assert html.escape(warning) in shown and "how often weights change" in shown


def test_a_broken_part_is_left_out_and_told(tmp_path):
    figure = {**flips()[0].to_dict(), "kind": "pie", "title": "Pie"}
    table = {"title": "Short", "columns": ["a", "b"], "rows": [[1]]}
    folder = result(tmp_path / "r", [], tables=[table])
    whole = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**whole, "figures": [figure, flips()[1].to_dict()]}))
    section = read(folder)
    assert [f.file for f in section.figures] == ["flips_layers"] and section.tables == []
    assert [w.split(": ", 1)[1].split(" (")[1].split(")")[0] for w in section.warnings] == ["Short", "Pie"]


@pytest.mark.parametrize("y", [[math.inf, 1.0], [math.nan, 1.0], ["x", "y"], [[1], {}], [True, None], [1e308, -1e308]])
@pytest.mark.parametrize("kind", ["lines", "bars", "heatmap", "dots", "scatter"])
def test_odd_values_of_a_figure_are_left_out_or_told(tmp_path, kind, y):
    figure = {"file": "f", "title": "T", "kind": kind, "x": {"label": "x"}, "y": {"label": "y", "log": True},
              "series": [{"label": "a", "x": ["p", "q"], "y": y, "low": y, "high": y}]}  # fmt: skip
    folder = result(tmp_path / "r", [])
    whole = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**whole, "figures": [figure]}))
    warnings = build([folder], tmp_path / "index.html")
    assert warnings == [] or "the figure T is left out" in warnings[0]
    assert "how often weights change" in body(tmp_path / "index.html")


def test_a_folder_of_something_else_is_told(tmp_path):
    (warning,) = build([tmp_path], tmp_path / "index.html")
    assert "neither result.json nor ranking.csv" in warning
    assert "There is no result to show yet" in body(tmp_path / "index.html")


def test_cells():
    assert [cell(v) for v in (None, math.nan, "", 1.23456, 12, True, "a < b")] == [
        "not available", "not available", "", "1.235", "12", "yes", "a < b"]  # fmt: skip
    rows = [["fp134", 1, "71.2 ± 0.3", "+0.2 [-0.1, 0.5]", "8 bits", None], ["1", 2.5, None, "-1", "", None]]
    assert numeric(rows) == [False, True, True, True, False, False]


def test_traces_keep_the_values_and_the_choices():
    plot = plotly(flips()[1])
    assert plot["choices"] == LAYERS and len(plot["data"]) == 4 * len(LAYERS)
    assert [t["meta"]["choice"] for t in plot["data"] if t["visible"]] == [LAYERS[0]] * 4
    whole = flips()[0]
    line = plotly(whole)["data"][-1]
    assert line["name"] == "int4_hyst" and line["customdata"][-1][0] == "0"  # hovering tells the zero,
    assert line["y"][-1] == whole.floor("y") > 0  # which a logarithmic axis cannot show


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the test tools")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1300,950", "--force-prefers-color-scheme=light"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(30)
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """The page in the browser, every figure drawn."""
    path = page(tmp_path_factory.mktemp("page"))
    browser.get(path.as_uri())
    drawn(browser)
    return browser


def drawn(browser) -> None:
    """Scroll past every figure and wait until it is drawn."""
    browser.execute_async_script("""
        const done = arguments[0];
        (async () => {
            for (const figure of document.querySelectorAll("figure")) {
                figure.scrollIntoView();
                while (!figure.querySelector(".legend, .cbaxis")) await new Promise(requestAnimationFrame);
            }
            done();
        })();""")


def plot(browser, title: str):
    (figure,) = [f for f in browser.find_elements("css selector", "figure") if title in f.text]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    return figure


def shown(browser, figure) -> list[str]:
    """The curves that are drawn: the attribute d of their paths."""
    return browser.execute_script(
        "return [...arguments[0].querySelectorAll('.scatterlayer .js-line')].map(path => path.getAttribute('d'))",
        figure,
    )


def test_it_loads_without_errors_and_without_the_network(opened):
    assert opened.title == "Low-precision training: results"
    assert len(opened.find_elements("css selector", "figure")) == 7
    # Plotly warns of nothing here either.
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file://", "data:", "blob:")) for url in asked)


def test_no_button_sends_the_data_away(opened):
    buttons = {b.get_attribute("data-title") for b in opened.find_elements("css selector", ".modebar-btn")}
    assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


def test_hovering_over_the_formats_tells_which_it_is(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    figure = plot(opened, "Angle and dynamic range")
    points = figure.find_elements("css selector", ".scatterlayer .trace:first-child .points path")
    assert len(points) == 166
    ActionChains(opened).move_to_element(points[80]).perform()
    label = WebDriverWait(opened, 10).until(lambda _: figure.find_elements("css selector", ".hoverlayer .hovertext"))[0]
    assert "rank " in label.text and "8 bits" in label.text and "error " in label.text


def test_the_drop_down_changes_the_curves_and_keeps_what_is_hidden(opened):
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait

    figure = plot(opened, "Flip frequency of a layer")
    before = shown(opened, figure)
    select = Select(figure.find_element("name", "choice"))
    assert [option.text for option in select.options] == LAYERS
    select.select_by_visible_text(LAYERS[3])
    after = shown(opened, figure)
    assert len(before) == len(after) == 4 and not set(before) & set(after)
    figure.find_element("css selector", ".legendtoggle").click()
    WebDriverWait(opened, 10).until(lambda _: len(shown(opened, figure)) == 3)
    select.select_by_visible_text(LAYERS[0])
    visible = """
        const traces = arguments[0].querySelector(".plot")._fullData.filter(trace => trace.visible === true);
        return traces.map(trace => [trace.name, trace.meta.choice]);"""
    there = opened.execute_script(visible, figure)
    assert there == [[name, LAYERS[0]] for name in ("log4_hyst", "int4", "int4_hyst")]
    assert len(shown(opened, figure)) == 3


def test_toggles(opened):
    figure = plot(opened, "Flip frequency <over> training")
    axis = "return arguments[0].querySelector('.plot')._fullLayout.yaxis.type"
    fills = "return arguments[0].querySelectorAll('.scatterlayer .js-fill').length"
    assert opened.execute_script(axis, figure) == "log" and opened.execute_script(fills, figure) == 4
    figure.find_element("name", "log").click()
    figure.find_element("name", "spread").click()
    assert opened.execute_script(axis, figure) == "linear" and opened.execute_script(fills, figure) == 0
    assert "Zeros lie on the dotted line" in figure.text


def test_dark(opened):
    colours = """
        const plot = document.querySelector(".plot");
        return [getComputedStyle(document.body).backgroundColor, plot.querySelector(".xtick text").style.fill,
                plot.layout.xaxis.gridcolor];"""
    light = opened.execute_script(colours)
    button = opened.find_element("id", "theme")
    button.click()
    dark = opened.execute_script(colours)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    button.click()
    assert opened.execute_script(colours) == light


def test_it_is_dark_where_the_system_is(opened):
    background = "return getComputedStyle(document.body).backgroundColor"
    opened.execute_script("localStorage.clear()")
    for scheme, expected in (("dark", "rgb(21, 24, 28)"), ("light", "rgb(255, 255, 255)")):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        opened.refresh()
        drawn(opened)
        assert opened.execute_script(background) == expected


def test_on_a_narrow_screen_nothing_hangs_over(opened):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened.refresh()
    drawn(opened)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_command_is_copied(opened):
    opened.refresh()
    button = opened.find_element("css selector", ".copy")
    button.click()
    opened.execute_async_script("setTimeout(arguments[0], 300)")
    assert button.text == "copied"
