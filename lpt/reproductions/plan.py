"""From `conf/reproduce/NAME.yaml` and `conf/size/SIZE.yaml` to the runs of train.py that a table is made of.

A plan has arms (what is compared: format and weights), models, perhaps further conditions (`vary`), and seeds; every
combination is one run, and its settings alone decide its folder. So two names that ask for the same run share it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from hydra import initialize_config_dir

from ..errors import UserError
from ..report.stored import json_of, text_of
from ..runs.messages import CONF, as_override
from .folders import Folders

SIZES = ("smoke", "cpu", "small", "paper")
QUIET = ("progress=false", "logger.mode=disabled")
OTHERS = "others"  # in a value of `vary`: the models that no value of its key names


@dataclass(frozen=True)
class Run:
    """One process: `program` is "config" (train.py) or "search" (scripts/search_formats.py).

    Args:
        labels: which run it is: model, arm, and a value for each key of `vary`.
        overrides: the command's; of a training they decide `folder`, in which a search makes a folder of its own.
        needs: the folder of the run whose weights this one starts from.
    """

    program: str
    labels: tuple[tuple[str, str], ...]
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    needs: Path | None = None

    @property
    def label(self) -> dict[str, str]:
        return dict(self.labels)

    def status(self) -> str:
        """finished, diverged (which is a result, too), running, stopped, failed, or "" before it began."""
        try:
            found = json_of(text_of(self.result / "summary.json"))
        except (OSError, ValueError):
            return ""
        return str(found.get("status", "")) if isinstance(found, dict) else ""

    @property
    def result(self) -> Path:
        """The folder with its summary.json."""
        found = sorted(self.folder.glob("search-*")) if self.program == "search" else []
        return found[0] if found else self.folder

    @property
    def done(self) -> bool:
        return self.status() in ("finished", "diverged")


@dataclass
class Plan:
    """A table's settings, those of its size filled in. `Plan.read` reads them, `runs` makes the runs."""

    name: str
    size: str
    title: str
    rebuilds: str
    claim: str
    make: str  # the function that makes tables and figures of the runs
    models: dict[str, dict[str, Any]]
    seeds: int
    settings: list[str]
    places: dict[str, str]
    arms: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, dict[str, Any]] = field(default_factory=dict)  # key -> value -> settings, or those by model
    baseline: str | None = None
    compare: list[list[str]] = field(default_factory=list)
    search: str | None = None
    tune: str | None = None  # the key of `vary` that is searched for each arm (`tuning`)
    published: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    outputs: Path = Path("outputs") / "reproduce"  # where what several tables share is kept

    def __post_init__(self) -> None:
        self._named = {
            key: {m for text in values.values() for m in _by_model(text)} for key, values in self.vary.items()
        }

    @classmethod
    def read(cls, name: str, size: str, seeds: int | None = None, only: dict[str, list[str]] | None = None) -> Plan:
        """The plan `name` at `size`, with as many `seeds` as it says itself if None.

        Args:
            only: for "models", "arms" or a key of `vary`, the few that are wanted; what it does not name stays whole.
                The baseline, and an arm from whose weights another starts, stay.

        Raises:
            UserError: no such name, size, or value.
        """
        if name not in known():
            raise UserError(f"{name!r} is not one of {', '.join(known())}")
        if size not in SIZES:
            raise UserError(f"size={size}: give one of {', '.join(SIZES)}")
        plan = yaml.safe_load((CONF / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8"))
        sizes = yaml.safe_load((CONF / "size" / f"{size}.yaml").read_text(encoding="utf-8"))
        sized = plan.pop("sizes")
        if size not in sized:
            raise UserError(f"{name} has no size={size}: give one of {', '.join(s for s in SIZES if s in sized)}")
        own = sized[size] or {}
        chosen = own.pop("models", plan.pop("models", []))
        settings = [word for s in (sizes, plan, own) for word in s.pop("settings", "").split()]
        merged = {**plan, **own}
        if formats := merged.pop("formats", None):  # an arm for each
            merged["arms"] = {"FP32": "format=fp32 weights=fp32"} | {
                each: f"format=custom format.value='{each}' weights=fp32" for each in formats
            }
        for recipe in merged.pop("recipes", ()):
            if (CONF / "recipe" / f"{recipe}.yaml").is_file():
                merged.setdefault("arms", {})[recipe] = f"recipe={recipe}"
            else:
                merged.setdefault("notes", []).append(f"{recipe} is left out: there is no recipe of that name.")
        count = seeds or merged.pop("seeds", sizes["seeds"])
        merged.pop("seeds", None)
        found = cls(
            name=name, size=size, models={model: sizes["models"][model] for model in chosen}, seeds=count,
            settings=settings, places=sizes.get("places", {}), **merged,
        )  # fmt: skip
        for key, wanted in (only or {}).items():
            found._keep(key, wanted)
        return found

    def _keep(self, key: str, wanted: list[str]) -> None:
        axes: dict[str, dict[str, Any]] = {"models": self.models, "arms": self.arms, **self.vary}
        if key not in axes or not set(wanted) <= axes[key].keys():
            valid = f"one of {', '.join(axes)}" if key not in axes else f"values out of {', '.join(axes[key])}"
            raise UserError(f"only.{key}={','.join(wanted)}: {self.name} at size={self.size} has {valid}")
        stay = {*wanted}
        if key == "arms":
            stay |= {self.baseline or wanted[0]}
            stay |= {a["from"] for name, a in self.arms.items() if name in wanted and isinstance(a, dict)}
            self.compare = [pair for pair in self.compare if stay.issuperset(pair)]
        for name in axes[key].keys() - stay:
            del axes[key][name]
        for model in [model for model in self.models if key in self.vary and not self.values(key, model)]:
            del self.models[model]
            self.notes.append(f"{model} is left out: it has none of only.{key}={','.join(wanted)}.")

    @property
    def count(self) -> int:
        """How many runs it has."""
        return sum(map(self._count_of, self.models))

    def _count_of(self, model: str) -> int:
        sizes = {key: len(self.values(key, model)) for key in self.vary}
        cells = len(self.arms) * math.prod(size for key, size in sizes.items() if key != self.tune)
        searched = sizes[self.tune] if self.tune else 1  # with one seed
        return cells * (self.seeds + searched - 1) + (1 if self.search else 0)

    def values(self, key: str, model: str) -> dict[str, str]:
        """The values of a key of `vary` that a model has, each with its settings.

        Settings may be given by model, and for all `others`; a model that is named anywhere among the key's values has
        those alone that name it.
        """
        own = model if model in self._named[key] else OTHERS
        each = {value: _by_model(text) for value, text in self.vary[key].items()}
        return {value: by_model[own] for value, by_model in each.items() if own in by_model}

    def cost(self) -> float | None:
        """Seconds of one process, as measured for each model; None where nothing was measured."""
        each = [settings.get("seconds") for settings in self.models.values()]
        if None in each:
            return None
        return sum(self._count_of(model) * float(s or 0) for model, s in zip(self.models, each, strict=True))

    def runs(self, outputs: Path, given: Sequence[str] = (), places: dict[str, str] | None = None) -> list[Run]:
        """Every run, those first from which others start.

        Args:
            outputs: the folder in which `runs/` and `searches/` are.
            given: overrides of train.py for all runs.
            places: folders with data, by their names in the size's file.

        Raises:
            UserError: a place that is needed is not given.
        """
        with initialize_config_dir(str(CONF), version_base="1.3"):
            found = list(self._trainings(outputs, list(given), places or {}))
        return found + [self._searching(run, outputs, places or {}) for run in found if self.search and run.seed == 0]

    def _cases(self) -> Iterator[tuple[str, dict[str, str], int]]:
        """(model, condition, seed)"""
        for model in self.models:
            axes = [self.values(key, model) for key in self.vary]
            for keys, seed in itertools.product(itertools.product(*axes), range(self.seeds)):
                yield model, dict(zip(self.vary, keys, strict=True)), seed

    def _trainings(self, outputs: Path, given: list[str], places: dict[str, str]) -> Iterator[Run]:
        folders = Folders()
        for model, condition, seed in self._cases():
            started: dict[str, Path] = {}
            for arm, wanted in self.arms.items():
                origin = wanted.get("from") if isinstance(wanted, dict) else None
                text = wanted["settings"] if isinstance(wanted, dict) else wanted
                overrides = [*self.of_model(model, places), *self.settings]
                overrides += [o for key, value in condition.items() for o in self.values(key, model)[value].split()]
                overrides += [*text.split(), f"seed={seed}", *QUIET, *given]
                overrides += [as_override("init_from", started[origin])] if origin else []
                folder = outputs / "runs" / folders.name(overrides)
                started[arm] = folder
                overrides.append(as_override("paths.outputs", folder.parent))
                yield Run(
                    "config", (("model", model), *condition.items(), ("arm", arm)), seed,
                    tuple(overrides), folder, started[origin] if origin else None,
                )  # fmt: skip

    def _searching(self, run: Run, outputs: Path, places: dict[str, str]) -> Run:
        """The search on the weights of a finished training."""
        own = [*self.of_model(run.label["model"], places), *self.settings, as_override("checkpoint", run.folder)]
        own += ["format=fp32", "weights=fp32", *QUIET, *(self.search or "").split()]
        key = hashlib.sha256(" ".join(own).encode()).hexdigest()[:8]
        folder = outputs / "searches" / f"{run.folder.name}-{key}"
        return Run("search", run.labels, run.seed, (*own, as_override("paths.outputs", folder)), folder, run.folder)

    def of_model(self, model: str, places: dict[str, str]) -> list[str]:
        """The settings of a model, its data's place filled in."""
        text = self.models[model]["settings"]
        for _, key, _, _ in Formatter().parse(text):
            if key and key not in places:
                raise UserError(f"{model} at size={self.size} needs {key}=DIR, {self.places[key]}")
        pairs = [word.partition("=") for word in text.split()]
        return [
            as_override(key, value.format(**places)) if "{" in value else f"{key}{equals}{value}"
            for key, equals, value in pairs
        ]


def _by_model(text: Any) -> dict[str, str]:
    return text if isinstance(text, dict) else {OTHERS: text}


def known() -> list[str]:
    """The names, as `list` shows them."""
    return sorted(path.stem for path in (CONF / "reproduce").glob("*.yaml"))


def sizes_of(name: str) -> list[str]:
    """The sizes that `name` has."""
    return list(yaml.safe_load((CONF / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8"))["sizes"])
