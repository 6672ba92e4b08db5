"""Where numbers go besides metrics.csv and W&B: TensorBoard and MLflow, by Lightning's own classes; and pictures."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from ..errors import UserError


def nothing(folder: Path, config: dict[str, Any], run_id: str, **_: Any) -> None:
    """metrics.csv alone, which every run has."""


def tensorboard(folder: Path, config: dict[str, Any], run_id: str, about: Any = None) -> Logger:
    """TensorBoard's event files in the run's folder.

    Raises:
        UserError: the package is not installed.
    """
    _needs("tensorboard", "tensorboard", "tensorboardX")
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


def mlflow(
    folder: Path, config: dict[str, Any], run_id: str, *, project: str, tracking_uri: str | None, about: Any = None
) -> Logger:
    """An MLflow run, with the names of the run's model, data, format and weights as tags.

    Args:
        project: MLflow's experiment.
        tracking_uri: of a server; None is MLFLOW_TRACKING_URI, or the database mlflow.db beside the runs.

    Raises:
        UserError: the package is not installed, or MLflow cannot write there.
    """
    _needs("mlflow", "mlflow")
    from mlflow.tracking import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

    place = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent.resolve()}/mlflow.db"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        MlflowClient(tracking_uri=place).search_experiments(max_results=1)
    except Exception as error:  # of many kinds: no such server, no such database, a module that is not installed
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"logger=mlflow cannot write to {place}: {why}") from error
    tags = {**{key: str(value) for key, value in (about or {}).get("choice", {}).items()}, "lpt.run": folder.name}
    return MLFlowLogger(experiment_name=project, run_name=folder.name, tracking_uri=place, tags=tags)


def _needs(choice: str, *packages: str) -> None:
    if not any(importlib.util.find_spec(package) for package in packages):
        raise UserError(
            f"logger={choice} needs the package {packages[0]}, which is not installed: pip install {packages[0]}, or "
            "leave this logger out"
        )


def picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Send the PNG in `path` to W&B and TensorBoard, where one of them listens."""
    if not trainer.is_global_zero or not path.is_file():
        return
    for logger in trainer.loggers:
        kind = type(logger).__mro__
        if any(base.__name__ == "WandbLogger" for base in kind):
            logger.log_image(key=name, images=[str(path)])  # type: ignore[attr-defined]
        elif any(base.__name__ == "TensorBoardLogger" for base in kind):
            from matplotlib.image import imread

            logger.experiment.add_image(name, imread(path)[..., :3], trainer.global_step, dataformats="HWC")  # type: ignore[attr-defined]
