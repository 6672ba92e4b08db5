"""The table of a model's products: what each operand is rounded to, and how much of it was lost."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .multiplying import Multiplying
from .product import Product
from .slots import SLOTS

Shares = dict[str, dict[str, dict[str, float]]]  # module -> slot -> "saturation" and "underflow"
EQUATIONS = {"forward": "y = x w^T", "dgrad": "dx = e w", "wgrad": "dw = e^T x"}


def tabulated(
    model: nn.Module, rounding: Mapping[str, Multiplying], left_out: Mapping[str, str], shares: Shares
) -> str:
    """A row for each product, under the equations that its operands stand in; a row of shares below it."""
    names = ["module", "type", *SLOTS, "left out because"]
    rows = [names]
    for name, module in model.named_modules():
        if name in rounding:
            rows.append([name, type(module).__name__, *_cells(rounding[name].product), ""])
            if name in shares:
                rows.append(["", "", *(_lost(shares[name].get(slot)) for slot in SLOTS), ""])
        elif name in left_out:
            rows.append([name, type(module).__name__, *["-"] * len(SLOTS), left_out[name]])
    equations = [f"{product}: {equation}" for product, equation in EQUATIONS.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    for i, equation in enumerate(equations):  # above the two operands of each product
        widths[3 + 2 * i] = max(widths[3 + 2 * i], len(equation) - widths[2 + 2 * i] - 2)
    over = " " * (widths[0] + widths[1] + 4)
    over += "  ".join(e.ljust(widths[2 + 2 * i] + 2 + widths[3 + 2 * i]) for i, e in enumerate(equations))
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [*_agreed(rounding)]
    if shares:
        notes.append("below each product: % of the elements beyond the largest level / that became zero")
    return "\n".join([over.rstrip(), *lines, *notes])


def _cells(product: Product) -> list[str]:
    """What each slot asks for, its product's transform included; a slot that reads another's tensor names that."""
    cells = []
    for name, (slot, transform) in product.asked().items():
        text = "fp32" if slot is None else str(slot)
        text += f" {transform}" if transform is not None and (slot is None or slot.transform is None) else ""
        cells.append(f"{text} (that of {product.shared[name]})" if name in product.shared else text)
    return cells


def _lost(share: Mapping[str, float] | None) -> str:
    return "" if share is None else f"{100 * share['saturation']:.2g} / {100 * share['underflow']:.2g}"


def _agreed(rounding: Mapping[str, Multiplying]) -> list[str]:
    """What the words in the cells stand for, as far as they occur."""
    said = " ".join(str(slot) for m in rounding.values() for slot in m.product.slots.values())
    words = {
        "stochastic": "stochastic: rounded up or down with the chances of its place between two levels",
        "of q": "of q: rounded once more from what the forward product used",
        "of turned": "of turned: the same, its transform left as it is",
        "eden": "eden: to nearest, with stochastic scales that make up for it",
        "clip": "clip: no gradient passes where the operand saturates",
        "trust": "trust: no gradient passes where rounding moves the operand by more than half a step",
        " H": "H16 and the like: a Hadamard transform of both operands of that product before they are rounded",
    }
    return [text for word, text in words.items() if word in said]
