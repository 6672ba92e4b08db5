"""The parts of a run, made from their nodes of the configuration: data, model, task and quantization."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from ..callbacks.checkpoints import seed_everything
from ..callbacks.quantization import Quantization
from ..data.base import ImageData
from ..errors import UserError
from ..tasks.task import Task
from ..weights.closures import why_not
from .build import build, maker, told
from .limits import check_memory, refused
from .training import Training


def make_task(cfg: DictConfig, training: Training) -> Task:
    """Data, model, and the task that joins them; seeded, so that equal configurations begin with equal weights."""
    data = build("data", cfg.data)
    seed_everything(cfg.seed)
    model = make_model(cfg, data)
    task: Task = build(
        "task", cfg.task, model=model, data=data, optimizer=maker("optimizer", cfg.optimizer),
        scheduler=maker("scheduler", cfg.scheduler), batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size, seed=cfg.seed,
    )  # fmt: skip
    return task


def make_model(cfg: DictConfig, data: Any) -> Any:
    """The network, told by the data set what it must know of it, with an `example` of images if it asks for one."""
    arguments = data.model_arguments()
    try:
        signature = inspect.signature(maker("model", cfg.model))
        if isinstance(data, ImageData) and "example" in signature.parameters:  # two: batch-norm needs them in training
            arguments["example"] = torch.rand(2, *data.shape, generator=torch.Generator().manual_seed(0))
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"this model does not go with data={data.name}, which tells it {', '.join(arguments)} ({error}): "
            "choose another model= or data="
        ) from error
    except ValueError:
        pass  # a key of the user's own is wrong, as build will say
    if not cfg.model.get("pretrained"):
        check_memory(lambda: maker("model", cfg.model)(**arguments))
    model = build("model", cfg.model, **arguments)
    parametrize_(model, cfg)
    if isinstance(data, ImageData):
        _try(model, data, cfg.model.get("name") or type(model).__name__)
    return model


def parametrize_(model: Any, cfg: DictConfig) -> None:
    """What `parametrization=` makes of a new model."""
    if (node := cfg.get("parametrization")) is not None:  # (older runs have none)
        parametrization = build("parametrization", node)
        with told("parametrization"):
            parametrization.attach_(model)


def _try(model: Any, data: ImageData, name: str) -> None:
    """One blank image through the network.

    Raises:
        UserError: the network is not made for images of this size.
    """
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(torch.zeros(1, *data.shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        if refused(error):
            raise
        why = re.sub(r" ?\(Proxy\(\w+\)\)", "", str(error)).rstrip(".")  # what a traced model says of its input
        channels, height, width = data.shape
        raise UserError(
            f"{name} cannot take images of {height}x{width} pixels and {channels} channels, as data={data.name} gives "
            f"them ({why}): give images of another size (data.size=, where the data set has it), or another model="
        ) from error
    model.train()


def try_optimizer(task: Task, device: torch.device, clip: float | None) -> None:
    """One step of the task's optimizer on stand-ins for the parameters, where and as the run will step.

    Raises:
        UserError: it needs another device or other gradients, or runs its closure at a time of its own.
    """
    thin = {id(m.weight) for m in task.model.modules() if getattr(m, "sparse", False) and hasattr(m, "weight")}
    parameters = list(task.model.parameters())
    sparse = [id(p) in thin for p in parameters]
    if why := why_not(task.make_optimizer, parameters, sparse, device, clip):
        raise UserError(f"optimizer: {why}")


def make_quantization(cfg: DictConfig) -> Quantization:
    """`format=`, `products=`, `weights=` and `remedy=`."""
    flow = cfg.format.copy()
    with open_dict(flow):
        flow.pop("value", None)  # it only fills in activation, error and gradient
    products = cfg.get("products", OmegaConf.create({"_target_": "lpt.Products"})).copy()  # older runs have none
    with open_dict(products):
        products.pop("value", None)
    if cfg.compile not in (False, True, "auto", "rounding"):
        raise UserError(f"compile={cfg.compile!r}: give auto, rounding, true or false")
    if cfg.memory not in ("plain", "packed"):
        raise UserError(f"memory={cfg.memory!r}: give plain or packed")
    if cfg.memory == "packed" and cfg.compile is True:
        raise UserError("memory=packed works module by module: take it with compile=rounding, auto or false")
    execution = {"compile": cfg.compile, "packed": cfg.memory == "packed", "bf16": cfg.precision == "bf16"}
    execution["products"] = build("products", products)
    remedy = cfg.get("remedy")  # (older runs have none)
    weights: Any = maker("weights", cfg.weights)
    if remedy is not None and remedy._target_:
        weights = partial(weights, remedy=build("remedy", remedy))
    return Quantization(build("format", flow), weights, **execution)
