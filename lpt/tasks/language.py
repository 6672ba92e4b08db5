"""Language modelling: cross-entropy and perplexity; by truncated back-propagation through time if a model remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map

from ..callbacks.step import every_rank, own_rank
from ..data.text import Columns, Text, TextData, Windows
from ..errors import UserError
from .sampling import go_on
from .task import Loader, Task, at_least_one


class LanguageModelling(Task):
    """Batches are (tokens, the tokens that follow), int64 (N, T) each, T = `bptt`.

    A model takes tokens and returns scores (N, T, V) of what follows. If it has a `state`, the class of what it
    remembers (`lpt.models.lstm.State`: `detach()`, and `parts()` that it is made of again), it takes one besides, or
    None, and returns the next one besides. The text is then read in `batch_size` columns side by side; what the model
    remembers goes on from batch to batch, without gradient, starts anew with each pass over a text, and is saved with
    the run. A model without a `state` gets pieces of the text in a new order each epoch. `loss` alone, as a probe
    calls it, starts from nothing. Metrics: perplexity, e to the mean loss a token.

    Args:
        bptt: tokens that one batch reads at a stretch; not more than the model's `context`, if it has one.
        more: as of `Task`.

    Raises:
        UserError: a bptt below 1 or above the context, or a text too short; as of `Task`.
    """

    monitor, more_is_better = "val/perplexity", False
    reads = TextData

    def __init__(self, model: Any, data: TextData, *args: Any, bptt: int = 35, **more: Any) -> None:
        at_least_one(bptt=bptt)
        super().__init__(model, data, *args, **more)
        self.bptt = bptt
        self.state: Callable[..., Any] | None = getattr(model, "state", None)
        self.context: int = getattr(model, "context", bptt)  # tokens that a model without a state looks back
        if bptt > self.context:
            raise UserError(
                f"task.bptt={bptt} is more than model.context={self.context}: lower the one or raise the other"
            )
        self._cut(data.val, self.eval_batch_size)  # a mistake should show before the run starts
        self._carried: dict[str, Any] = {}

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
        split = self._cut(self.data.train, self.batch_size * world)
        anew = self.state is None  # nothing goes on from batch to batch
        return Loader(split, self.batch_size, anew, self.seed, drop_last=anew, rank=rank, world=world)

    def val_batches(self, rank: int = 0, world: int = 1) -> Loader:
        split = self._cut(getattr(self.data, self.part), self.eval_batch_size * world)
        return Loader(split, self.eval_batch_size, rank=rank, world=world)

    def sample(self, count: int, temperature: float = 1.0, seed: int = 0, prompt: str = "") -> str:
        """`prompt` and `count` tokens that the model lets follow it; without a prompt they begin a line.

        Args:
            temperature: divides the scores; 0 takes the likeliest token each time.

        Raises:
            UserError: a prompt with words or characters that the training text does not have.
        """
        tokens = self.data.tokens
        if strange := sorted(set(tokens.unknown(prompt.split("\n")))):
            raise UserError(f"the prompt has {tokens.kind} that the training text has not: {', '.join(strange)}")
        begun = tokens.encode(prompt)
        generator = torch.Generator().manual_seed(seed)
        found = go_on(self._following(), begun or [tokens.end], count, temperature, generator)
        return str(tokens.decode([*begun, *found]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = self._carried.get("train")
        checkpoint["carried"] = every_rank(None if state is None else state.parts())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = own_rank(checkpoint["carried"])
        if parts is not None and self.state is not None:
            self._carried["train"] = self.state(*tree_map(lambda part: part.to(self.device), parts))

    def _cut(self, text: Text, columns: int) -> Columns | Windows:
        return text.windows(self.bptt) if self.state is None else text.columns(columns, self.bptt)

    def _read_on(self, part: str, batch: Any, index: int) -> Tensor:
        """The loss of a batch that goes on where the last one of `part` stopped; the first one starts anew."""
        loss, state = self._read(batch, self._carried.get(part) if index else None)
        if state is not None:
            self._carried[part] = state.detach()
        return loss

    def _read(self, batch: Any, state: Any) -> tuple[Tensor, Any]:
        x, y = batch
        scores, state = self._scores(x, state)
        return functional.cross_entropy(scores.flatten(0, 1), y.flatten()), state

    def _scores(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return (self.model(x), None) if self.state is None else self.model(x, state)

    def _following(self) -> Callable[[list[int]], Tensor]:
        """A function from all tokens so far to the scores (V,) of the next; only what is new is read, if it can be."""
        state, read = None, 0

        def following(tokens: list[int]) -> Tensor:
            nonlocal state, read
            new = tokens[-self.context :] if self.state is None else tokens[read:]
            scores, state = self._scores(torch.tensor([new], device=self.device), state)
            read = len(tokens)
            return scores[0, -1]

        return following
