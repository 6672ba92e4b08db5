"""From `conf/reproduce/NAME.yaml` and `conf/size/SIZE.yaml` to the runs of train.py that a table is made of.

A plan has arms (what is compared: format and weights), models, perhaps further conditions (`vary`), and seeds; every
combination is one run, and its settings alone decide its folder. So two names that ask for the same run share it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import UserError
from ..runs.folder import run_name
from ..runs.messages import CONF, as_override
from ..runs.named import names

SIZES = ("smoke", "cpu", "small", "paper")
QUIET = ("progress=false", "logger.mode=disabled")


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
            found = json.loads((self.result / "summary.json").read_text(encoding="utf-8"))
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
    vary: dict[str, dict[str, str]] = field(default_factory=dict)
    baseline: str | None = None
    compare: list[list[str]] = field(default_factory=list)
    search: str | None = None
    tune: str | None = None  # the key of `vary` that is searched for each arm (`tuning`)
    published: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    outputs: Path = Path("outputs") / "reproduce"  # where what several tables share is kept

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

    @property
    def count(self) -> int:
        """How many runs it has."""
        cells = len(self.models) * len(self.arms) * self.seeds
        for key, values in self.vary.items():
            cells *= 1 if key == self.tune else len(values)
        if self.tune:
            cells += cells // self.seeds * (len(self.vary[self.tune]) - 1)  # the search, with one seed
        return cells + (len(self.models) if self.search else 0)

    def cost(self) -> float | None:
        """Seconds of one process, as measured for each model; None where nothing was measured."""
        each = [settings.get("seconds") for settings in self.models.values()]
        share = self.count / max(1, len(self.models))
        return None if None in each else share * sum(float(seconds or 0) for seconds in each)

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

    def _trainings(self, outputs: Path, given: list[str], places: dict[str, str]) -> Iterator[Run]:
        folders = Folders()
        conditions = [dict(zip(self.vary, keys, strict=True)) for keys in itertools.product(*self.vary.values())]
        for model, condition, seed in itertools.product(self.models, conditions, range(self.seeds)):
            started: dict[str, Path] = {}
            for arm, wanted in self.arms.items():
                origin = wanted.get("from") if isinstance(wanted, dict) else None
                text = wanted["settings"] if isinstance(wanted, dict) else wanted
                overrides = [*self.of_model(model, places), *self.settings]
                overrides += [o for key, value in condition.items() for o in self.vary[key][value].split()]
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


def known() -> list[str]:
    """The names, as `list` shows them."""
    return sorted(path.stem for path in (CONF / "reproduce").glob("*.yaml"))


def sizes_of(name: str) -> list[str]:
    """The sizes that `name` has."""
    return list(yaml.safe_load((CONF / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8"))["sizes"])


class Folders:
    """The names of the folders that `python train.py OVERRIDES` would make; within `initialize_config_dir`.

    Composing files takes Hydra a quarter of a second, so it is done once for each choice of files; keys are set on a
    copy, as Hydra itself sets them, after its files.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def name(self, overrides: Sequence[str]) -> str:
        """The name, without the folder that it lies in."""
        read = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [o for o in read if not self._is_a_key(o)]
        cfg, choices = self._of_files(tuple(str(o.input_line) for o in chosen))
        ConfigLoaderImpl._apply_overrides_to_config([o for o in read if self._is_a_key(o)], cfg)
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        return run_name(config, [*names(cfg, choices).values(), f"seed{config['seed']}"])

    @staticmethod
    def _is_a_key(override: Override) -> bool:
        """Whether it sets a key, and does not choose or take away a file."""
        plain = not override.is_sweep_override() and not override.is_hydra_override() and not override.package
        return plain and not override.is_delete() and not (CONF / override.key_or_group).is_dir()

    def _of_files(self, chosen: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        if chosen not in self._composed:
            cfg = compose("config", list(chosen), return_hydra_config=True)
            choices = {key: str(value) for key, value in cfg.hydra.runtime.choices.items()}
            with open_dict(cfg):
                del cfg["hydra"]
            self._composed[chosen] = cfg, choices
        cfg, choices = self._composed[chosen]
        return copy.deepcopy(cfg), choices
