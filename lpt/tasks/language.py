"""Language modelling: cross-entropy and perplexity, by truncated back-propagation through time."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..callbacks.step import every_rank, own_rank
from ..data.text import TextData
from ..models.lstm import State
from .task import Loader, Task, at_least_one


class LanguageModelling(Task):
    """The text is read in `batch_size` columns side by side, `bptt` tokens at a time.

    Batches are (tokens, the tokens that follow), int64 (N, T) each; the model takes tokens and a `State` and returns
    scores (N, T, V) and the next `State`. What the network remembers goes on from batch to batch, without gradient,
    starts anew with each pass over a text, and is saved with the run. `loss` alone, as a probe calls it, starts from
    nothing. Metrics: perplexity, e to the mean loss a token.

    Args:
        bptt: tokens of each column that one batch reads.
        more: as of `Task`.

    Raises:
        UserError: a bptt below 1, or a text too short for its columns; as of `Task`.
    """

    monitor, more_is_better = "val/perplexity", False
    reads = TextData

    def __init__(self, model: Any, data: TextData, *args: Any, bptt: int = 35, **more: Any) -> None:
        at_least_one(bptt=bptt)
        super().__init__(model, data, *args, **more)
        self.bptt = bptt
        data.val.columns(self.eval_batch_size, bptt)  # a mistake should show before the run starts
        self._carried: dict[str, State] = {}

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self._read(batch, None)[0], {}

    def size(self, batch: Any) -> int:
        return batch[1].numel()

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        return {"perplexity": math.exp(min(means["loss"], 700.0))}

    def notes(self) -> dict[str, Any]:
        return {"unigram_perplexity": self.data.unigram_perplexity()}

    def train_loss(self, batch: Any, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self._read_on("train", batch, batch_idx), {}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {"loss": self._read_on("val", batch, batch_idx), "size": self.size(batch)}

    def probe_batch(self, size: int) -> Any:
        """The first stretch of each of `size` columns."""
        columns = self.data.train.columns(size, self.bptt)
        return next(iter(Loader(columns, size)))

    def train_batches(self, rank: int = 0, world: int = 1) -> Loader:
        columns = self.data.train.columns(self.batch_size * world, self.bptt)
        return Loader(columns, self.batch_size, rank=rank, world=world)

    def val_batches(self, rank: int = 0, world: int = 1) -> Loader:
        columns = self.data.val.columns(self.eval_batch_size * world, self.bptt)
        return Loader(columns, self.eval_batch_size, rank=rank, world=world)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = self._carried.get("train")
        checkpoint["carried"] = every_rank(None if state is None else (state.h, state.c))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = own_rank(checkpoint["carried"])
        if state is not None:
            h, c = (tuple(layer.to(self.device) for layer in part) for part in state)
            self._carried["train"] = State(h, c)

    def _read_on(self, part: str, batch: Any, index: int) -> Tensor:
        """The loss of a batch that goes on where the last one of `part` stopped; the first one starts anew."""
        loss, state = self._read(batch, self._carried.get(part) if index else None)
        self._carried[part] = state.detach()
        return loss

    def _read(self, batch: Any, state: State | None) -> tuple[Tensor, State]:
        x, y = batch
        scores, state = self.model(x, state)
        return functional.cross_entropy(scores.flatten(0, 1), y.flatten()), state
