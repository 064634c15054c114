"""Donors: effects of donors and of conditions."""

from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from fits import quick, untrained
from pyro import poutine
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import simulated
from pyroscvi.data.fields import Fields
from pyroscvi.evidence import Importance
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Donors
from pyroscvi.parts import NB, Linear, Nothing


def loss_given(model, cells, **latents):
    """Minus log p(x, latents)."""
    conditioned = poutine.condition(model, data=latents)
    return -poutine.trace(conditioned).get_trace(cells).log_prob_sum().item()


def test_donors_without_effects_are_scvi(cells):
    one, _ = untrained(Donors(latent=2), MeanField(), cells)
    two, _ = untrained(SCVI(latent=2, condition=Nothing(), likelihood=NB()), MeanField(), cells)
    two.load_state_dict({name: p for name, p in one.state_dict().items() if name not in ("m", "log_v", "seen")})
    z, s = torch.randn(60, 2), torch.full((12,), 0.2)
    with torch.no_grad():
        of_effects = dist.LogNormal(one.m, one.log_v.exp()).log_prob(s).sum()
        of_effects += sum(dist.Normal(0.0, t).log_prob(torch.zeros(size)).sum() for t, size in ((1.0, 36), (0.2, 72)))
        with_effects = loss_given(one, cells, z=z, s=s, a=torch.zeros(36), b=torch.zeros(72))
    assert with_effects == pytest.approx(loss_given(two, cells, z=z) - of_effects.item(), rel=1e-6)


def test_an_effect_shifts_the_log_rates_of_the_cells_of_its_donor_and_condition(cells):
    model, _ = untrained(Donors(latent=2, decoder=Linear(), treatment="drug"), MeanField(), cells)
    b = torch.zeros(2, 4, 12)
    given = {"z": torch.zeros(60, 2), "a": torch.zeros(48), "s": torch.ones(12)}
    means = []
    for shift in (0.0, 1.0):
        b[1, 2, 5] = shift
        nodes = poutine.trace(poutine.condition(model, data={**given, "b": b.flatten()})).get_trace(cells).nodes
        means.append(nodes["x"]["fn"].mean.log().detach())
    odds = [mean[:, 5] - mean[:, 4] for mean in means]  # without the normalisation of the softmax
    of_cells = (cells.categories["batch"] == 1) & (cells.categories["drug"] == 2)
    assert_close(odds[1] - odds[0], of_cells.float(), atol=1e-5, rtol=0)


def test_samples_without_cells_give_no_gradients_to_effects_of_conditions(cells):
    """Donor 0 has label 0 only, donor 1 has label 1 only."""
    nested = replace(cells, categories={"batch": cells.batch, "label": cells.batch})
    model = Donors(latent=2).sized(cells.dims)
    model.begin(nested)
    assert model.seen[..., 0].tolist() == [[True, False, False], [False, True, False]]
    a = torch.zeros(36, requires_grad=True)
    nodes = poutine.trace(poutine.condition(model, data={"a": a, "b": torch.ones(72)})).get_trace(nested).nodes
    nodes["b"]["fn"].log_prob(torch.ones(72)).backward()
    by_condition = a.grad.view(3, 12)
    assert_close(by_condition[:2], (1 / nodes["s"]["value"] ** 2).expand(2, 12))  # of one donor each
    assert not by_condition[2].any()


def test_the_evidence_holds_effects_at_the_centre_of_their_posterior(cells):
    """Where that is zero, the evidence is that of scVI, given the donor of each cell and its counts."""
    model, guide = untrained(Donors(latent=2), MeanField(), cells)
    plain, own = untrained(SCVI(latent=2, condition=Nothing(), likelihood=NB()), MeanField(), cells)
    plain.decoder, own.encoder, own.heads["z"] = model.decoder, guide.encoder, guide.heads["z"]
    with torch.no_grad():
        guide.heads["b"].weight.zero_()
        guide.heads["b"].bias[:72] = 0
    assert model.estimand == "p(x | l)"
    options = {"dtype": torch.float64, "estimator": Importance()}
    one, two = (ps.log_evidence(pair, cells, 20, **options) for pair in ((model, guide), (plain, own)))
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_effects_of_conditions_are_recovered_and_their_uncertainty_is_that_of_donors():
    """Eight donors, four in each condition; their cells would make the differences look five times as certain."""
    n, g = 400, 15
    donor = torch.arange(n) % 8
    levels = {"batch": tuple("abcdefgh"), "label": ("control", "treated")}
    blank = Cells(torch.full((n, g), 50.0), {"batch": donor, "label": donor // 4}, levels=levels)
    truth = Donors(latent=1, decoder=Linear()).sized(blank.dims)
    with torch.no_grad():
        truth.m.fill_(-1.2), truth.log_v.fill_(-1.5), truth.likelihood.dispersion.log_theta.fill_(3.0)
        nodes = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes
    cells = replace(blank, counts=nodes["x"]["value"])
    fit = ps.fit(Donors(latent=1, decoder=Linear()), MeanField(), cells, epochs=40, batch_size=50, progress=False)
    draws = torch.as_tensor(fit.latent(cells, 300, site="a")).view(300, 2, g)
    difference = (draws[:, 1] - draws[:, 0]).sub((draws[:, 1] - draws[:, 0]).mean(-1, keepdim=True))
    of_truth = nodes["a"]["value"].view(2, g).diff(dim=0)[0]
    of_truth = of_truth - of_truth.mean()
    assert np.corrcoef(difference.mean(0), of_truth)[0, 1] > 0.9
    s = nodes["s"]["value"].mean().item()
    assert difference.std(0).mean().item() == pytest.approx(s / 2**0.5, rel=0.3)  # s^2 / 4 for each condition
    assert ((difference.mean(0) - of_truth).abs() < 2 * difference.std(0)).float().mean() > 0.8
    assert fit.model.m.exp().item() == pytest.approx(s, rel=0.3)


def test_donors_reads_columns_of_an_anndata():
    adata = simulated(cells=40, genes=8, batches=4)
    adata.obs["stim"] = np.where(adata.obs["batch"].isin(["batch0", "batch1"]), "control", "treated")
    cells = Fields(batch="batch", categories=("stim",)).read(adata)
    fit = quick(Donors(latent=2, treatment="stim"), MeanField(), cells)
    assert fit.latent(cells, site="b").shape == (4 * 2 * 8,)
    assert fit.generate(cells, given={"stim": "treated"}).shape == (40, 8)
    assert fit.model.seen[..., 0].sum() == 4
