"""Hierarchical: two levels of latents."""

import pyro.distributions as dist
import torch
from fits import untrained
from pyro import poutine
from torch.testing import assert_close

from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Hierarchical
from pyroscvi.parts import NB


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
