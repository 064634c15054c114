"""A condition made unknown is one latent of every cell, wherever a page reads it: its levels summed by hand."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.table import log_evidence
from pyroscvi.guides import MeanField
from pyroscvi.handlers import intervene, unknown
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, LatentSize, OneHot, PerBatch, ReadCell, VampPrior

WEIGHTS = torch.tensor([0.3, 0.7])
READ_TWICE = SCVI(latent=2, likelihood=NB(dispersion=PerBatch()))  # before the plate, and by the design row within
READ_THRICE = SCVI(latent=1, size=LatentSize(), likelihood=NB(dispersion=PerBatch()))


def untrained(page, guide, cells):
    """A pair in which every batch has a dispersion of its own."""
    model = page.sized(cells.dims)
    with torch.no_grad():
        model.likelihood.dispersion.log_theta.normal_()
    return model.eval(), guide.sized(model, cells).eval()


class Noted(poutine.messenger.Messenger):
    """Remembers what was read."""

    def __enter__(self):
        self.codes = []
        return super().__enter__()

    def _pyro_post_read(self, message):
        self.codes.append(message["value"])


def test_both_uses_of_an_unknown_field_have_one_level_and_every_run_draws_its_own(cells):
    model, _ = untrained(READ_TWICE, MeanField(), cells)
    drawn = []
    with unknown("batch", WEIGHTS.log()):
        for _ in range(2):
            with Noted() as noted:
                site = poutine.trace(model).get_trace(cells).nodes["batch"]
            first, second = noted.codes
            assert first.shape == (60,)
            assert torch.equal(first, second)
            assert torch.equal(first, site["value"])
            assert [frame.name for frame in site["cond_indep_stack"]] == ["cells"]
            drawn.append(first)
    assert not torch.equal(*drawn)


def test_every_run_allocates_its_own_enumeration_dimension(cells):
    """The dimension of the levels is that of the current run, not that of the run before."""
    model, _ = untrained(READ_TWICE, MeanField(), cells)
    with unknown("batch", WEIGHTS.log()):
        for left in (2, 3):
            trace = poutine.trace(poutine.enum(model, first_available_dim=-left)).get_trace(cells)
            assert trace.nodes["batch"]["value"].shape == (2, *(1,) * (left - 1))
            assert trace.nodes["x"]["fn"].batch_shape == (2, *(1,) * (left - 2), 60)


def test_the_site_of_an_unknown_field_is_scaled_in_a_minibatch(cells):
    model, _ = untrained(READ_TWICE, MeanField(), cells)
    some = cells.take(torch.arange(15))
    nodes = poutine.trace(unknown("batch", WEIGHTS.log())(model)).get_trace(some).nodes
    assert nodes["batch"]["scale"] == nodes["x"]["scale"] == 4


@pytest.mark.parametrize("loss", [negative_elbo, TraceEnum_ELBO(max_plate_nesting=1).loss], ids=["ours", "pyro"])
def test_levels_of_an_unknown_field_are_summed_in_the_elbo(cells, loss):
    model, _ = untrained(READ_TWICE, MeanField(), cells)
    z = torch.randn(len(cells), 2)

    def given(cells):
        with cells.plate():
            pyro.sample("z", dist.Delta(z, event_dim=1))

    by_level = []
    for level in range(2):
        with intervene(batch=level):
            eta, log_theta = model.decoder(z, model.condition(cells)), model.likelihood.dispersion(cells)
        by_level.append(model.likelihood(cells.library, log_theta, **eta).log_prob(cells.x))
    summed = (torch.stack(by_level, -1) + WEIGHTS.log()).logsumexp(-1).sum() + dist.Normal(0.0, 1.0).log_prob(z).sum()
    result = loss(unknown("batch", WEIGHTS.log())(model), given, cells)
    assert torch.as_tensor(result).item() == pytest.approx(-summed.item(), rel=1e-5)


@pytest.mark.parametrize("page", [READ_TWICE, READ_THRICE], ids=["twice", "thrice"])
def test_evidence_is_the_weighted_sum_over_levels(cells, page):
    pair = untrained(page, MeanField(), cells)
    with unknown("batch", WEIGHTS.log()):
        mixed = log_evidence(pair, cells, 50, estimator=Importance())
    given = []
    for level in range(2):
        with intervene(batch=level):
            given.append(log_evidence(pair, cells, 50, estimator=Importance()))
    by_hand = np.logaddexp.reduce(WEIGHTS.log().numpy()[:, None] + np.stack(given))
    np.testing.assert_allclose(mixed, by_hand, atol=1e-6)
    assert np.abs(given[0] - given[1]).min() > 1e-3  # the levels differ in evidence, so that weights matter


def test_a_guide_that_reads_the_field_reads_it_as_unknown(cells):
    """Otherwise the guide would read one randomly drawn level, and the model another."""
    _, guide = untrained(READ_TWICE, MeanField(encoder=ReadCell(condition=OneHot("batch"))), cells)
    with torch.no_grad():
        expected = guide.posteriors(replace(cells, categories={}))["z"].mean
        with unknown("batch", WEIGHTS.log()):
            torch.testing.assert_close(guide.posteriors(cells)["z"].mean, expected)


@pytest.mark.parametrize("handler", [intervene(batch=1), unknown("batch", WEIGHTS.log())], ids=["set", "unknown"])
def test_pseudo_cells_keep_their_own_conditions(cells, handler):
    """The components of a VampPrior are posteriors at pseudo-cells: handlers of real cells do not change them."""
    guide = MeanField(encoder=ReadCell(condition=OneHot("batch")))
    model, _ = untrained(SCVI(latent=2, prior=VampPrior(3), likelihood=NB(dispersion=PerBatch())), guide, cells)

    def components():
        return (
            poutine.trace(poutine.enum(model, first_available_dim=-2)).get_trace(cells).nodes["z"]["fn"].mean.squeeze()
        )

    expected = components()
    with handler:
        assert torch.equal(components(), expected)
