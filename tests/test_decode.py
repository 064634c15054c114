"""Rates of given states, and interventions on several values of a field or on a covariate."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from fits import quick

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.handlers import intervene, read_covariate
from pyroscvi.models import CVAE, GMVAE, LDVAE, SCANVI, SCVI, Mixture, Topics
from pyroscvi.parts import NB, Continuous, LatentSize, Linear, NormalLoadings, OneHot, RandomDispersion


@pytest.fixture
def nb(cells):
    return quick(SCVI(latent=3, likelihood=NB()), MeanField(), cells, epochs=10, lr=1e-2)


def test_decoding_is_the_decoder_under_its_link(nb, cells):
    z = torch.randn(5, 3)
    model = nb.model
    shares = model.decoder(z, torch.tensor([0.0, 1.0]).expand(5, 2))["rho"].softmax(-1).detach()
    np.testing.assert_allclose(nb.decode(z, given={"batch": "b"}, size=1), shares, rtol=1e-5)
    np.testing.assert_allclose(nb.decode(z, given={"batch": "b"}, size=[1, 2, 3, 4, 5]), shares.mul(
        torch.arange(1.0, 6).unsqueeze(-1)), rtol=1e-5)  # fmt: skip
    typical = cells.library.log().mean().exp().item()
    np.testing.assert_allclose(nb.decode(z, average="batch").sum(-1), typical, rtol=1e-2)
    grid = nb.decode(z.expand(2, 4, 5, 3), given={"batch": "b"}, size=1, genes=["gene3", "gene1"])
    np.testing.assert_allclose(grid[1, 2], shares[:, [3, 1]], rtol=1e-5)


def test_decoded_draws_of_a_posterior_average_to_denoised_rates(nb, cells):
    few = cells.subset(torch.arange(8))
    names = [nb.levels["batch"][code] for code in few.batch]
    draws = nb.latent(few, samples=100)
    rates = np.stack([nb.decode(z, given={"batch": names}, size=few.library[:, 0]) for z in draws])
    denoised = nb.denoise(few, samples=100, seed=3)
    assert (np.abs(rates.mean(0) - denoised) < 6 * rates.std(0) / np.sqrt(50) + 1e-6).all()


@pytest.mark.parametrize(
    "model",
    [
        LDVAE(latent=3),
        SCVI(latent=3, size=LatentSize(), likelihood=NB(dispersion=RandomDispersion())),
        SCVI(latent=3, decoder=Linear(loadings=NormalLoadings())),
        GMVAE(latent=3),
        Topics(latent=3),
        SCANVI(latent=3),
    ],
    ids=repr,
)
def test_states_of_every_kind_of_page_are_decoded(model, cells):
    f = quick(model, MeanField(), cells, epochs=1)
    rates = f.decode(f.latent(cells)[:4], size=100)
    assert rates.shape == (4, 12)
    np.testing.assert_allclose(rates.sum(-1), 100, rtol=1e-4)


def test_wrong_states_are_refused_in_words(nb, cells):
    with pytest.raises(ValueError, match=r"states z have 3 numbers a cell, not the shape \(5, 2\)"):
        nb.decode(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="SCVI has no site 'u' of cells; it has z"):
        nb.decode({"u": np.zeros((5, 3))})
    with pytest.raises(ValueError, match="one for each of the 5 states, not 2"):
        nb.decode(np.zeros((5, 3)), size=[1, 2])
    with pytest.raises(ValueError, match="Mixture has no site 'z' of cells; it has none"):
        quick(Mixture(kinds=2), MeanField(), cells, epochs=1).decode(np.zeros((5, 2)))


def test_an_average_over_batches_is_the_mean_of_its_batches(nb, cells):
    a, b = (nb.denoise(cells, given={"batch": name}, batch_size=60) for name in "ab")
    np.testing.assert_allclose(nb.denoise(cells, average="batch", batch_size=60), (a + b) / 2, rtol=1e-5)
    np.testing.assert_allclose(nb.denoise(cells, average={"batch": ["b"]}, batch_size=60), b, rtol=1e-5)
    z = nb.latent(cells)
    a, b = (nb.decode(z, given={"batch": name}) for name in "ab")
    np.testing.assert_allclose(nb.decode(z, average="batch"), (a + b) / 2, rtol=1e-5)


def test_an_average_over_two_fields_is_over_every_combination(cells):
    f = quick(CVAE(latent=2, condition=OneHot("batch") + OneHot("drug")), MeanField(), cells)
    each = [
        f.denoise(cells, given={"batch": b, "drug": d}, batch_size=60) for b in "ab" for d in ("control", "z")
    ]  # fmt: skip
    both = f.denoise(cells, average={"batch": ["a", "b"], "drug": ["control", "z"]}, batch_size=60)
    np.testing.assert_allclose(both, np.mean(each, 0), rtol=1e-5)


def test_what_cannot_be_averaged_over_is_refused(nb, cells):
    with pytest.raises(KeyError, match="no levels of 'dose' to average over; it has batch, label, drug"):
        nb.denoise(cells, average="dose")
    with pytest.raises(ValueError, match="'batch' is both given and averaged over"):
        nb.denoise(cells, given={"batch": "a"}, average="batch")
    with pytest.raises(ValueError, match="without a value"):
        nb.denoise(cells, average={"batch": []})


@pytest.fixture
def dosed():
    """Cells whose gene 0 grows with the dose, which is a number; their category has the same name."""
    dose = np.repeat([0.0, 1.0, 4.0], 20)
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.column_stack([2 + 5 * dose, *[np.full(60, 4.0)] * 7])).astype(np.float32)
    obs = pd.DataFrame({"dose": dose, "batch": np.arange(60) % 2}, index=[f"c{i}" for i in range(60)])
    return anndata.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(8)]))


def test_a_covariate_is_set_in_its_own_units(dosed):
    cells = ps.Fields(covariates="dose").read(dosed)
    f = quick(SCVI(latent=2, condition=Continuous(), decoder=Linear()), MeanField(), cells, epochs=15, lr=3e-2)
    assert f.covariates == {"dose": (pytest.approx(5 / 3), pytest.approx(dosed.obs["dose"].std(ddof=0)))}
    recorded = f.denoise(cells, given={"dose": dosed.obs["dose"].to_numpy()}, batch_size=60)
    np.testing.assert_allclose(recorded, f.denoise(cells, batch_size=60), rtol=1e-5)
    low, high = (f.denoise(cells, given={"dose": dose}, library=1)[:, 0].mean() for dose in (0.0, 4))
    assert high > low + 0.1
    both = f.denoise(cells, average={"dose": [0.0, 4.0]}, batch_size=60)
    each = [f.denoise(cells, given={"dose": dose}, batch_size=60) for dose in (0.0, 4.0)]
    np.testing.assert_allclose(both, np.mean(each, 0), rtol=1e-5)
    made = [f.generate(n=400, given={"dose": dose}, size=100)[:, 0].mean() for dose in (0.0, 4.0)]
    assert made[1] > made[0] + 5
    decoded = [f.decode(np.zeros((1, 2)), given={"dose": dose}, size=1)[0, 0] for dose in (0.0, 5 / 3, 4.0)]
    assert decoded == sorted(decoded)
    np.testing.assert_allclose(decoded[1], f.decode(np.zeros((1, 2)), size=1)[0, 0], rtol=1e-5)
    with pytest.raises(ValueError, match="dose is a covariate: give one finite number, or one for each of the 60"):
        f.denoise(cells, given={"dose": "high"})
    with pytest.raises(KeyError, match="no field 'time'; it knows dose"):
        f.denoise(cells, given={"time": 2.0})


def test_a_category_and_a_covariate_of_one_name_are_set_separately(dosed):
    cells = ps.Fields(covariates="dose", categories="dose").read(dosed)
    with intervene(dose=torch.tensor(2)):
        assert (OneHot("dose").sized(cells.dims)(cells)[:, 2] == 1).all()
        assert torch.equal(read_covariate(cells, "dose"), cells.covariates[:, 0])
    with intervene(dose=2.0):
        assert (Continuous().sized(cells.dims)(cells) == 2).all()
        assert (OneHot("dose").sized(cells.dims)(cells)[:, 2] == 1).sum() == 20
    f = quick(SCVI(latent=2, condition=Continuous() + OneHot("dose")), MeanField(), cells)
    assert len({f.denoise(cells, given={"dose": dose})[:, 0].sum() for dose in ("4", 4.0)}) == 2


def test_a_covariate_that_was_not_read_is_named(cells):
    with pytest.raises(KeyError, match="no covariate 'dose' was read; there are none"):
        read_covariate(cells, "dose")
