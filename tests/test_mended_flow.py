"""What a stranger's models do to a data flow: paths, state, shared parts, outputs of all kinds."""

import collections
import copy
import dataclasses

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
    with pytest.raises(ValueError, match="^1 is in another data flow"):
        lpt.attach_(whole)
    flow.remove()
    flow = lpt.attach_(whole)
    with pytest.raises(ValueError, match="^0.0 is in another"):
        lpt.attach_(other)
    with pytest.raises(ValueError, match="^the model is in another"):
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
    with pytest.warns(UserWarning, match="^c ran after|^b, c ran after|looked at"):
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
