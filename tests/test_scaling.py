"""Larger minibatches: the learning rate that goes with them."""

import math

import pytest
import torch
from typer.testing import CliRunner

import pyroscvi as ps
from pyroscvi.cli import app
from pyroscvi.guides import MeanField
from pyroscvi.inference.fit import scaled
from pyroscvi.models import SCVI


def test_the_rate_follows_the_root_of_the_minibatch_that_there_is():
    assert scaled(3e-3, 128, 10_000) == 3e-3
    assert scaled(3e-3, 512, 10_000) == 6e-3
    assert scaled(3e-3, 32, 10_000) == 1.5e-3
    assert scaled(3e-3, 10**6, 512) == 6e-3  # there are no more cells than that
    assert scaled(3e-3, 1024, 50) == 3e-3  # nor for 128 of them


def test_a_fit_scales_its_rate_on_request_alone(cells):
    options = {"epochs": 1, "lr": 1e-2, "batch_size": 32, "validation": 0.0, "progress": False}
    plain = ps.fit(SCVI(latent=3), MeanField(), cells, **options)
    followed = ps.fit(SCVI(latent=3), MeanField(), cells, scale_lr=True, **options)
    assert plain.record["settings"]["lr"] == 1e-2
    assert followed.record["settings"]["lr"] == pytest.approx(1e-2 * math.sqrt(32 / 60))


def test_adam_goes_as_far_an_epoch_where_gradients_are_mostly_noise():
    """The rule itself: k times the cells at sqrt(k) times the rate, for a k-th part of the steps."""

    def gone(k, lr):
        generator = torch.Generator().manual_seed(0)
        x = torch.zeros(2000, requires_grad=True)
        adam = torch.optim.Adam([x], lr=lr)
        for _ in range(1600 // k):
            x.grad = -0.05 + torch.randn(2000, generator=generator) / math.sqrt(k)
            adam.step()
        return x.detach().mean().item()

    small, large = gone(1, scaled(1e-3, 128, 10**6)), gone(16, scaled(1e-3, 2048, 10**6))
    assert large == pytest.approx(small, rel=0.1)
    assert gone(16, 1e-3) < 0.4 * small  # as it was: too short
    assert gone(16, 16e-3) > 3 * small  # in proportion: too far


def test_the_command_line_scales_it_too():
    told = CliRunner().invoke(app, ["fit", "--help"], terminal_width=200)
    assert "--scale-lr" in told.output
