"""The base of all tasks: batches in, a loss out; the optimizer, its schedule, and the loaders."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, final

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..callbacks.step import every_rank
from ..data.loader import Batches
from ..dataflow.modes import evaluating
from ..errors import UserError
from .schedules import Schedule

Optimizer = torch.optim.Optimizer


class Loader(Batches):
    """Batches as Lightning wants them: it looks for this attribute beside `sampler`."""

    batch_sampler = None


def at_least_one(**numbers: Any) -> None:
    """Check settings of a task that are whole numbers from 1 upward.

    Raises:
        UserError: one is not.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"task.{name}={value!r}: give a whole number from 1 upward")


class Task(pl.LightningModule):
    """Subclasses write `loss`; everything else is common to all tasks.

    With accumulation, every batch is differentiated as it is, E as large as without; its gradients add up in `.grad`,
    and become their mean, over as many batches as there were, before G is rounded. (Lightning would divide each loss
    by `accumulate_grad_batches`, in the short group at an epoch's end as well.)

    Args:
        model: the plain network.
        data: a data set with `.train` and `.val`.
        optimizer: parameters -> optimizer.
        scheduler: steps of the run -> (step -> factor on the learning rate).
        batch_size, eval_batch_size: examples a batch and process.
        seed: of the order of the examples and of their augmentation.

    Raises:
        UserError: data of a kind that the task does not read.
    """

    # The metric that decides which checkpoint is the best, and whether more of it is better.
    monitor, more_is_better = "val/loss", False
    reads: type = object  # the kind of data set that it learns from
    loader = Loader

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        optimizer: Callable[[Any], Optimizer],
        scheduler: Callable[[int], Schedule],
        *,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
    ) -> None:
        kind = self.reads
        if not isinstance(data, kind):
            raise UserError(
                f"{type(self).__name__} learns from {kind.__name__}, and data={data.name} is "
                f"{type(data).__name__}: choose another task= or data="
            )
        super().__init__()
        self.model = model
        self.data: Any = data
        self.make_optimizer, self.make_schedule = optimizer, scheduler
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed = seed
        self.only: int | None = None  # train on the first so many batches, over and over; lpt.runs fills it in
        self.part = "val"  # what `val_batches` are of: the validation set, or "test"
        self.total_steps = 0  # optimizer steps of the whole run; lpt.runs fills it in
        self._accumulated = 0  # batches whose gradients `.grad` is the sum of

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch (0-dim) and further means over its examples."""
        raise NotImplementedError

    def train_loss(self, batch: Any, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        """As `loss`, for batch `batch_idx` of an epoch of training; a task may keep here what the next one needs."""
        return self.loss(batch)

    def evaluate(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """As `loss`, for a batch of the validation set; a task may keep here what `collected` needs."""
        return self.loss(batch)

    def collected(self) -> dict[str, float]:
        """Metrics of the whole `part` that are no means over examples; asked for once, after its last batch."""
        return {}

    def size(self, batch: Any) -> int:
        """How many examples (or tokens) the means of `loss` are over."""
        return len(batch[0])

    def probe_batch(self, size: int) -> Any:
        """`size` training examples, always the same, without augmentation: for indicators."""
        train = self.data.train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        return [part.to(self.device) for part in train.batch(order[:size], None)]

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Figures that follow from the means over many batches, such as perplexity from the loss."""
        return {}

    def notes(self) -> dict[str, Any]:
        """What else `summary.json` should say of this task."""
        return {}

    @final
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """`loss` is for Lightning, which hands it on divided by the accumulation; `means` are for who reads them."""
        loss, metrics = self.train_loss(batch, batch_idx)
        return {"loss": loss, "means": {"loss": loss.detach(), **metrics}}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Add dL/dW to `.grad`, L the loss of the batch: the division by the accumulation is undone, exactly."""
        super().backward(loss * self.trainer.accumulate_grad_batches, *args, **kwargs)
        self._accumulated += 1

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The optimizer's step on the mean gradient, which the callbacks see as well."""

        def closure() -> Any:
            loss = optimizer_closure()
            take_mean([p for group in optimizer.param_groups for p in group["params"]], self._accumulated)
            self._accumulated = 0
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm of the whole gradient.

        Lightning does the same, but refuses it beside bf16 and a fused optimizer, as if there were a loss scale.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, gradient_clip_val)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        loss, metrics = self.evaluate(batch)
        return {"loss": loss, **metrics, "size": self.size(batch)}

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.make_schedule(self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def batches_per_epoch(self, world: int) -> int:
        """Micro-batches that each of `world` processes sees in an epoch."""
        return len(self._kept(self.train_batches(0, world)))

    def train_dataloader(self) -> Loader:
        return self._kept(self.train_batches(self.trainer.global_rank, self.trainer.world_size))

    def _kept(self, loader: Loader) -> Loader:
        """`loader` with the batches that `only` leaves, always the same."""
        loader.only = self.only
        loader.augment = loader.augment and self.only is None
        return loader

    def val_dataloader(self) -> Loader:
        return self.val_batches(self.trainer.global_rank, self.trainer.world_size)

    def train_batches(self, rank: int = 0, world: int = 1) -> Loader:
        """The training data as one of `world` processes sees it."""
        train = self.data.train
        return self.loader(train, self.batch_size, shuffle=True, seed=self.seed, drop_last=True, rank=rank, world=world)

    def fingerprint(self) -> str:
        """Eight digits that change with the data: of its description, its sizes, and the first validation batch."""
        hashed = zlib.crc32(f"{self.data.source} {len(self.data.train)} {len(self.data.val)}".encode())
        for part in pytree.tree_leaves(next(iter(self.val_batches()))):
            if isinstance(part, Tensor):
                hashed = zlib.crc32(part.cpu().contiguous().numpy().tobytes(), hashed)
        return f"{hashed:08x}"

    def val_batches(self, rank: int = 0, world: int = 1) -> Loader:
        """The validation data (or `part`) as one of `world` processes sees it."""
        return self.loader(getattr(self.data, self.part), self.eval_batch_size, rank=rank, world=world)

    @torch.no_grad()
    def measured(self, part: str = "val") -> dict[str, float]:
        """The metrics over all of a part of the data, "val" or "test", as `part/metric`; the model evaluates meanwhile.

        Raises:
            UserError: the data has no such part.
        """
        if getattr(self.data, part, None) is None:
            raise UserError(f"data={self.data.name} has no part {part!r}: leave split= out, or give the data one")
        self.part = part
        sums: dict[str, float] = {}
        try:
            with evaluating(self.model):
                for i, batch in enumerate(self.val_batches()):
                    found = self.validation_step([part.to(self.device) for part in batch], i)
                    size = found.pop("size")
                    for name, value in {**found, "size": torch.ones(())}.items():
                        sums[name] = sums.get(name, 0.0) + value.item() * size
                total = sums.pop("size")
                means = {name: value / total for name, value in sums.items()}
                figures = means | self.derived(means) | self.collected()
        finally:
            self.part = "val"
        return {f"{part}/{name}": value for name, value in figures.items()}

    def due(self, every: int) -> bool:
        """Whether the present validation is that of an `every`-th epoch or of the last; outside a Trainer it is."""
        trainer = self._trainer
        if trainer is None:
            return True
        return trainer.global_step >= self.total_steps or (trainer.current_epoch + 1) % every == 0


def of_all_ranks(kept: dict[int, Any]) -> dict[int, Any]:
    """What the processes have kept of examples, by their indices and in the order of these, each example once."""
    merged = {index: entry for part in every_rank(kept) for index, entry in part.items()}
    return {index: merged[index] for index in sorted(merged)}


@torch.no_grad()
def take_mean(parameters: list[nn.Parameter], batches: int) -> None:
    """Turn gradients that were summed over `batches` into their mean, in place."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if batches > 1 and grads:
        torch._foreach_div_(grads, batches)
