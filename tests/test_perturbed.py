"""Perturbed: sparse effects of perturbations, interactions and doses."""

from dataclasses import replace

import numpy as np
import pyro
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
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Perturbed
from pyroscvi.parts import NB, Dose, HorseshoeLoadings, Interaction, Learned, Linear, Perturbation, SpikeAndSlab


def test_perturbed_without_effects_is_scvi(cells):
    one, _ = untrained(Perturbed(latent=2), MeanField(), cells)
    two, _ = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    two.load_state_dict({name: p for name, p in one.state_dict().items() if not name.startswith("effects")})
    z, W = torch.randn(60, 2), torch.zeros(36)
    with torch.no_grad():
        log_p = [
            poutine.trace(poutine.condition(model, data={"z": z, "E": W})).get_trace(cells).log_prob_sum()
            for model in (one, two)
        ]
        assert_close(log_p[0] - one.effects.prior().log_prob(W), log_p[1])


def test_the_spike_and_slab_is_what_enumeration_sums_over():
    """With one level for each of three numbers, enumerated by Pyro."""
    prior = SpikeAndSlab(pi=0.3).sized(3, 1, ("rho",))
    W = torch.tensor([0.0, 0.05, 1.0])

    def enumerated():
        with pyro.plate("numbers", 3):
            slab = pyro.sample("slab", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("W", dist.Normal(0.0, torch.where(slab == 1, prior.slab, prior.spike)), obs=W)

    trace = poutine.trace(poutine.enum(enumerated, first_available_dim=-2)).get_trace()
    trace.compute_log_prob()
    joint = trace.nodes["slab"]["log_prob"] + trace.nodes["W"]["log_prob"]
    assert_close(prior.prior().log_prob(W), joint.logsumexp(0).sum())
    assert_close(prior.inclusion(W), joint.softmax(0)[1])


def test_a_control_has_no_perturbation_and_interactions_are_products(cells):
    few = cells.take(torch.tensor([0, 2, 3]))  # batches a, a, b; drugs control, x, x
    drug = Perturbation("drug", control="control").sized(cells.dims)
    assert drug(few).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    both = (Perturbation("drug", control="control") + Interaction(Perturbation("drug"), Perturbation("batch"))).sized(
        cells.dims
    )
    assert both.width == 4 + 8
    assert both(few)[2, 4:].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="drug has no level 'DMSO'; there are control, x, y, z"):
        Perturbation("drug", control="DMSO").sized(cells.dims)(few)


def test_effects_without_a_prior_are_refused_in_words(cells):
    with pytest.raises(ValueError, match=r"E is a latent and needs a prior, such as SpikeAndSlab\(\).*: Learned\(\)"):
        Perturbed(effects=Learned()).sized(cells.dims)


def test_the_response_to_a_dose_rises_smoothly_from_zero_to_one():
    dose = Dose().sized(replace(Cells(torch.ones(1, 2)).dims, covariates=1))
    x = torch.tensor([0.0, 0.1, 1.0, 10.0, 1e4], requires_grad=True)
    y = dose.response(x).squeeze(-1)
    assert y[0] == 0
    assert_close(y[1:], x[1:] / (1 + x[1:]))  # k = h = 1
    y.sum().backward()
    assert (x.grad[1:] > 0).all()
    assert dose.log_h.grad.isfinite().all()


def test_a_dose_is_read_in_its_own_units_and_set_in_them():
    adata = simulated(cells=60, genes=6)
    adata.obs["dose"] = np.tile([0.0, 1.0, 10.0], 20)
    cells = Fields(covariates="dose").read(adata)
    fit = quick(Perturbed(latent=2, perturbation=Dose()), MeanField(), cells)
    dose = fit.model.perturbation
    assert_close(dose.moments, torch.tensor([11 / 3, np.std([0, 1, 10])], dtype=torch.float32))
    assert_close(dose(cells)[0, 0], torch.tensor(0.0))
    assert dose(cells)[2, 0] > dose(cells)[1, 0] > 0
    assert fit.denoise(cells, given={"dose": 0.0}).shape == (60, 6)


@pytest.mark.parametrize("effects", [SpikeAndSlab(), HorseshoeLoadings()], ids=repr)
def test_the_few_genes_that_a_perturbation_changes_are_found(effects):
    n, g = 300, 20
    levels = {"label": ("control", "x", "y")}
    blank = Cells(torch.full((n, g), 40.0), {"label": torch.arange(n) % 3}, levels=levels)
    page = Perturbed(latent=1, decoder=Linear(), perturbation=Perturbation(control="control"), effects=effects)
    truth = page.sized(blank.dims)
    W = torch.zeros(g, 3)
    W[3, 1], W[7, 1], W[11, 2] = 1.0, -1.5, 1.2
    with torch.no_grad():
        truth.likelihood.dispersion.log_theta.fill_(3.0)
        model = poutine.condition(poutine.uncondition(truth), data={"E": W.flatten()})
        counts = poutine.trace(model).get_trace(blank).nodes["x"]["value"]
    cells = replace(blank, counts=counts)
    fit = ps.fit(page, MeanField(), cells, epochs=40, batch_size=50, progress=False)
    E = torch.as_tensor(fit.latent(cells, site="E")).view(g, 3)[:, 1:]
    assert {(int(i), int(j)) for i, j in (E.abs() > 0.5).nonzero()} == {(3, 0), (7, 0), (11, 1)}
    assert E[W[:, 1:] == 0].abs().mean() < 0.1
    if isinstance(effects, SpikeAndSlab):
        inclusion = effects.inclusion(E)
        assert inclusion[W[:, 1:] != 0].min() > 0.9
        assert inclusion[W[:, 1:] == 0].mean() < 0.2
