"""Quantization enters a run here: Edges, products and quantized weights on, G before the step, W around it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
from torch import nn

from ..dataflow import DataFlow, Flow, Multiplied, Products, attach_, attach_products_
from ..errors import UserError
from ..execution.bf16 import ExactProducts
from ..execution.packing import Packing
from ..formats.kernels import Library
from ..weights import QuantizedWeights
from .step import every_rank, own_rank


class Quantization(pl.Callback):
    """Quantizes the task's `.model`: its data flow as `flow` says, its weights as `weights(model)` says.

    Args:
        flow: formats of A, E and G.
        weights: model -> its quantized weights.
        compile: "auto", rounding eagerly until its compiled code is there; "rounding", waiting for that code; True, to
            compile the model as well, once every tracked scale has started: with the second step, as a rule; False.
        packed: keep codes for the backward pass (`lpt/execution/packing.py`).
        bf16: the Trainer's precision is bf16-mixed (`lpt/execution/bf16.py`).
        products: what the operands of products are rounded to, where they are used.

    The order within one optimizer step: backward (A, E), accumulation and all-reduce, G rounded, masters put in,
    gradients clipped, optimizer's step on the masters, new masters rounded into the parameters.
    """

    flow: Flow
    weights: QuantizedWeights

    def __init__(
        self, flow: DataFlow, weights: Callable[[nn.Module], QuantizedWeights], compile: bool | str = False,
        packed: bool = False, bf16: bool = False, products: Products | None = None,
    ) -> None:  # fmt: skip
        self.make_products = products or Products()
        self.products: Multiplied | None = None
        self.make_flow, self.make_weights = flow, weights
        self.compile, self.packed, self.bf16 = compile, packed, bf16
        self._execution: list[ExactProducts | Packing] = []
        self._hook: Any = None
        self._compiled = False
        self.kernels: Library | None = None

    @staticmethod
    def of(trainer: pl.Trainer) -> Quantization:
        """The one in `trainer`'s callbacks."""
        return next(c for c in trainer.callbacks if isinstance(c, Quantization))  # type: ignore[attr-defined]

    def check(self, model: nn.Module) -> None:
        """Raise what `setup` would raise, without touching `model`.

        Raises:
            ValueError: a rule or pattern that matches nothing, a scheme that does not fit.
        """
        trial = copy.deepcopy(model)
        attach_(trial, self.make_flow).remove()
        if self.make_products.asked:
            attach_products_(trial, self.make_products).remove()
        self.make_weights(trial)

    def setup(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        # Masters live where the parameters live, so the model moves before they are made, not after.
        task.to(trainer.strategy.root_device)
        self.flow = attach_(task.model, self.make_flow)
        if self.make_products.asked:
            self.products = attach_products_(task.model, self.make_products)
        # To test after training is to go on with the weights of the training.
        if not hasattr(self, "weights") or self.weights.model is not task.model:
            self.weights = self.make_weights(task.model)
        if self.bf16:
            self._execution.append(ExactProducts(self.flow))
        if self.packed:
            self._execution.append(Packing(self.flow))
        if self.compile:
            self.kernels = Library(wait=self.compile != "auto")
        self.flow.mode.kernels = self.weights.kernels = self.kernels
        if self.products is not None:
            self.products.switches.kernels, self.products.switches.packed = self.kernels, self.packed

    def on_fit_start(self, trainer: pl.Trainer, task: Any) -> None:
        optimizer = trainer.optimizers[0]
        self.weights.steps = task.total_steps
        try:
            self.weights.admit(optimizer)
        except ValueError as error:
            raise UserError(f"weights and optimizer: {error}") from error
        self._hook = optimizer.register_step_post_hook(lambda optimizer, *_: self.weights.update(optimizer))

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        if self.products is not None:
            self.products.advance(trainer.global_step / task.total_steps)
        if self.compile is True and not self._compiled and self.flow.started:
            if trainer.is_global_zero:
                print("compiling the model: this step takes a minute or more, later ones do not", file=sys.stderr)
            task.model.compile()
            self._compiled = True

    def on_before_optimizer_step(self, trainer: pl.Trainer, task: Any, optimizer: Any) -> None:
        self.flow.step()
        self.weights.swap_in(optimizer)

    def on_validation_batch_start(self, trainer: Any, task: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if not batch_idx and (name := self.weights.stray()):
            raise UserError(
                f"{name!r} is validated with values off its grid, which another callback has put there (Lightning's "
                "averages are of rounded weights): averaging=ema or averaging=swa averages as it should be"
            )

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, A, E and the operands of products are not rounded, and nothing is observed."""
        with self.flow.off(), nullcontext() if self.products is None else self.products.off():
            yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Within, all is rounded as it is at present; nothing is observed, nothing moves."""
        with self.flow.probe(), nullcontext() if self.products is None else self.products.probe():
            yield

    @contextmanager
    def measured_products(self) -> Iterator[Callable[[], Any]]:
        """Within, saturation and underflow of the products' operands are counted, see `Multiplied.measure`."""
        if self.products is None:
            yield dict
            return
        with self.products.measure() as counts:
            yield counts

    def on_exception(self, trainer: pl.Trainer, task: Any, exception: BaseException) -> None:
        if hasattr(self, "weights"):
            self.weights.restore()

    def teardown(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        for part in self._execution:
            part.remove()
        if hasattr(self, "flow"):
            self.flow.remove()
        if self.products is not None:
            self.products.remove()
        if self._hook is not None:
            self._hook.remove()
        if self.kernels is not None and self.kernels.why_not and trainer.is_global_zero:
            print(f"some of it ran eagerly: slower, but the same values ({self.kernels.why_not})", file=sys.stderr)

    def state_dict(self) -> dict[str, Any]:
        state = {"flow": every_rank(self.flow.state_dict()), "weights": self.weights.state_dict()}
        return state if self.products is None else {**state, "products": every_rank(self.products.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(own_rank(state["flow"]))
        self.weights.load_state_dict(state["weights"])
        if self.products is not None:
            self.products.load_state_dict(own_rank(state.get("products", [{}])))
