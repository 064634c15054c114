"""Hierarchical: two levels of latents."""

import numpy as np
import pyro.distributions as dist
import torch
from fits import untrained
from pyro import poutine
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Hierarchical
from pyroscvi.parts import MLP, NB, Linear, NoNorm


def test_states_that_do_not_depend_on_the_coarse_state_are_those_of_scvi(cells):
    one, _ = untrained(Hierarchical(latent=3), MeanField(), cells)
    two, _ = untrained(SCVI(latent=3, likelihood=NB()), MeanField(), cells)
    two.decoder, two.likelihood = one.decoder, one.likelihood
    u, z = torch.randn(60, 2), torch.randn(60, 3)
    with torch.no_grad():
        for head, value in (("m", 0.0), ("s", torch.tensor(1.0 - 1e-3).expm1().log())):  # softplus(s) + 1e-3 = 1
            one.of_z.heads[head].weight.zero_()
            one.of_z.heads[head].bias.fill_(value)
        log_p = [
            poutine.trace(poutine.condition(model, data=values)).get_trace(cells).log_prob_sum()
            for model, values in ((one, {"u": u, "z": z}), (two, {"z": z}))
        ]
    assert_close(log_p[0] - dist.Normal(0.0, 1.0).log_prob(u).sum(), log_p[1], rtol=1e-5, atol=0)


def test_states_follow_the_coarse_state(cells):
    model, _ = untrained(Hierarchical(latent=3, coarse=1), MeanField(), cells)
    trace = poutine.trace(poutine.condition(model, data={"u": torch.linspace(-2, 2, 60)[:, None]})).get_trace(cells)
    prior = trace.nodes["z"]["fn"]
    assert prior.mean.shape == (60, 3)
    assert (prior.mean[0] - prior.mean[-1]).abs().max() > 0.1
    assert model.estimand == "p(x | l)"


def test_groups_and_states_of_cells_that_the_page_simulated_are_recovered():
    """One coarse number u; states lie around (2, -2) for positive u, and around (-2, 2) for negative u."""
    blank = Cells(torch.full((500, 30), 10.0))
    slots = {"latent": 2, "coarse": 1, "of_z": MLP(widths=8, norm=NoNorm()), "decoder": Linear()}
    torch.manual_seed(0)
    truth = Hierarchical(**slots).sized(blank.dims)
    with torch.no_grad():
        first, mean, spread = truth.of_z.layers.linear[0], truth.of_z.heads["m"], truth.of_z.heads["s"]
        for layer in (first, mean, spread):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[:2, 0] = torch.tensor([20.0, -20.0])  # relu(20 u), relu(-20 u), each capped by its negative shift
        first.weight[2:4, 0] = torch.tensor([20.0, -20.0])
        first.bias[2:4] = -1.0
        mean.weight[:, :4] = torch.tensor([[2.0, -2.0, -2.0, 2.0], [-2.0, 2.0, 2.0, -2.0]])
        spread.bias.fill_(-1.0)
        truth.decoder.heads["rho"].weight.normal_(0, 0.5)
        truth.likelihood.dispersion.log_theta.fill_(3.0)
        nodes = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes
    u, z = (nodes[name]["value"].squeeze() for name in "uz")
    cells = Cells(nodes["x"]["value"])
    fit = ps.fit(Hierarchical(**slots), MeanField(), cells, epochs=60, lr=2e-2, progress=False)
    coarse, states = fit.latent(cells, site="u")[:, 0], fit.latent(cells)
    side = (coarse > 0) == (u > 0).numpy()
    assert max(side.mean(), 1 - side.mean()) > 0.9
    known = np.column_stack([states, np.ones(500)])
    rest = z.numpy() - known @ np.linalg.lstsq(known, z.numpy(), rcond=None)[0]
    assert rest.var() < 0.1 * z.numpy().var()  # linear in the states of the fit, which may be rotated
