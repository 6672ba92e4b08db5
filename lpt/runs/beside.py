"""A network that left, run over the validation part beside the one that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tasks.task import Task

Run = Callable[[tuple[Tensor, ...]], Tensor]


class Beside(nn.Module):
    """What `run` computes, as a module; counts where it is not what `network` computes.

    Attributes:
        all: predictions, of which one is an argmax over the last dimension.
        other: predictions that are not the network's.
        furthest: the largest distance of an output from the network's; inf where one is not finite and the other is.
        margin: of the predictions that are others, the largest distance of the network's two scores.
    """

    def __init__(self, run: Run, network: nn.Module) -> None:
        super().__init__()
        self.run, self.network = run, network
        self.all, self.other = 0, 0
        self.furthest, self.margin = 0.0, 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        found, wanted = self.run(inputs).cpu(), self.network(*inputs).cpu()
        distance = torch.where(found == wanted, 0, found - wanted).abs()
        distance = torch.where(found.isnan() & wanted.isnan(), 0, distance).nan_to_num(torch.inf)
        self.furthest = max(self.furthest, float(distance.max()))
        mine, theirs = (x.argmax(-1, keepdim=True) for x in (wanted, found))
        apart = (wanted.gather(-1, mine) - wanted.gather(-1, theirs))[mine != theirs]
        self.all += mine.numel()
        self.other += len(apart)
        self.margin = max([self.margin, *apart.tolist()])
        return found

    def told(self) -> str:
        """How far it is from the network, in one sentence."""
        if self.furthest == 0:
            return f"every output of the {self.all} predictions is lpt's own, bit for bit."
        but = f", whose two scores are at most {self.margin:.3g} apart in lpt" if self.other else ""
        return (
            f"{self.other} of {self.all} predictions are others than lpt's{but}; no output is further from lpt's than "
            f"{self.furthest:.3g}."
        )


def compared(run: Run, task: Task, program: str, why: str = "") -> dict[str, Any]:
    """{"metrics": the task's, as `run` computes them, "compared": what differs}.

    Args:
        run: what is compared with the task's model, on its validation part.
        task: the task.
        program: what runs it, by name and version.
        why: the reason of a difference, if there is one.
    """
    before = task.model
    task.model = beside = Beside(run, before)
    try:
        metrics = task.measured("val")
    finally:
        task.model = before
    told = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
    because = f" {why}" if beside.furthest else ""
    return {"metrics": metrics, "compared": f"{program} on the validation part: {told}; {beside.told()}{because}"}


def taken(task: Task) -> list[Tensor]:
    """What the task gives to its model, two examples of it.

    Raises:
        UserError: not tensors alone, or the model does not return one tensor.
    """
    calls: list[tuple[Any, ...]] = []
    hook = task.model.register_forward_hook(
        lambda module, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            task.validation_step(list(next(iter(task.val_batches()))), 0)
            task.collected()
    finally:
        hook.remove()
    args, kwargs, out = calls[0]
    if len(calls) > 1 or kwargs or not all(isinstance(x, Tensor) for x in (*args, out)):
        raise UserError("only networks that make one tensor of tensors, once an example, leave in this way, and this "
                        "is called otherwise: its codes leave by to=FILE.safetensors")  # fmt: skip
    return [x[:1].repeat_interleave(2, 0) for x in args]


def shapes_differ(inputs: Sequence[Tensor]) -> UserError:
    """The error where a batch does not have the shape that the graph was made for."""
    shapes = ", ".join(str(list(x.shape)) for x in inputs)
    return UserError(f"batches of this data have no one shape (one is {shapes}), and the graph has: give "
                     "to=FILE.safetensors")  # fmt: skip
