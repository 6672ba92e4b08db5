"""The command `scripts/synthesize.py`: formats in, `outputs/synthesis/` with Verilog and tables out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from ..hardware.figures import PARTS
from ..hardware.streams import KINDS, Stream, collect
from ..hardware.synthesis import Workshop
from ..hardware.unit import NoUnit, Unit
from ..places import place
from ..report.languages import markdown, to_csv
from ..report.sections import Table
from .build import flag, told, whole
from .experiment import quiet
from .folder import replace
from .messages import top_level
from .terminal import say
from .trained import trained

# The keys of conf/synthesize.yaml that a training does not have.
OWN = ("formats", "accumulator", "ways", "fpga", "library", "tensors", "checkpoint", "batch_size", "trust")
LISTS = {"formats": "fp134", "accumulator": "exact", "ways": "1"}  # with an example of each
TIE = 0.02  # areas closer than this are not told apart: so much does the way a unit is written matter


def listed(words: Sequence[str]) -> list[str]:
    """Command-line words, `ways=1,16` made `ways=[1,16]` (which without -m could mean nothing else)."""
    if "-m" in words or "--multirun" in words:
        return list(words)
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        bare = equals and key in LISTS and not value.startswith(("[", "${"))
        found.append(f"{key}=[{value}]" if bare else word)
    return found


def synthesize(cfg: DictConfig, choices: dict[str, str]) -> str:
    """Do what `cfg` describes; returns the text that it prints.

    Raises:
        UserError: before anything is synthesized, if the configuration cannot be run.
    """
    quiet()
    known = top_level("config") + list(OWN)
    if odd := sorted(str(key) for key in cfg if key not in known):
        raise UserError(f"{odd[0]}: nothing reads this key. Valid here: {', '.join(known)}")
    fpga, tensors, resume = (flag(key, cfg[key]) for key in ("fpga", "tensors", "resume"))
    if cfg.batch_size is not None:
        whole("batch_size", cfg.batch_size, 1)
    units, absent = _units(cfg)
    folder = place(cfg.paths.outputs, "paths.outputs") / "synthesis"
    with told("synthesize"):
        workshop = Workshop(folder, cfg.library)
    streams, source = _streams(cfg, choices) if tensors else ([], "")
    key = _key(streams)
    found = []
    for number, unit in enumerate(units, 1):
        print(f"{number} of {len(units)}: {unit.name}", file=sys.stderr, flush=True)
        costs = workshop.costs(unit, fresh=not resume)
        found.append(costs | {
            "parts": workshop.parts(unit), "slices": workshop.slices(unit) if fpga else None,
            "work": workshop.at_work(unit, streams, key) if streams else {}, "verilog": workshop.verilog(unit).name,
        })  # fmt: skip
    tables = [area_table(units, found), *([work_table(units, found)] if streams else [])]
    notes = [
        f"{workshop.tool}; library {workshop.library.path.name}, hash {workshop.library.hash}",
        "gates: NAND2 equivalents, flip-flops included, mapped for area; delay: in FO4, by logical effort; parts are "
        "synthesized one by one, so that their sum is above the whole (a little; much, where a floating accumulator "
        "has more bits than it needs)",
        f"areas within {TIE:.0%} of each other are a tie",
        *([f"tensors: {source}"] if streams else []), *absent,
    ]  # fmt: skip
    text = "\n".join(f"## {table.title}\n\n{markdown(table)}" for table in tables) + "\n"
    text += "".join(f"- {note}\n" for note in notes)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    decides = {name: config[name] for name in OWN if name != "trust"} | {"tool": workshop.tool, "tensors": key}
    decides["library"] = workshop.library.hash  # (wherever the file lies)
    stem = folder / f"table-{hashlib.sha256(repr(decides).encode()).hexdigest()[:8]}"
    for index, table in enumerate(tables, 1):
        replace(stem.with_name(stem.name + (f"-{index}" if index > 1 else "") + ".csv"), to_csv(table))
    replace(stem.with_suffix(".md"), text)
    say(f"{text}\neverything: {folder}/ ({stem.name}.md, .csv; Verilog and figures of each unit)")
    return text


def _units(cfg: DictConfig) -> tuple[list[Unit], list[str]]:
    """Every unit that is asked for, and notes on those that there cannot be."""
    lists: dict[str, list[Any]] = {}
    for key, example in LISTS.items():
        value: Any = OmegaConf.to_container(cfg[key]) if OmegaConf.is_list(cfg[key]) else [cfg[key]]
        if not value or value == [None]:
            raise UserError(f"{key} is empty: give at least one, such as {key}=[{example}]")
        lists[key] = value
    units, absent = [], []
    for ways in lists["ways"]:
        for accumulator in lists["accumulator"]:
            for formats in lists["formats"]:
                try:
                    text = formats if isinstance(formats, str) else ",".join(map(str, formats))
                    units.append(Unit.read(text, accumulator, ways))
                except NoUnit as error:
                    absent.append(f"no unit: {error}")
    if not units:
        raise UserError("; ".join(absent))
    return list(dict.fromkeys(units)), absent


def _streams(cfg: DictConfig, choices: dict[str, str]) -> tuple[list[Stream], str]:
    """Operands of a trained model's products in the first batch of its training data, and where they come from."""
    task, file, names = trained(cfg, choices, OWN)
    loader = task.train_batches()
    loader.set_epoch(0)
    batch = next(iter(loader))
    task.model.eval()
    with told("tensors"):
        streams = collect(task.model, lambda: task.loss([part.to(task.device) for part in batch])[0])
    if not streams:
        raise UserError(
            "tensors: this model has no linear layer or plain convolution whose operands are 32 long or more: give "
            "another model, or tensors=false"
        )
    return streams, f"{' on '.join(names.values())}, weights of {file}, one batch of {task.batch_size}"


def _key(streams: Sequence[Stream]) -> str:
    content = hashlib.sha256()
    for stream in streams:
        for part in (stream.x, stream.y, torch.tensor([stream.x_top, stream.y_top])):
            content.update(part.contiguous().numpy().tobytes())
    return content.hexdigest()[:12]


# -- tables --------------------------------------------------------------------------------------------------------


def area_table(units: Sequence[Unit], found: Sequence[dict[str, Any]]) -> Table:
    """Area, its parts, delay; each beside the first format with the same accumulator and ways."""
    columns = ["format", "accumulator", "ways", "bits", "gates", "a product", "to the first",
               *(f"{part} gates" for part in PARTS), "delay (FO4)", "transistors"]  # fmt: skip
    fpga = any(each["slices"] for each in found)
    columns += ["LUTs", "CARRY4", "FFs"] * fpga + ["cases proven", "Verilog"]
    first: dict[tuple[str, int], float] = {}
    rows = []
    for unit, each in zip(units, found, strict=True):
        base = first.setdefault((str(unit.accumulator), unit.ways), each["gates"])
        rows.append([
            unit.formats, str(unit.accumulator), unit.ways, unit.register.bits, each["gates"], each["gates_a_product"],
            ratio(each["gates"] / base), *(each["parts"][part] for part in PARTS), each["delay"], each["transistors"],
            *([each["slices"][name] for name in ("luts", "carry4", "ffs")] if fpga else []), each["cases"],
            each["verilog"],
        ])  # fmt: skip
    return Table("Multiply-accumulate units, synthesized", columns, rows)


def ratio(value: float) -> str:
    """A ratio of two areas; near 1 it is a tie."""
    return f"{value:.2f}" + (" (tie)" if value != 1 and abs(value - 1) < TIE else "")


def work_table(units: Sequence[Unit], found: Sequence[dict[str, Any]]) -> Table:
    """Errors of sums, and energy, on real tensors."""
    columns = ["format", "accumulator", "ways", *(f"error {kind}" for kind in KINDS), *(f"energy {k}" for k in KINDS)]
    rows = []
    for unit, each in zip(units, found, strict=True):
        cells = [each["work"].get(kind, {}).get(what, "") for what in ("error", "energy") for kind in KINDS]
        rows.append([unit.formats, str(unit.accumulator), unit.ways, *cells])
    return Table(
        "On real tensors: error of a dot product relative to the exact sum of its rounded operands (root mean square); "
        "energy of a product, in switched inputs of an inverter", columns, rows,
    )  # fmt: skip
