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
