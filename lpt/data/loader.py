"""Which images make which batch: a function of (seed, epoch, batch) and of nothing that happened before."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ..errors import UserError
from .base import Split

Batch = tuple[Tensor, Tensor]


class Batches:
    """The batches of one epoch of a split, over and over: `for x, y in batches`.

    The order of epoch e depends on (seed, e) only, and the augmentation of batch b on (seed, e, b) only; so a run
    that starts in the middle sees what it would have seen. Epochs are chosen by `set_epoch`; iterating twice without
    it gives the same batches twice.

    With `world` ranks, `batch_size` is that of one rank, and rank r takes the batches r, world + r, 2 world + r, ...
    that a single rank would have had. Of a last, incomplete round each rank takes an equal share; only if fewer
    images than ranks are left, some are handed out twice, so that every rank has as many batches as the others.

    Args:
        split: where the images are.
        batch_size: images in a batch.
        shuffle: a new order every epoch, or the order of the split.
        seed: of order and augmentation.
        drop_last: leave out the images that do not fill a batch (on every rank).
        augment: whether to augment; as `shuffle` if None.
        rank, world: which of how many processes this is.

    Attributes:
        epoch: the epoch that iterating gives.
        start: batches to skip, once, at the beginning of the next iteration; `set_epoch` to another epoch clears it.

    Raises:
        UserError: sizes below 1, or `drop_last` with fewer images than one batch on every rank needs.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        *,
        drop_last: bool = False,
        augment: bool | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world:
            raise UserError(f"batch_size={batch_size} must be at least 1, and rank={rank} in 0 .. {world - 1}")
        if drop_last and len(split) < batch_size * world:
            raise UserError(
                f"the {len(split)} training examples do not fill one batch of {batch_size} on {world} rank(s): "
                "make the batch smaller or take more of them"
            )
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.augment = shuffle if augment is None else augment
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start = 0
        self.only: int | None = None  # the first so many batches of epoch 0, in every epoch
        self._position = 0  # batches handed out in the running epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size * self.world)
        every = whole + (rest > 0 and not self.drop_last)
        return every if self.only is None else min(every, self.only)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning asks for an iterator before it tells the epoch, so nothing is decided before the first `next`.
        epoch, first = self.epoch if self.only is None else 0, self.start
        self.start, self._position = 0, first
        order = self._order(epoch)
        jobs = (partial(self._batch, order, epoch, b) for b in range(first, len(self)))
        for batch in _ahead(jobs, self.split.prefetch):
            self._position += 1
            yield batch

    @property
    def sampler(self) -> Batches:
        """Itself: Lightning calls `loader.sampler.set_epoch` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the batches of `epoch`."""
        if epoch != self.epoch:
            self.epoch, self.start, self._position = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where the running epoch stands: `position` batches of `epoch` were handed out."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on after the batches that the state counts; a finished epoch starts the next."""
        epoch, position = state["epoch"], state["position"]
        if position >= len(self):
            epoch, position = epoch + 1, 0
        self.epoch, self.start, self._position = epoch, position, position

    def indices(self, epoch: int) -> list[Tensor]:
        """The images of each batch of `epoch` on this rank: int64 tensors."""
        order = self._order(epoch)
        return [self._share(order, b) for b in range(len(self))]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.split))
        return torch.randperm(len(self.split), generator=_generator(f"{self.seed}/{epoch}"))

    def _share(self, order: Tensor, b: int) -> Tensor:
        size = self.batch_size * self.world
        together = order[b * size : (b + 1) * size]
        share = together.tensor_split(self.world)[self.rank]
        return share if len(share) else together[self.rank % len(together)].reshape(1)

    def _batch(self, order: Tensor, epoch: int, b: int) -> Batch:
        # numbered as a single rank would number them
        key = f"{self.seed}/{epoch}/{b * self.world + self.rank}"
        return self.split.batch(self._share(order, b), _generator(key) if self.augment else None)


class ByLength(Batches):
    """Batches of examples of like length, since short ones are filled up to the longest.

    A shuffled epoch is cut into pools of `POOL` batches; within a pool the examples are sorted by the split's
    `lengths`, and all batches are then shuffled. Without shuffling, the examples come sorted.
    """

    POOL = 50

    def _order(self, epoch: int) -> Tensor:
        order, lengths = super()._order(epoch), self.split.lengths  # type: ignore[attr-defined]
        if not self.shuffle:
            return lengths.argsort(stable=True)
        size = self.batch_size * self.world
        order = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in order.split(self.POOL * size)])
        batches = list(order.split(size))
        places = torch.randperm(len(order) // size, generator=_generator(f"{self.seed}/{epoch}/places"))
        return torch.cat([*(batches[i] for i in places.tolist()), *batches[len(places) :]])


def _ahead(jobs: Iterator[Callable[[], Batch]], depth: int) -> Iterator[Batch]:
    """The jobs' results in order, with up to `depth` of the coming ones worked on in the background."""
    if depth == 0:
        for job in jobs:
            yield job()
        return
    with ThreadPoolExecutor(1) as background:
        waiting = deque(background.submit(job) for job in islice(jobs, depth))
        while waiting:
            waiting.extend(background.submit(job) for job in islice(jobs, 1))
            yield waiting.popleft().result()


def _generator(key: str) -> torch.Generator:
    """A generator whose stream depends on `key` alone; neighbouring seeds or epochs share nothing."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)
