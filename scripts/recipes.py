"""Write docs/recipes.md: every recipe of conf/recipe in one table, read from the yamls themselves.

`python scripts/recipes.py` takes no arguments.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lpt.dataflow.slots import SLOTS, Slot
from lpt.formats.names import NAMED
from lpt.runs.terminal import say

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "recipes.md"
HEAD = """# Recipes: whole schemes, one yaml each

`python train.py recipe=NAME` trains by another's scheme: an overlay that sets `format`, `products`, `weights` and
what else it needs, each key still the user's to change (`recipe=bm8 products.dgrad_e.rounding=nearest`). A yaml in
`conf/recipe` is a page to be checked against the source that it names: rules, what is not certain, what is left out,
what is not as in the original. `tests/recipes` recomputes a layer's three products and its next weight from the rules
alone.

Certainty: **A** code read; **B** paper's text or an independent implementation read; **C** memory or a secondary
source. Blocks run along what a product sums over, where they do not lie as the tensor does (tensor, sample, flat). A
format is element/block/scale/rule ([formats.md](formats.md)); rounding is to nearest even if nothing is said, hp the
unrounded tensor and q what the forward product used ([products.md](products.md)); W is on the grid of the weights.
Products are computed in float32 on rounded values; biases, norms and whatever is not named are in full precision.

This page is written by `python scripts/recipes.py`, and a test holds it true.
"""
WEIGHTS = ("granularity", "scaling", "master", "gradient", "momentum", "momentum_use", "skip")


def read(name: str) -> tuple[list[str], dict[str, Any]]:
    """The comment's lines and the nodes of a recipe."""
    path = CONF / "recipe" / f"{name}.yaml"
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    node: Any = OmegaConf.to_container(OmegaConf.load(path))
    return lines[1:], node


def group(node: dict[str, Any], name: str) -> dict[str, Any]:
    """A group's keys: of the file that the recipe chooses in it, and the recipe's own over them."""
    chosen = [d[f"override /{name}"] for d in node.get("defaults", []) if f"override /{name}" in d]
    path = CONF / name / f"{chosen[0] if chosen else 'none'}.yaml"
    own: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    return {**(own or {}), **node.get(name, {})}


def spelt(entry: Any) -> str:
    """A slot as its format in full and what else it asks for."""
    if entry is None:
        return "fp32"
    slot = Slot(**entry) if isinstance(entry, dict) and "element" not in entry else Slot(entry)
    text = str(slot)
    return text.replace(slot.grid.name, NAMED.get(slot.grid.name, slot.grid.name), 1)


def operands(node: dict[str, Any]) -> list[str]:
    """The cells of the six slots; one of the backward pass that reads another's tensor, or has its format, says so."""
    products = group(node, "products")
    entries = {slot: products.get(slot, products.get("value")) for slot in SLOTS}
    texts = {slot: spelt(entry) for slot, entry in entries.items()}
    if group(node, "weights").get("format", "fp32") != "fp32":
        texts |= {slot: "W" for slot in ("w", "dgrad_w") if texts[slot] == "fp32"}
    for slot, twin in {"dgrad_w": "w", "wgrad_x": "x", "wgrad_e": "dgrad_e"}.items():
        if texts[slot] == texts[twin] and texts[slot] not in ("fp32", "W"):
            texts[slot] = f"that of {twin}" if one_copy(entries[slot]) else f"as {twin}, its own axis"
    return [texts[slot] for slot in SLOTS]


def one_copy(entry: Any) -> bool:
    """Whether one rounded tensor serves two products: its blocks lie alike in both."""
    grid: Any = (Slot(**entry) if isinstance(entry, dict) and "element" not in entry else Slot(entry)).grid
    return grid.block is None or grid.lies != "" or (len(grid.block) == 2 and grid.block[0] == grid.block[1])


def rest(node: dict[str, Any]) -> str:
    """Layers left out, data flow, weights."""
    products, flow, weights = (group(node, name) for name in ("products", "format", "weights"))
    parts = [f"{key}: {products[key]}" for key in ("first", "last", "skip_first", "skip_last") if key in products]
    if "value" in flow and flow["value"] != "fp32":
        parts.append(f"A, E, G {flow['value']} {flow.get('scaling', 'tracked')}")
    parts += [f"{key} {flow[key]}" for key in ("gradient", "input", "last_error") if flow.get(key, "fp32") != "fp32"]
    if weights.get("format", "fp32") != "fp32":
        parts.append(f"W {weights['scheme']} {weights['format']}")
    parts += [f"{key} {weights[key]}" for key in WEIGHTS if key in weights]
    if "parametrization" in node:
        name, *settings = (str(v).rpartition(".")[2] if k == "_target_" else f"{k} {v}"
                           for k, v in node["parametrization"].items())  # fmt: skip
        parts.append(" ".join([f"W by {name}", *settings]))
    parts += [f"{d['override /averaging']} averaging" for d in node.get("defaults", []) if "override /averaging" in d]
    return "; ".join(parts) or "-"


def row(name: str) -> str:
    lines, node = read(name)
    certainty = re.search(r"[Cc]ertainty ([ABC])", " ".join(lines))
    source = re.split(r"\.? [Cc]ertainty |, beside |\. ", lines[0])[0].rstrip(".")
    cells = [f"`{name}`", *operands(node), rest(node), certainty[1] if certainty else "-", source]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    columns = ["recipe", *SLOTS, "layers, data flow, weights", "certainty", "what, and where from"]
    table = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    table += [row(path.stem) for path in sorted((CONF / "recipe").glob("*.yaml"))]
    return HEAD + "\n" + "\n".join(table) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        say(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    PAGE.write_text(page())
