"""Hidden layers: norms that follow each other, and activations."""

import pytest
import torch
from torch.testing import assert_close

from pyroscvi.parts import MLP, BatchNorm, Chain, Decoder, LayerNorm, LeakyReLU, NoNorm, ReadCell, ReLU, Tanh
from pyroscvi.parts.layers import Layers
from pyroscvi.sugar import parse


def test_norms_that_are_added_follow_each_other():
    norm = BatchNorm() + LayerNorm()
    assert repr(norm) == "Chain(first=BatchNorm(), second=LayerNorm())"
    norm, h = norm.sized(4), torch.randn(20, 4)
    assert_close(norm(h), norm.second(norm.first(h)))
    assert_close(norm(h).mean(-1), torch.zeros(20), atol=1e-6, rtol=0)  # the layer norm came last
    three = (BatchNorm() + LayerNorm() + NoNorm()).sized(4)
    assert_close(three(h), norm(h))


def test_an_activation_is_applied_to_every_hidden_layer():
    layers = Layers(widths=(3, 5), norm=NoNorm(), activation=Tanh()).sized(2).eval()
    x = torch.randn(7, 2)
    h = torch.tanh(layers.linear[1](torch.tanh(layers.linear[0](x))))
    assert_close(layers(x, torch.zeros(7, 0)), h)


def test_networks_are_declared_with_an_activation():
    for part in (MLP(activation=Tanh()), ReadCell(activation=LeakyReLU(slope=0.2))):
        assert "activation=" in repr(part)
    assert repr(parse(Decoder, "mlp:activation=leaky_relu")) == "MLP(activation=LeakyReLU())"
    assert repr(MLP(activation=ReLU())) == "MLP()"
    with pytest.raises(TypeError, match="activation must be a Activation, not 'tanh': write activation=Tanh"):
        MLP(activation="tanh")
    assert isinstance(BatchNorm() + NoNorm(), Chain)
