"""Translation: label-smoothed cross-entropy, and detokenized BLEU of what a beam search finds."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..data.lines import BEGIN, END
from ..data.loader import ByLength
from ..data.parallel import PairData
from ..errors import UserError
from .beam import beam_search
from .task import Loader, Task, at_least_one, of_all_ranks


class PairLoader(Loader, ByLength):
    """Sentences of like length together."""


class Translation(Task):
    """Batches are (source, target, index) as of `lpt.data.parallel.Pairs`; the model is a `Transformer`, or has its
    `pad`, `encode`, `following` and forward.

    Metrics: `loss`, smoothed; `nll`, not smoothed, and `perplexity`, e to the nll, each a token; in validation `bleu`,
    sacrebleu's of the text as it was written, from 0 to 100.

    Args:
        label_smoothing: share of the target that is spread over all tokens.
        beam: hypotheses that the search keeps; 1 is greedy.
        length_penalty: a hypothesis is judged by log p / length**length_penalty.
        bleu_every: epochs between searches, since they take time; the last epoch has one in any case.
        more: as of `Task`.

    Raises:
        UserError: values that are not possible; as of `Task`.
    """

    monitor, more_is_better = "val/bleu", True
    reads = PairData
    loader = PairLoader

    def __init__(
        self,
        model: Any,
        data: PairData,
        *args: Any,
        label_smoothing: float = 0.1,
        beam: int = 5,
        length_penalty: float = 1.0,
        bleu_every: int = 1,
        **more: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"task.label_smoothing={label_smoothing!r}: give a share from 0 to below 1")
        at_least_one(beam=beam, bleu_every=bleu_every)
        if isinstance(length_penalty, bool) or not isinstance(length_penalty, (int, float)) or length_penalty < 0:
            raise UserError(f"task.length_penalty={length_penalty!r}: give a number from 0 upward")
        super().__init__(model, data, *args, **more)
        self.pad: int = model.pad
        self.label_smoothing, self.beam, self.length_penalty = label_smoothing, beam, length_penalty
        self.bleu_every = bleu_every
        self.translations: dict[int, str] = {}  # of the validation sentences, by their index
        self._signature: str | None = None

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        source, target, _ = batch
        shares = self.model(source, target[:, :-1]).log_softmax(-1).flatten(0, 1)
        labels = target[:, 1:].flatten()
        nll = functional.nll_loss(shares, labels, ignore_index=self.pad)
        spread = -shares.mean(-1)[labels != self.pad].mean()
        return (1 - self.label_smoothing) * nll + self.label_smoothing * spread, {"nll": nll.detach()}

    def size(self, batch: Any) -> int:
        return int((batch[1][:, 1:] != self.pad).sum())

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        return {"perplexity": math.exp(min(means["nll"], 700.0))}

    def evaluate(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.due(self.bleu_every):
            source, _, index = batch
            begin, end = (self.data.tokenizer.token_to_id(token) for token in (BEGIN, END))
            found = beam_search(self.model, source, begin, end, self.beam, self.length_penalty)
            self.translations |= zip(index.tolist(), self.data.tokenizer.decode_batch(found), strict=True)
        return self.loss(batch)

    def collected(self) -> dict[str, float]:
        if not self.due(self.bleu_every):
            return {}
        from sacrebleu.metrics import BLEU  # needed here only

        found = of_all_ranks(self.translations)
        self.translations = {}
        metric = BLEU()
        score = metric.corpus_score(list(found.values()), [[getattr(self.data, self.part).texts[i] for i in found]])
        self._signature = str(metric.get_signature())
        return {"bleu": score.score}

    def notes(self) -> dict[str, Any]:
        return {"bleu_signature": self._signature} if self._signature else {}
