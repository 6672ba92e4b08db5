"""docs/recipes.md says what the yamls say."""

import runpy

from running import ROOT

own = runpy.run_path(str(ROOT / "scripts" / "recipes.py"))


def test_the_page_is_that_of_the_yamls() -> None:
    assert own["PAGE"].read_text() == own["page"](), "run `python scripts/recipes.py`"


def test_one_copy_and_two() -> None:
    rows = {line.split("`")[1]: line.split(" | ") for line in own["page"]().splitlines() if line.startswith("| `")}
    assert rows["bm8"][4] == "that of w" and rows["mxfp8"][4] == "as w, its own axis" and rows["hbfp8"][2] == "W"
    assert rows["deepseek_fp8"][6] == "ocp_e4m3/128/fp32/pow2 of q" and rows["deepseek_fp8"][8] == "B"
