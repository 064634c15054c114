"""The conditional autoregression is the Gaussian that it says, in minibatches too; it finds strength, and none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_field import maximum_of
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data import Cells, Delaunay, Fields, simulated
from pyroscvi.data.graph import connected
from pyroscvi.evidence.joint import Joint
from pyroscvi.guides import FullCovariance, MeanField, SpatialGNN
from pyroscvi.inference.elbo import bound
from pyroscvi.models import SCVI
from pyroscvi.parts import CAR, NB, StandardNormal


def tissue(cells=60):
    data = simulated(cells=cells, genes=8, sections=2)
    return Fields(spatial="spatial", section="section", graph=Delaunay()).read(data).to(dtype=torch.float64)


def sized(cells, guide=None):
    """A model with a CAR of two dimensions with strengths 0.9 and 0.3, and a guide."""
    torch.manual_seed(0)
    model = SCVI(latent=2, prior=CAR(), likelihood=NB()).sized(cells.dims)
    guide = (guide or MeanField()).sized(model, cells)
    model, guide = model.double().eval(), guide.double().eval()
    with torch.no_grad():
        model.prior.raw_strengths.copy_((torch.tensor([0.9, 0.3]) / 0.99).logit())
        model.prior.begin(cells)
    return model, guide


def dense(cells, a):
    """The precision matrix of one dimension [n, n]."""
    W = torch.from_numpy((cells.graph != 0).toarray()).double()
    many = W.sum(1)
    Q = (1 - a) * torch.eye(len(W)).double() + a * (torch.diag(many) - W) / many[many > 0].mean()
    return torch.where((many > 0)[:, None] | ~torch.eye(len(W), dtype=torch.bool), Q, 1.0)


@pytest.mark.parametrize("alone", [0, 3])
@torch.no_grad()
def test_its_density_is_that_of_the_dense_gaussian_also_summed_over_minibatches(alone):
    cells = tissue()
    keep = np.diag((np.arange(60) >= alone).astype(float))
    cells = replace(cells, graph=(cells.graph.__class__(keep @ cells.graph @ keep)))
    prior = sized(cells)[0].prior
    z = torch.randn(60, 2).double()
    exact = sum(
        torch.distributions.MultivariateNormal(torch.zeros(60).double(), precision_matrix=dense(cells, a)).log_prob(z_j)
        for a, z_j in zip(prior.strengths, z.T, strict=True)
    )
    assert_close(prior.jointly(cells, z).log_prob(z).sum(), exact, rtol=1e-6, atol=1e-6)
    added = torch.zeros(60).double()
    for m in cells.minibatches(7, torch.Generator().manual_seed(0), hops=1):
        nodes = torch.cat([m.index, torch.tensor([cells.names.tolist().index(name) for name in m.halo.names])])
        added[m.index] = prior.jointly(m, z[nodes]).log_prob(z[m.index])
    assert_close(added.sum(), exact, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_cell_given_the_others_has_the_conditional_of_the_dense_gaussian():
    cells = tissue()
    prior = sized(cells)[0].prior
    z = torch.randn(60, 2).double()
    loc, q, _ = prior.conditional(cells, z)
    for j, a in enumerate(prior.strengths):
        Q = dense(cells, a)
        assert_close(q[:, j], Q.diagonal())
        assert_close(loc[:, j], z[:, j] - Q @ z[:, j] / Q.diagonal())


@pytest.mark.parametrize("a", [0.0, 0.01, 0.37, 0.8, 0.98])
def test_the_determinant_is_known_between_the_nodes(a):
    cells = tissue()
    prior = sized(cells)[0].prior
    with torch.no_grad():
        prior.raw_strengths.fill_((torch.tensor(a) / 0.99).logit())
    assert_close(prior.log_determinant(), (dense(cells, a).logdet() / 60).expand(2), rtol=1e-5, atol=1e-7)


def test_with_strength_zero_it_is_the_standard_normal():
    cells = tissue()
    losses = []
    for prior in (CAR(strength=0), StandardNormal()):
        fitted = ps.fit(SCVI(latent=2, prior=prior), MeanField(), cells, epochs=2, progress=False)
        losses.append(fitted.history["loss"].tolist())
    assert losses[0] == losses[1]
    model, guide = sized(cells)
    free = SCVI(latent=2, prior=StandardNormal(), likelihood=NB()).sized(cells.dims).double().eval()
    free.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        model.prior.raw_strengths.fill_(-torch.inf)
        values = []
        for one in (model, free):
            torch.manual_seed(1)
            values.append(bound(one, guide, cells.take([0, 7, 9])).cells)
    assert_close(values[0], values[1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("guide", [MeanField(), FullCovariance(), SpatialGNN()])
def test_the_losses_of_minibatches_add_up_to_the_loss_of_the_whole(guide):
    cells = tissue()
    model, guide = sized(cells, guide)
    hops = model.prior.hops + guide.encoder.hops
    with torch.no_grad():
        last = [m for m in guide.heads["z"].modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight[2:], last.bias[2:] = 0.0, -50.0  # almost points, so that two draws give the same loss
        whole = bound(model, guide, cells).cells
        added = torch.zeros(len(cells)).double()
        for m in cells.minibatches(16, torch.Generator().manual_seed(0), hops=hops):
            added[m.index] = bound(model, guide, m).cells * len(m) / len(cells)  # it was scaled to the whole
    assert_close(added, whole, rtol=1e-4, atol=1e-2)


def test_evidence_is_given_the_neighbours_and_a_guide_that_reads_the_cell_itself_is_refused():
    train, held = tissue().split(0.2, seed=1)
    fit = ps.fit(SCVI(latent=2, prior=CAR()), MeanField(), train, epochs=2, progress=False)
    assert fit.model.estimand == "p(x | l, neighbours)"
    assert np.isfinite(ps.log_evidence(fit, held, particles=5)).all()
    u = torch.zeros(1, len(held), 2).double()
    own = replace(held, counts=torch.from_numpy(held.counts.toarray() + 5.0))
    priors = [
        Joint(fit.model, fit.guide.sites, cells.to(dtype=fit.model.prior.loc.dtype)).log_prior(u)
        for cells in (held, own)
    ]
    apart = np.diff(held.graph[: len(held), : len(held)].indptr) == 0  # cells whose neighbours were all fitted
    assert_close(priors[0][0, apart], priors[1][0, apart])
    model, guide = sized(train, SpatialGNN())
    with pytest.raises(ValueError, match=r"SpatialGNN\(\) reads neighbours"):
        ps.log_evidence((model, guide), held, particles=2)


def test_a_graph_whose_neighbours_are_not_mutual_is_refused():
    data = simulated(cells=40, genes=8, sections=1)
    with pytest.raises(ValueError, match=r"CAR\(\) needs neighbours that are mutual.*Delaunay\(\)"):
        ps.fit(SCVI(prior=CAR()), MeanField(), Fields(spatial="spatial").read(data), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"CAR\(\) needs cells with a graph of neighbours.*Delaunay\(\)"):
        ps.fit(SCVI(prior=CAR()), MeanField(), Fields().read(data), epochs=1, progress=False)


def test_strength_is_recovered_from_states_and_shuffled_places_have_none():
    place = np.random.default_rng(0).uniform(size=(600, 2)) * 20
    cells = Cells(torch.ones(600, 1), graph=connected(Delaunay(), place))
    z = torch.linalg.cholesky(dense(cells, 0.9)).T.inverse() @ torch.randn(600, 1).double()
    strengths = []
    for states in (z, z[torch.randperm(600)]):
        prior = CAR().sized(latent=1).double()
        with torch.no_grad():
            prior.begin(cells)
        maximum_of(prior, lambda prior=prior, states=states: prior.jointly(cells, states).log_prob(states).mean())
        strengths.append(prior.strengths.item())
    assert abs(strengths[0] - 0.9) < 0.08
    assert strengths[1] < 0.15
