"""Gene scores agree with quadrature, and the report describes them."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyroscvi as ps
from pyroscvi import distributions
from pyroscvi.comparison.genes import compare_genes, gene_scores
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.joint import Joint
from pyroscvi.guides import FullCovariance
from pyroscvi.models import LDVAE, PPCA, SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Linear, Mixture, Poisson, ReadCell, SizeFactor
from pyroscvi.program import Model

GUIDE = FullCovariance(encoder=ReadCell(widths=8))


def untrained(model, cells):
    model = model.sized(cells.dims)
    return model.eval(), GUIDE.sized(model, cells).eval()


@pytest.mark.parametrize("prior", [None, Mixture(components=3)], ids=["normal", "mixture"])
def test_scores_as_by_quadrature(cells, prior):
    """One latent dimension, on a grid: the integral of p(x) over that of p(x without g) is p(x_g | x without g)."""
    few = replace(cells, graph=None, size_factor=torch.full((60,), 20.0)).subset(torch.arange(6))
    slots = {} if prior is None else {"prior": prior}
    model, guide = untrained(SCVI(latent=1, decoder=Linear(), likelihood=NB(), size=SizeFactor(), **slots), few)
    scores = gene_scores((model, guide), few, 10_000)

    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    joint = Joint(model.double(), guide.sites, few.to(dtype=torch.float64))
    u = z[:, None, None].expand(-1, len(few), 1)
    with torch.no_grad():
        log_joint = joint(u)
        log_pmf, levels = joint.by_gene(u)
    assert levels.shape == (1 if prior is None else 3, 4001, 6)
    np.testing.assert_allclose(log_pmf[0], log_pmf[-1])  # the decoder reads z, and not its component
    exact = log_joint.logsumexp(0)[:, None] - (log_joint[..., None] - log_pmf[0]).logsumexp(0)
    np.testing.assert_allclose(scores.predicted, exact, atol=0.05)
    posterior = log_joint.softmax(0)
    np.testing.assert_allclose(scores.expected, torch.einsum("sn,sng->ng", posterior, log_pmf[0]), atol=0.03)


class TwoRates(Model):
    """Counts of which a component says how large they are: k ~ Categorical(1/2, 1/2), x ~ Poisson(rate[k] exp(z))."""

    latent: int = 1

    def model(self, cells):
        rate = torch.tensor([[2.0, 6.0, 2.0], [6.0, 2.0, 2.0]], dtype=cells.dtype)
        with cells.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=cells.dtype), 1.0).to_event(1))
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(2)), infer={"enumerate": "parallel"})
            pyro.sample("x", distributions.Poisson(rate[k].log() + z), obs=cells.x)


def test_gene_scores_are_weighted_over_levels_that_counts_depend_on():
    few = Cells(torch.tensor([[1.0, 9.0, 2.0], [4.0, 4.0, 3.0], [1.0, 0.0, 2.0]]))
    model, guide = untrained(TwoRates(), few)
    scores = gene_scores((model, guide), few, 10_000)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None, None]
    rate = torch.tensor([[2.0, 6.0, 2.0], [6.0, 2.0, 2.0]], dtype=torch.float64)
    log_pmf = torch.distributions.Poisson(rate[:, None, None] * z.exp()).log_prob(few.x.double())
    log_pmf = log_pmf.reshape(2, 4001, 3, 3)
    log_joint = log_pmf.sum(-1) + torch.distributions.Normal(0, 1).log_prob(z[..., 0])
    exact = log_joint.logsumexp((0, 1))[:, None] - (log_joint[..., None] - log_pmf).logsumexp((0, 1))
    np.testing.assert_allclose(scores.predicted, exact, atol=0.05)
    posterior = log_joint.flatten(0, 1).softmax(0)
    np.testing.assert_allclose(scores.expected, torch.einsum("sn,sng->ng", posterior, log_pmf.flatten(0, 1)), atol=0.03)


def test_expected_adds_up_to_the_likelihood(cells):
    plain = replace(cells, graph=None)
    model, guide = untrained(SCVI(latent=2, size=LatentSize()), plain)
    joint = Joint(model.double(), guide.sites, plain.to(dtype=torch.float64))
    u = torch.randn(3, 60, joint.size, dtype=torch.float64)
    with torch.no_grad():
        log_pmf, _ = joint.by_gene(u)
        np.testing.assert_allclose(log_pmf[0].sum(-1), joint.log_likelihood(u), rtol=1e-9)


@pytest.fixture(scope="module")
def inflated():
    """Thirty genes in 300 cells. The counts of the first three are set to zero in 40% of cells at random."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(600, 1, generator=generator)
    loading = torch.randn(1, 30, generator=generator) * 0.5
    loading[:, :3] = 0.0
    mu = 600 * torch.softmax(z @ loading, -1)
    counts = torch.poisson(mu, generator=generator)
    counts[:, :3] *= torch.rand(600, 3, generator=generator) < 0.6
    genes = tuple(f"gene{i}" for i in range(30))
    donors = {"batch": torch.arange(600) % 12}
    return Cells(counts, donors, size_factor=torch.full((600,), 600.0), genes=genes).split(0.5, seed=0)


@pytest.fixture(scope="module")
def both(inflated):
    def fitted(likelihood):
        model = SCVI(latent=1, decoder=Linear(), likelihood=likelihood, size=SizeFactor())
        return ps.fit(model, GUIDE, inflated[0], epochs=100, lr=1e-2, batch_size=64, progress=False)

    return {"zinb": fitted(ZINB()), "nb": fitted(NB())}


def test_the_genes_that_want_zero_inflation_are_found(both, inflated):
    few = inflated[1].subset(torch.arange(150))
    table = compare_genes(both, few, 100).table
    assert set(table.index[:3]) == {"gene0", "gene1", "gene2"}
    assert set(table["verdict"][:3]) == {"zinb"}
    assert (table["predicted"][:3] > 10).all()
    # Of 27 others, 0.7 are expected to be called so by chance; none gains a tenth of what the three gain.
    assert (table["verdict"][3:] == "zinb").sum() <= 3
    assert (table["predicted"][3:].abs() < table["predicted"].iloc[2] / 10).all()
    counts = few.x[:, int(table.index[0][4:])].numpy()
    assert table["zeros"].iloc[0] == pytest.approx((counts == 0).mean())
    assert table["mean"].iloc[0] == pytest.approx(counts.mean())
    turned = compare_genes({"nb": both["nb"], "zinb": both["zinb"]}, few, 100).table
    np.testing.assert_allclose(turned.loc[table.index, "predicted"], -table["predicted"])
    assert set(turned["verdict"][-3:]) == {"zinb"}


def test_gene_scores_agree_in_single_precision(both, inflated):
    few = inflated[1].subset(torch.arange(40))
    double, single = (compare_genes(both, few, 100, dtype=dtype).table for dtype in (torch.float64, torch.float32))
    assert double["predicted"].dtype == single["predicted"].dtype == "float64"
    assert not (double["predicted"] == single["predicted"]).all()
    np.testing.assert_allclose(single["predicted"].loc[double.index], double["predicted"], atol=1e-2)


def test_errors_are_paired_and_over_clusters(both, inflated):
    few = inflated[1].subset(torch.arange(60))
    scores = {name: gene_scores(fit, few, 100) for name, fit in both.items()}
    difference = scores["zinb"].predicted - scores["nb"].predicted
    table = compare_genes(both, few, 100).table.loc[list(few.genes)]
    np.testing.assert_allclose(table["predicted"], difference.sum(0))
    np.testing.assert_allclose(table["predicted_error"], difference.std(0, ddof=1) * len(few) ** 0.5)
    zeros = few.x.numpy() == 0
    np.testing.assert_allclose(table["of_zeros"], (difference * zeros).sum(0))
    by_donor = compare_genes(both, few, 100, by="batch").table.loc[list(few.genes)]
    sums = np.stack([(difference - difference.mean(0))[few.batch == b].sum(0) for b in few.batch.unique()])
    c = len(sums)
    np.testing.assert_allclose(by_donor["predicted_error"], np.sqrt(c / (c - 1) * (sums**2).sum(0)))


def test_the_same_fit_has_no_gene_that_it_explains_better(both, inflated):
    few = inflated[1].subset(torch.arange(20))
    table = compare_genes({"a": both["nb"], "b": both["nb"]}, few, 50).table
    assert (table["predicted"] == 0).all()
    assert (table["q_value"] == 1).all()
    assert set(table["verdict"]) == {"indistinguishable"}


def test_compare_genes_refuses_fits_that_cannot_be_compared(cells, both, inflated):
    plain = replace(cells, graph=None)
    with pytest.raises(ValueError, match="between two fits, not 1"):
        compare_genes({"nb": both["nb"]}, inflated[1])
    two = {"gaussian": untrained(PPCA(latent=2), plain), "counts": untrained(LDVAE(latent=2), plain)}
    with pytest.raises(ValueError, match="base measures differ"):
        compare_genes(two, plain)
    two = {
        "a": untrained(SCVI(latent=2), plain),
        "b": untrained(SCVI(latent=2, size=LatentSize(), likelihood=Poisson()), plain),
    }
    with pytest.raises(ValueError, match=r"'a' gives p\(x \| l\)"):
        compare_genes(two, plain)


def test_pairs_that_differ_by_zero_inflation(cells):
    from pyroscvi.comparison.genes import zero_inflation
    from pyroscvi.parts import ZIP, PerBatch

    plain = replace(cells, graph=None)
    likelihoods = {"zinb": ZINB(), "by batch": ZINB(PerBatch()), "nb": NB(), "zip": ZIP(), "poisson": Poisson()}
    fits = {name: untrained(SCVI(latent=2, likelihood=one), plain) for name, one in likelihoods.items()}
    assert zero_inflation(fits) == [("zinb", "nb"), ("zip", "poisson")]
    assert zero_inflation({"zinb": fits["zinb"], "wider": untrained(SCVI(latent=3, likelihood=NB()), plain)}) == []
    assert zero_inflation({"ppca": untrained(PPCA(latent=2), plain)}) == []
