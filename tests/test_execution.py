"""memory=packed, precision=bf16, and what a training step must not do: wait for the device, or grow."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet18 as stock_resnet18

import lpt
import lpt.execution.packing as packing_of
from lpt.execution.bf16 import ExactProducts
from lpt.execution.packing import Packing
from lpt.formats.kernels import Library
from lpt.models import LSTMLanguageModel, ResNet, Transformer, torchvision

ROOT = Path(__file__).resolve().parents[1]
CUBES = lpt.formats.Table("cubes", [i**3 / 1e3 for i in range(-100, 101)])
Made = tuple[nn.Module, Callable[[], Tensor]]


def images(model: nn.Module, size: int = 16) -> Made:
    x, y = torch.randn(4, 3, size, size), torch.arange(4)
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def resnet8() -> Made:
    return images(ResNet(8, classes=4, in_channels=3, width=4))


def resnet18() -> Made:  # ReLUs in place, max-pooling, dense layers behind a view
    return images(torchvision("resnet18", classes=4), 64)


def lstm() -> Made:
    model, words = LSTMLanguageModel(11, width=6), torch.randint(11, (5, 4))
    return model, lambda: nn.functional.cross_entropy(model(words)[0].flatten(0, 1), torch.arange(20) % 11)


def transformer() -> Made:
    model, tokens = Transformer(13, 0, width=8, layers=1, heads=2, feedforward=12), torch.randint(1, 13, (5, 4))
    return model, lambda: nn.functional.cross_entropy(model(tokens, tokens).flatten(0, 1), torch.arange(20) % 13)


def in_place() -> Made:
    """Values that leave the grid behind an Edge's back; a ReLU in place, and a view of what it made."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)
            self.last = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y += 0.3
            z = self.relu(self.second(y)).view(-1, 2, 3)
            return self.last((z * z).flatten(1) + y.sigmoid())

    model, x = Odd(), torch.randn(4, 6)
    return model, lambda: nn.functional.cross_entropy(model(x), torch.arange(4))


def trained(
    make: Callable[[], Made], packed: bool, fuse: bool = False, steps: int = 3, **flow: Any
) -> tuple[list[Tensor], int]:
    """Gradients of all steps, and the bytes that the graph kept in the last one."""
    torch.manual_seed(0)
    model, loss = make()
    handle = lpt.attach_(model, lpt.DataFlow(**flow))
    handle.mode.kernels = Library(ahead=False) if fuse else None
    packing = Packing(handle) if packed else None
    gradients = []
    for step in range(steps):
        torch.manual_seed(step)  # of dropout
        model.zero_grad()
        loss().backward()
        handle.step()
        gradients += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad if p.grad is not None else 0
    return gradients, packing.saved_bytes if packing else 0


# -- memory=packed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [{}, {"scaling": "current", "activation": "posit8_1"}, {"rounding": "stochastic"},
                                  {"activation": "int8_full"}, {"activation": "fp169"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("make", [resnet8, lstm, transformer, in_place])
def test_packed_gradients_are_the_same_bits(make: Callable[[], Made], flow: dict[str, Any]) -> None:
    plain = trained(make, False, **flow)[0]
    for fuse in (False, True):
        packed = trained(make, True, fuse, **flow)[0]
        assert len(plain) == len(packed) > 0
        assert all(torch.equal(a, b) for a, b in zip(plain, packed, strict=True))


def test_resnet18_keeps_less_than_045_of_what_stock_torch_keeps() -> None:
    torch.manual_seed(0)
    model, x = stock_resnet18(num_classes=4), torch.randn(4, 3, 64, 64)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)
    packed = trained(resnet18, True)[1]
    del out
    assert 0 < packed <= 0.45 * sum(kept.values())


def test_what_is_kept_must_not_be_changed_in_place() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            z = torch.sigmoid(self.first(x))
            z.mul_(3.0)
            return self.second(z)

    model = Changing()
    Packing(lpt.attach_(model))
    loss = model(torch.randn(3, 5)).sum()
    with pytest.raises(RuntimeError, match=r"changed in place.*\(3, 6\)"):
        loss.backward()
    model, loss_of = resnet8()
    Packing(lpt.attach_(model))
    loss = loss_of()
    with torch.no_grad():
        next(model.parameters()).mul_(2)
        model.fc.weight.mul_(2)  # type: ignore[union-attr, operator]
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_packing_leaves_evaluation_and_removed_models_alone() -> None:
    model, loss = resnet8()
    handle = lpt.attach_(model)
    packing = Packing(handle)
    with torch.no_grad():
        loss()
    assert packing.saved_bytes == 0
    with pytest.raises(RuntimeError):
        model(torch.randn(1))  # what fails within the forward pass leaves no hook of autograd behind
    assert handle.mode.made is None
    packing.remove()
    loss().backward()
    assert packing.saved_bytes == 0


# -- precision=bf16 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["log4", "int8", "fp134", "int4"])
def test_single_products_are_exact(weights: str) -> None:
    """All values of FP134 times all of a weight format, as a matrix product with nothing to add up."""
    a, b = (lpt.formats.get(name).values().float() for name in ("fp134", weights))
    assert torch.equal(a, a.bfloat16().float()) and torch.equal(b, b.bfloat16().float())
    exact = (a.double()[:, None] * b.double()[None]).float()
    assert torch.equal(exact.double(), a.double()[:, None] * b.double()[None])  # float32 holds every product
    with torch.autocast("cpu", torch.bfloat16):
        found = a[:, None] @ b[None]
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())


def test_bf16_operands_are_those_of_float32_and_dual_products_stay_in_float32() -> None:
    torch.manual_seed(0)
    model, loss = resnet8()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = lpt.attach_(model)
    lpt.attach_weights_(model, opt, "log4_hyst")
    ExactProducts(handle)
    seen: dict[str, tuple[torch.dtype, Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(
                lambda m, args, y, name=name: seen.update({name: (y.dtype, args[0].detach(), m.weight.detach())})
            )
    with torch.autocast("cpu", torch.bfloat16):
        value = loss()
    value.backward()
    first, *middle, last = seen
    assert (seen[first][0], seen[last][0]) == (torch.float32, torch.float32)
    assert {seen[name][0] for name in middle} == {torch.bfloat16}
    for name in middle:
        _, a, w = seen[name]
        assert torch.equal(a.bfloat16().float(), a.float()) and torch.equal(w.bfloat16().float(), w), name
    assert not torch.equal(seen[first][1].bfloat16().float(), seen[first][1])  # the sum of two values would be cut off
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_bf16_of_a_compiled_model_is_that_of_an_eager_one() -> None:
    """Traced, not compiled, so that the arithmetic stays the same: the bits must, too, dual products among them."""

    def gradients(compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, loss = resnet8()
        handle = lpt.attach_(model)
        exact = ExactProducts(handle)
        found = []
        for step in range(3):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                value = loss()
                assert torch.is_autocast_enabled("cpu")
            value.backward()
            handle.step()
            found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
            if compiled and step == 0:
                model.compile(backend="eager", fullgraph=True)
        assert exact._dual == {"conv", "fc"}
        return found

    eager, traced = gradients(False), gradients(True)
    assert len(eager) == len(traced) > 0 and all(a.equal(b) for a, b in zip(eager, traced, strict=True))


def test_a_product_that_fails_leaves_autocast_as_it_was() -> None:
    model, _ = resnet8()
    ExactProducts(lpt.attach_(model))
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 5, 8, 8))
        assert torch.is_autocast_enabled("cpu")


# -- the step ----------------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Lists what makes the host wait for a GPU: reading a value, and copies between the host and the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seen: list[str] = []
        tensor = torch.tensor  # sends numbers to a device without telling the dispatcher

        def spied(*args: Any, **kwargs: Any) -> Tensor:
            if torch.device(kwargs.get("device") or "cpu").type != "cpu":
                self.seen.append("torch.tensor")
            return tensor(*args, **kwargs)

        monkeypatch.setattr(torch, "tensor", spied)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        leaves = pytree.tree_leaves((args, kwargs, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
        reading = func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        if reading or len(devices) > 1:
            self.seen.append(str(func))
        return result


def stepping(weights: str, packed: bool, device: str = "cpu", **flow: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    with torch.device(device):
        model, loss = resnet8()
        model.never_called = nn.Linear(2, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = lpt.attach_(model, lpt.DataFlow(**flow))
    if device == "meta":  # which has no value to tell that a scale has started
        for quantizer in handle._parts().values():
            quantizer.started = True
    lpt.attach_weights_(model, opt, weights)
    if packed:
        Packing(handle)

    def step() -> None:
        opt.zero_grad()
        loss().backward()
        handle.step()
        opt.step()

    return step


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "weights, flow",
    [
        ("log4_hyst", {}),
        ("int8_sr", {"rounding": "stochastic", "error": "fp152"}),
        ("posit8_1", {"scaling": "current", "activation": CUBES, "error": "posit8_1"}),
    ],
)
def test_a_step_never_waits_for_the_device(
    weights: str, flow: dict[str, Any], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are read on a CPU as they are on a GPU; the meta device, which holds none, shows what is copied there."""
    for device in ("cpu", "meta"):
        step = stepping(weights, packed, device, **flow)
        for _ in range(5):  # scales start, tables are put in place; what is never called is asked at 1, 2, 4, 8
            step()
        with monkeypatch.context() as patch, Waits(patch) as waits:
            step()
        assert waits.seen == [], device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("weights", ["log4_hyst", "int8_sr"])
def test_a_step_never_waits_for_a_gpu(weights: str, packed: bool) -> None:
    step = stepping(weights, packed, "cuda")
    for _ in range(5):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, Waits(patch) as waits:
        torch.ones(1).item()
        torch.ones(1).to("meta")
        torch.tensor([1], device="meta")
    assert len(waits.seen) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow(packed: bool) -> None:
    step = stepping("log4_hyst", packed)

    def held() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    for _ in range(5):
        step()
    before = held()
    for _ in range(50):
        step()
    assert held() <= before


HEAP = """
import resource, sys
from pathlib import Path
import torch
from lpt.execution.heap import give_back, keep_freed_memory
if not keep_freed_memory(): sys.exit(9)
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = held()
wall = [torch.ones(2**20) for _ in range(8)]  # 4 MB each; the last one keeps the heap from shrinking at its end
del wall[:-1]
print(held() - before)
give_back()
print(held() - before)
"""


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HEAP], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 9:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    kept, left = map(int, done.stdout.split())
    assert 30e6 < kept < 40e6 and left < 8e6


def test_packing_tidies_the_heap_as_values_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[int] = []
    monkeypatch.setattr(packing_of, "give_back", lambda: tidied.append(1))
    monkeypatch.setattr(packing_of, "FREED", 40_000)
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10))
    handle = lpt.attach_(model)
    Packing(handle)
    for count in range(1, 4):  # 100 x 100 values are kept as codes, and decoded
        model(torch.randn(100, 10)).sum().backward()
        handle.step()
        assert len(tidied) >= count


def test_the_script_measures_each_part(tmp_path: Path) -> None:
    out = tmp_path / "made" / "execution.json"
    command = [sys.executable, "scripts/execution.py", "--batch", "2", "--size", "32", "--rounds", "1", "--steps", "20"]
    done = subprocess.run([*command, "--threads", "1", "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    kept = {variant: row["kept_mb"] for variant, row in found["memory"].items()}
    assert kept["stock torch"] > 2 * kept["memory=packed"] > 0
    assert found["bf16"]["first product's output"] == 0 and len(found["growth"]) == 2
    assert subprocess.run([*command, "--size", "8"], cwd=ROOT, capture_output=True).returncode == 2
