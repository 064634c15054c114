"""The learning rate for larger minibatches (``scale_lr``)."""

import pytest
from typer.testing import CliRunner

import pyroscvi as ps
from pyroscvi.cli import app
from pyroscvi.fitting.fit import scaled
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI


def test_the_rate_follows_the_size_of_the_minibatch():
    assert scaled(3e-3, 128, 10_000) == 3e-3
    assert scaled(3e-3, 512, 10_000) == 6e-3
    assert scaled(3e-3, 32, 10_000) == 1.5e-3
    assert scaled(3e-3, 10**6, 512) == 6e-3  # a minibatch has no more than all 512 cells
    assert scaled(3e-3, 1024, 50) == 3e-3  # with 50 cells, minibatches of 128 and of 1,024 are the same
    largest = scaled(3e-3, 1024, 10**6)
    assert scaled(3e-3, 10**6, 10**6) == largest == pytest.approx(8.485e-3, rel=1e-4)  # larger ones were not measured


def test_a_fit_scales_its_rate_only_on_request(cells):
    options = {"epochs": 1, "lr": 1e-2, "batch_size": 32, "validation": 0.0, "progress": False}
    plain = ps.fit(SCVI(latent=3), MeanField(), cells, **options)
    scaled_fit = ps.fit(SCVI(latent=3), MeanField(), cells, scale_lr=True, **options)
    assert plain.record["settings"]["lr"] == 1e-2
    assert scaled_fit.record["settings"]["lr"] == pytest.approx(1e-2 * (32 / 60) ** 0.5)


def test_the_command_line_has_the_option():
    result = CliRunner().invoke(app, ["fit", "--help"], terminal_width=200)
    assert "--scale-lr" in result.output
