"""Larger minibatches: the learning rate that goes with them."""

import pytest
from typer.testing import CliRunner

import pyroscvi as ps
from pyroscvi.cli import app
from pyroscvi.fitting.fit import scaled
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI


def test_the_rate_follows_the_minibatch_that_there_is():
    assert scaled(3e-3, 128, 10_000) == 3e-3
    assert scaled(3e-3, 512, 10_000) == 6e-3
    assert scaled(3e-3, 32, 10_000) == 1.5e-3
    assert scaled(3e-3, 10**6, 512) == 6e-3  # there are no more cells than that
    assert scaled(3e-3, 1024, 50) == 3e-3  # nor for 128 of them
    most = scaled(3e-3, 1024, 10**6)
    assert scaled(3e-3, 10**6, 10**6) == most == pytest.approx(8.485e-3, rel=1e-4)  # no further than was measured


def test_a_fit_scales_its_rate_on_request_alone(cells):
    options = {"epochs": 1, "lr": 1e-2, "batch_size": 32, "validation": 0.0, "progress": False}
    plain = ps.fit(SCVI(latent=3), MeanField(), cells, **options)
    followed = ps.fit(SCVI(latent=3), MeanField(), cells, scale_lr=True, **options)
    assert plain.record["settings"]["lr"] == 1e-2
    assert followed.record["settings"]["lr"] == pytest.approx(1e-2 * (32 / 60) ** 0.5)


def test_the_command_line_scales_it_too():
    told = CliRunner().invoke(app, ["fit", "--help"], terminal_width=200)
    assert "--scale-lr" in told.output
