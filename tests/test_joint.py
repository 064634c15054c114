"""The joint density of a cell's counts and latents, against sums written by hand."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import untrained
from pyro import poutine
from torch.testing import assert_close

from pyroscvi.distributions import NegativeBinomial
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.reader import copied
from pyroscvi.evidence.table import log_evidence
from pyroscvi.guides import MeanField
from pyroscvi.handlers import intervene, unknown
from pyroscvi.models import CVAE, LDVAE, SCVI, Annotated
from pyroscvi.parts import (
    NB,
    LatentSize,
    Mixture,
    OneHot,
    Poisson,
)


def draws_of(pair, cells, s=6):
    model, guide, cells = copied(*pair, cells)
    joint = Joint(model, guide.sites, cells)
    return joint, torch.randn(s, len(cells), joint.size, dtype=torch.float64)


def counts_by_hand(model, cells, z):
    eta = model.decoder(z, model.condition(cells))
    log_mu = cells.x.sum(-1, keepdim=True).log() + eta["rho"].log_softmax(-1)
    return NegativeBinomial(log_mu, model.likelihood.dispersion.log_theta).log_prob(cells.x)


def test_a_mixture_prior_is_summed(cells):
    joint, z = draws_of(untrained(SCVI(latent=2, prior=Mixture(4), likelihood=NB()), MeanField(), cells), cells)
    prior = joint.model.prior
    log_prior = (prior.w.log_softmax(-1) + dist.Normal(prior.m, prior.s).log_prob(z.unsqueeze(-2)).sum(-1)).logsumexp(
        -1
    )
    by_hand = log_prior + counts_by_hand(joint.model, joint.cells, z)
    assert_close(joint(z), by_hand)
    responsibilities = (joint.by_level(z, "k") - joint(z)).exp()
    assert_close(responsibilities.sum(0), torch.ones_like(responsibilities[0]))


def test_known_and_unknown_labels_are_summed(cells):
    joint, z = draws_of(untrained(Annotated(latent=2), MeanField(), cells), cells)
    m, label = joint.model, cells.label
    assert 0 < (label < 0).sum() < len(cells)
    log_label = torch.where((label >= 0)[:, None], m.C[:, label.clamp(min=0)].T, 1.0).log()
    log_state = dist.Normal(m.m, m.s).log_prob(z.unsqueeze(-2)).sum(-1)
    log_prior = (m.w.log_softmax(-1) + log_label + log_state).logsumexp(-1)
    assert_close(joint(z), log_prior + counts_by_hand(m, joint.cells, z))
    assert_close(joint.log_likelihood(z), counts_by_hand(m, joint.cells, z))


def test_a_component_that_the_decoder_reads_is_summed(cells):
    class Shifted(SCVI):
        """Two kinds of cell that differ in the state that they are decoded from."""

        def model(self, cells):
            log_theta = self.likelihood.dispersion(cells)
            with cells.plate():
                k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"})
                z = self.prior()
                eta = self.decoder(z + k.unsqueeze(-1), self.condition(cells))
                pyro.sample("x", self.likelihood(self.size(cells), log_theta, **eta), obs=cells.x)

    joint, z = draws_of(untrained(Shifted(latent=2, likelihood=NB()), MeanField(), cells), cells)
    given_k = torch.stack([counts_by_hand(joint.model, joint.cells, z + k) for k in range(2)])
    log_likelihood = (given_k + torch.tensor([0.2, 0.8]).log()[:, None, None]).logsumexp(0)
    assert_close(joint(z), log_likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert_close(joint.log_likelihood(z), log_likelihood)


def test_a_size_on_the_half_line_brings_its_volume(cells):
    joint, u = draws_of(untrained(SCVI(latent=2, size=LatentSize(), likelihood=NB()), MeanField(), cells), cells)
    assert list(joint.sites) == ["l", "z"]
    m, log_l, z = joint.model, u[..., :1], u[..., 1:]
    log_mu = log_l + m.decoder(z, m.condition(joint.cells))["rho"].log_softmax(-1)
    moments = m.size.m[cells.batch], m.size.s[cells.batch]
    by_hand = dist.Normal(*moments).log_prob(log_l[..., 0]) + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    by_hand = by_hand + NegativeBinomial(log_mu, m.likelihood.dispersion.log_theta).log_prob(joint.cells.x)
    assert_close(joint(u), by_hand)


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_a_size_drawn_out_of_range_has_no_weight(small, far):
    """A wide proposal may draw a log size whose exponential is 0 or infinity: its density is tiny, without error."""
    model, guide, cells = copied(*untrained(LDVAE(latent=2), MeanField(), small), small)
    joint = Joint(model, guide.sites, cells)
    u = torch.zeros(2, len(cells), 3, dtype=torch.float64)
    u[0, :, 0] = far
    assert list(guide.sites) == ["l", "z"]
    assert (joint(u)[0] < joint(u)[1] - 1e3).all()


def test_an_unknown_condition_is_the_weighted_sum_of_its_levels(cells):
    pair = untrained(CVAE(latent=2, condition=OneHot("drug"), likelihood=NB()), MeanField(), cells)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    with unknown("drug", weights.log()):
        mixed = log_evidence(pair, cells, 50, estimator=Importance())
    given = []
    for level in range(4):
        with intervene(drug=level):
            given.append(log_evidence(pair, cells, 50, estimator=Importance()))
    by_hand = np.logaddexp.reduce(weights.log().numpy()[:, None] + np.stack(given))
    np.testing.assert_allclose(mixed, by_hand, atol=1e-6)


def test_masks_are_applied_and_scales_are_not(cells):
    keep = torch.arange(len(cells)) % 3 > 0

    class Masked(SCVI):
        def model(self, cells):
            with cells.plate(), poutine.scale(scale=7.0):
                z = self.prior()
                with poutine.mask(mask=keep):
                    eta = self.decoder(z, self.condition(cells))
                    pyro.sample("x", self.likelihood(self.size(cells), None, **eta), obs=cells.x)

    model = Masked(latent=2, likelihood=Poisson())
    joint, z = draws_of(untrained(model, MeanField(), cells), cells)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert_close(joint(z)[:, ~keep], prior[:, ~keep])
    assert (joint(z)[:, keep] < prior[:, keep] - 1).all()
