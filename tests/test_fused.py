"""Compiled into one pass over memory or not: the same bits, in everything that training leaves behind."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import lpt
import lpt.dataflow.quantizer
from lpt.dataflow.quantizer import Mode, Quantizer
from lpt.formats.fused import fused
from lpt.formats.kernels import Library
from lpt.models import ResNet

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    return str(request.param)


def left_behind(
    fuse: bool | int, weights: str, layout: torch.memory_format, device: str, **flow: object
) -> dict[str, Tensor]:
    """Parameters, scales and flips after three steps of a small network; `fuse`: a number of eager steps before."""
    torch.manual_seed(0)
    # oneDNN's backward of 4 channels, channels last, reads what it should not on some processors (torch 2.14).
    model = ResNet(8, classes=4, in_channels=3, width=8).to(device, memory_format=layout)  # type: ignore[call-overload]
    handle = lpt.attach_(model, lpt.DataFlow(**flow))  # type: ignore[arg-type]
    kernels = None if fuse is False else Library(ahead=False)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    held = lpt.attach_weights_(model, opt, weights)
    for i in range(3):
        if i >= fuse - (fuse is True):
            handle.mode.kernels = held.kernels = kernels
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)).to(device, memory_format=layout)
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(4, device=device)).backward()
        handle.step()
        opt.step()
    scales = {name: q.scale for name, q in handle._parts().items()}
    return {**dict(model.named_parameters()), **scales, **held.masters, "flips": held.flips()}


@pytest.mark.parametrize(
    "weights, flow",
    [
        ("log4_hyst", {}),
        ("int8_sr", {"rounding": "stochastic", "error": "fp152"}),
        ("posit8_1", {"scaling": "current", "activation": "posit8_1"}),
    ],
)
def test_fused_training_leaves_the_same_bits(weights: str, flow: dict[str, object], device: str) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        plain, *others = (left_behind(fuse, weights, layout, device, **flow) for fuse in (False, True, 2))
        assert not [name for name in plain for other in others if not torch.equal(plain[name], other[name])]


def test_views_and_odd_layouts(device: str) -> None:
    x, rows = torch.randn(6, 5, 4, device=device), torch.randn(5, 1024, device=device)
    views = [x, x.permute(2, 0, 1), x[:, ::2], x[0, 0, :1], x[:0], x[:, :1].expand(6, 5, 4), x[2, 3, 1]]
    views += [rows, rows[:1], rows[:0], rows[0], rows.view(4, 5, 256)]
    for key in (None, "seed"):
        plain, once = (
            Quantizer(lpt.formats.get("fp134"), 1, True, Mode(kernels=k), key) for k in (None, Library(ahead=False))
        )
        for quantizer in (plain, once):
            quantizer.to(x.device)
            quantizer.scale.fill_(2)
            quantizer.started = True
        for view in views:
            assert torch.equal(plain(view, True), once(view, True)), view.stride()
        assert torch.equal(plain.seen, once.seen)


def test_rows_give_the_bits_of_flat_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's way of laying out memory, on the CPU."""
    x = torch.randn(6, 2, 1024)
    x[0, 0, :3] = torch.tensor([torch.inf, torch.nan, -0.0])
    x[3, 1, 7] = -100
    for seed in (None, "seed"):
        plain, once = (
            Quantizer(lpt.formats.get("fp134"), 1, True, Mode(kernels=k), seed) for k in (None, Library(ahead=False))
        )
        for quantizer in (plain, once):
            quantizer.scale.fill_(2)
            quantizer.started = True
        monkeypatch.setattr(lpt.dataflow.quantizer, "flat", lambda t: t.view(-1, 1024))
        for part in (x, x[:3], x[5:]):
            assert torch.equal(plain(part, True).nan_to_num(77), once(part, True).nan_to_num(77))
        assert plain.seen == once.seen == 100


def test_each_function_is_compiled_by_itself() -> None:
    """More functions of one definition than torch.compile would recompile for."""

    def times(n: int) -> Tensor:
        return fused(lambda x: x * float(n))(torch.ones(3))

    assert [times(n)[0].item() for n in range(12)] == list(range(12))


def test_a_function_takes_more_kinds_of_arguments_than_torch_compiles_one_for() -> None:
    """As a sweep has them: rooms, dtypes, a key or none, autocast; here where torch would take one."""

    def plain(x: Tensor, room: int, key: Tensor | None) -> Tensor:
        return x * 2.0**room if key is None else x * 2.0**room + key

    once = fused(plain)
    with torch._dynamo.config.patch(recompile_limit=1):
        for room, dtype, key in (
            (0, torch.float32, None), (1, torch.float32, None), (1, torch.float32, torch.tensor(1)),
            (1, torch.bfloat16, None),
        ):  # fmt: skip
            x = torch.ones(5, dtype=dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                assert torch.equal(once(x, room, key), plain(x, room, key))


def test_what_torch_gives_up_runs_eagerly_and_says_so() -> None:
    once = fused(lambda x: x + 1)
    threads = torch.get_num_threads()  # of which torch asks, too
    try:
        with torch._dynamo.config.patch(recompile_limit=1):
            torch.set_num_threads(threads)
            assert once(torch.zeros(3))[0] == 1
            torch.set_num_threads(threads + 1)
            with pytest.warns(UserWarning, match="runs eagerly: slower, but the same values"):
                assert once(torch.zeros(3))[0] == 1
            assert once(torch.zeros(3))[0] == 1
    finally:
        torch.set_num_threads(threads)


def test_a_model_with_kernels_can_be_copied_and_pickled() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    handle = lpt.attach_(model)
    handle.mode.kernels = Library(ahead=False)
    x = torch.randn(3, 4)
    for _ in range(2):
        model(x).sum().backward()
        handle.step()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(handle)).model):
        assert torch.equal(twin(x), model(x))


def test_a_gradient_that_is_written_in_place_has_a_new_version() -> None:
    """By code of either kind, as after any other write."""
    plain, once = (Quantizer(lpt.formats.get("fp134"), 1, True, Mode(kernels=k)) for k in (None, Library(ahead=False)))
    x = torch.randn(100)
    for quantizer in (plain, once):
        quantizer.scale.fill_(2)
        quantizer.started = True
        for _ in range(3):
            written, version = x.clone(), 0
            quantizer.write(written)
            assert written._version > version
    assert torch.equal(written, plain(x, True)) and plain.seen == once.seen
