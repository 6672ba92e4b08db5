"""What a stranger's models do to a data flow: paths, state, shared parts, outputs of all kinds."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import lpt
from lpt import DataFlow


def small():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


# -- two flows ---------------------------------------------------------------------------------------------------------


def test_no_module_gets_edges_of_two_flows():
    part = small()
    whole, other = nn.Sequential(nn.Linear(4, 4), part), nn.Sequential(part, nn.Linear(2, 2))
    flow = lpt.attach_(part)
    with pytest.raises(ValueError, match=r"^1 is in another data flow"):
        lpt.attach_(whole)
    flow.remove()
    flow = lpt.attach_(whole)
    with pytest.raises(ValueError, match=r"^0\.0 is in another"):
        lpt.attach_(other)
    with pytest.raises(ValueError, match=r"^the model is in another"):
        lpt.attach_(part[0])
    flow.remove()
    lpt.attach_(other)


# -- what is last ------------------------------------------------------------------------------------------------------


def forms(flow):
    """Module -> how A and E are rounded: "-", "one", "dual"."""
    kinds = {n: (edge.activation, edge.error) for n, edge in flow.edges.items() if n != "(input)"}
    return {n: tuple("-" if q is None else q.form or "one" for q in both) for n, both in kinds.items()}


class Paths(nn.Module):
    """`c` runs in training alone, or, with `way`, when that says so."""

    def __init__(self, way=None):
        super().__init__()
        self.a, self.b, self.c, self.way = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), way

    def forward(self, x):
        h = self.b(self.a(x))
        return self.c(h) if (self.training if self.way is None else self.way) else h

    def features(self, x):
        return self.b(self.a(x))


MIDDLE = {"a": ("one", "one"), "b": ("one", "one"), "c": ("-", "dual")}


@pytest.mark.parametrize("first", [False, True])
def test_paths_of_training_and_evaluation_are_both_looked_at(first):
    model, x = Paths(), torch.randn(3, 4)
    flow = lpt.attach_(model)
    for training in (first, not first):
        model.train(training)
        model(x)
    assert forms(flow) == MIDDLE
    looks = flow.placing.entrance.modes
    model.train(first)(x)
    assert looks == {False, True}
    model.train()(x).sum().backward()
    flow.step()
    resumed = Paths()
    resumed.load_state_dict(model.state_dict())
    again = lpt.attach_(resumed)
    again.load_state_dict(flow.state_dict())
    assert torch.equal(resumed.eval()(x), model.eval()(x)) and forms(again) == MIDDLE


def test_an_edge_that_no_pass_saw_is_looked_at_before_the_next_one():
    model, x = Paths(way=False), torch.randn(3, 4)
    flow = lpt.attach_(model)
    model(x)
    assert forms(flow)["b"] == ("-", "dual")
    model.way = True
    model(x)  # too late for this one
    with pytest.warns(UserWarning, match="looked at once more"):
        model(x)
    assert forms(flow) == MIDDLE
    model(x)


@pytest.mark.parametrize("way", ["parts", "functional", "compiled"])
def test_a_model_that_is_never_called_is_told(way):
    torch._dynamo.reset()
    model, x = Paths(), torch.randn(3, 4)
    flow = lpt.attach_(model)
    if way == "compiled":
        with pytest.raises(Exception, match="call model\\(x\\) once"):
            torch.compile(model, backend="eager", fullgraph=True)(x)
        return
    if way == "parts":
        model.features(x).sum().backward()
    else:
        p = {n: p.detach() for n, p in model.named_parameters()}
        torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(p)
    with pytest.raises(ValueError, match="call model\\(x\\) once"):
        flow.step()
    flow.remove()
    flow = lpt.attach_(model, DataFlow(last="c", input="fp32"))
    model.features(x).sum().backward()
    flow.step()
    before = forms(flow)
    flow.report(x)
    assert forms(flow) == before == MIDDLE and not flow.placing.known


# -- what the first pass leaves ----------------------------------------------------------------------------------------


class Remembers(nn.Module):
    """Holds state of many kinds, and changes all of it when it runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.fixed = nn.Parameter(torch.full((2,), float("nan")), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.ema, self.log, self.table, self.names = torch.zeros(2), [], collections.OrderedDict(a=1), {"a"}
        self.cache, self.last = [torch.zeros(2)], collections.deque(maxlen=3)
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, x):
        y = self.layer(x) + torch.rand(2, generator=self.noise) + float(np.random.rand())
        with torch.no_grad():
            self.mean.add_(1)
        self.ema.add_(1)
        self.cache[0].add_(1)
        self.cache.append(torch.ones(1))
        self.log.append(1)
        self.table["b"] = len(self.log)
        self.table.move_to_end("a")
        self.names.add("b")
        self.last.append(len(self.log))
        return y


def test_the_first_pass_leaves_state_of_every_kind():
    model, x = Remembers(), torch.randn(3, 4)
    np.random.seed(0)
    lpt.attach_(model)
    model(x)
    drawn = np.random.get_state()[2]
    assert model.mean.tolist() == model.ema.tolist() == model.cache[0].tolist() == [1, 1] and model.fixed.isnan().all()
    assert model.log == [1] and list(model.table) == ["b", "a"] and model.names == {"a", "b"} and len(model.cache) == 2
    assert list(model.last) == [1] and model.last.maxlen == 3
    once = torch.Generator().manual_seed(0)
    torch.rand(2, generator=once)
    assert torch.equal(model.noise.get_state(), once.get_state())
    np.random.seed(0)
    np.random.rand()
    assert drawn == np.random.get_state()[2]


# -- what modules return -----------------------------------------------------------------------------------------------


class Attributes(dict):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__ = self


class NoUpdate(collections.OrderedDict):
    """As transformers' ModelOutput."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)

    def update(self, *args, **kwargs):
        raise RuntimeError("no update")


@dataclasses.dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    y: torch.Tensor
    n: int = 3


class Named(tuple):
    def __new__(cls, x, y):
        self = super().__new__(cls, (x, y))
        self.x, self.y = x, y
        return self


class Own:
    def __init__(self, x, y):
        self.x, self.y = x, y


class Stubborn(list):
    def __init__(self, x, y):
        super().__init__((x, y))
        self.x, self.y = x, y

    def __reduce_ex__(self, protocol):
        raise RuntimeError("no copies")


class Told:
    pass


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(x / 3, x / 7)


class Head(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.made, self.b = nn.Linear(4, 4), Returns(kind), nn.Linear(4, 2)

    def forward(self, x):
        self.out = self.made(self.a(x))
        return self.b(self.out.x + self.out.y if hasattr(self.out, "x") else x)


KINDS = [
    lambda x, y: Attributes(x=x, y=y), lambda x, y: NoUpdate(x=x, y=y), Pair, Named,
    collections.namedtuple("Plain", "x y"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_containers_of_ones_own_are_made_again(kind):
    model = Head(kind)
    flow = lpt.attach_(model, DataFlow(scaling="current"))
    model(torch.randn(3, 4)).sum().backward()
    out, format = model.out, lpt.formats.get("fp134")
    assert type(out) is type(kind(1, 2))
    items = list(out.values()) if isinstance(out, dict) else [out.x, out.y]
    for attribute, item in zip([out.x, out.y], items, strict=True):
        assert attribute is item and attribute.grad_fn is not None
        assert torch.equal(item, format.round(item, lpt.formats.scale_of(item, room=1)))
    flow.step()


@pytest.mark.parametrize("kind", [Own, Stubborn])
def test_what_cannot_be_made_again_is_refused(kind):
    model = Head(kind)
    flow = lpt.attach_(model)
    with pytest.raises(ValueError, match=rf"^made returns a {kind.__name__}, whose"):
        model(torch.randn(3, 4))
    flow.remove()
    lpt.attach_(model, DataFlow(rules=[{"pattern": "made", "activation": "fp32", "error": "fp32"}]))
    model(torch.randn(3, 4))


def test_what_the_network_returns_may_be_anything():
    model = nn.Sequential(nn.Linear(4, 4), Returns(Own))
    flow = lpt.attach_(model)
    model(torch.randn(3, 4))
    assert flow.left_out["1"] == "the network's output"


def test_what_holds_no_tensor_is_told_once():
    model = Head(lambda x, y: Told())
    flow = lpt.attach_(model)
    with pytest.warns(UserWarning, match="made returns a Told"):
        model(torch.randn(3, 4))
    model(torch.randn(3, 4))
    assert "returns a Told, in which no tensor" in str(flow.report())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_told(layout):
    x = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)
    lpt.attach_(model := nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"^an argument of the model is a nested tensor"):
        model(x)
