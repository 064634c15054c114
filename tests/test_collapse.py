"""Mixtures should keep their components: how components start, what keeps them apart, and how collapse is measured."""

import sys
from math import log
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyroscvi as ps
from pyroscvi.comparison.usage import MAX_CELLS, information, usage
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import MeanField
from pyroscvi.inference.evaluation import two_samples
from pyroscvi.inference.objectives import Balance
from pyroscvi.models import GMVAE, SCVI, Annotated
from pyroscvi.parts import MLP, NB, Mixture, Random, ReadCell
from pyroscvi.parts.clusters import set_to_clusters

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from collapse import KINDS, ahead, clusters
from fits import interrupted_after, same

SMALL = MeanField(encoder=ReadCell(32, dropout=0.0))
PAGES = [SCVI(latent=3, prior=Mixture(3), likelihood=NB()), GMVAE(latent=3, kinds=3)]


def quick(model, cells, guide=SMALL, **options):
    return ps.fit(model, guide, cells, **{"epochs": 20, "progress": False, "device": "cpu", **options})


# How components start


def test_components_are_set_to_the_means_and_spreads_of_clusters():
    torch.manual_seed(1)
    centre = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    spread = torch.tensor([[0.5, 1.0], [1.0, 0.5], [0.3, 0.3]])
    kind = torch.arange(3000) % 3
    z = centre[kind] + spread[kind] * torch.randn(3000, 2)
    mixture = Mixture(3).sized(2)
    mixture.settle(z)
    nearest = torch.cdist(centre, mixture.m).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    for k, component in enumerate(nearest):
        assert torch.allclose(mixture.m[component], z[kind == k].mean(0), atol=1e-4)
        assert torch.allclose(mixture.s[component], z[kind == k].std(0), rtol=0.01)
    assert (mixture.w == 0).all()
    again = Mixture(3).sized(2)
    again.settle(z)
    assert torch.equal(again.m, mixture.m)  # whatever its random start


def test_a_cluster_of_one_cell_gets_a_positive_spread():
    z = torch.cat([torch.randn(50, 2), torch.tensor([[100.0, 100.0]])])
    w, m, raw_s = torch.ones(2), torch.zeros(2, 2), torch.zeros(2, 2)
    set_to_clusters(w, m, raw_s, z)
    assert (w == 0).all()
    assert m.max() == 100
    assert raw_s.isfinite().all()
    assert torch.nn.functional.softplus(raw_s[m[:, 0].argmax()]).min() > 0.3


def test_with_fewer_cells_than_components_nothing_changes():
    mixture = Mixture(5).sized(2)
    before = mixture.m.clone()
    mixture.settle(torch.randn(4, 2))
    assert torch.equal(mixture.m, before)


def test_random_components_stay_where_they_are():
    mixture = Mixture(5, start=Random()).sized(2)
    before = mixture.m.clone()
    mixture.settle(torch.randn(40, 2))
    assert torch.equal(mixture.m, before)


class Recorded(Mixture):
    """A mixture that records the states of cells when it settles."""

    states: ClassVar[list] = []

    def settle(self, z):
        Recorded.states.append(z)
        super().settle(z)


@pytest.fixture
def places(monkeypatch):
    """Replace samples of z: at first (``cold`` times) two samples of a cell are independent, later they are equal."""
    Recorded.states.clear()
    looks = {"cold": 0, "calls": 0}

    def two_samples(guide, cells, seed):
        looks["calls"] += 1
        generator = torch.Generator().manual_seed(looks["calls"] if looks["calls"] <= looks["cold"] else 0)
        z = torch.randn(2, len(cells), 3, generator=generator)
        return z if looks["calls"] <= looks["cold"] else z[:1].expand(2, -1, -1)

    monkeypatch.setattr("pyroscvi.inference.run.two_samples", two_samples)
    return looks


@pytest.mark.parametrize(
    ("warmup", "epochs", "cold", "after"),
    [(0.1, 40, 0, 2), (0.5, 40, 0, 10), (0.0, 40, 0, 2), (0.1, 3, 0, 1), (0.1, 40, 3, 5), (0.1, 40, 99, 40)],
)
def test_components_settle_once_when_the_latent_space_separates_cells(cells, places, warmup, epochs, cold, after):
    """This is between the middle of the warm-up and the middle of the fit."""
    places["cold"], steps = cold, []

    def count(model, guide, minibatch):
        steps.append(len(Recorded.states))
        return torch.zeros(len(minibatch))

    page = SCVI(latent=3, prior=Recorded(3))
    quick(page, cells, epochs=epochs, warmup=warmup, objectives=[count], early_stopping=False)
    assert steps == [0] * after + [1] * (epochs - after)  # one minibatch per epoch
    assert [z.shape for z in Recorded.states] == [(60, 3)] * (after < epochs)  # all cells
    assert places["calls"] == min(cold + 1, 18)


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_two_samples_of_z_have_the_correlation_that_the_guide_implies(cells, alike):
    model = SCVI(latent=2).sized(cells.dims)
    guide = SMALL.sized(model, cells)
    with torch.no_grad():
        guide.heads["z"].weight.zero_()
        guide.heads["z"].weight[0].normal_()
        spread = guide.posteriors(cells)["z"].mean[:, 0].std()
        width = spread * ((1 - alike) / alike) ** 0.5 if alike else spread.new_tensor(1e4)
        guide.heads["z"].bias[2:] = torch.expm1(width).log() if alike else width
    many = cells.take(torch.arange(60).repeat(100))
    state = torch.get_rng_state()
    z = two_samples(guide, many, seed=0, batch_size=512)
    assert torch.equal(torch.get_rng_state(), state)
    assert z.shape == (2, 6000, 2)
    assert np.corrcoef(z[:, :, 0].numpy())[0, 1] == pytest.approx(alike, abs=0.03)
    assert abs(np.corrcoef(z[:, :, 1].numpy())[0, 1]) < 0.03


def test_trained_components_do_not_settle_again(cells, places):
    first = quick(SCVI(latent=3, prior=Recorded(3)), cells)
    assert len(Recorded.states) == 1
    ps.fit(first.model, first.guide, cells, epochs=20, progress=False)
    assert len(Recorded.states) == 1


@pytest.mark.parametrize("page", PAGES, ids=repr)
@pytest.mark.parametrize("steps", [2, 3, 4, 6])  # components settle before the fourth of 15
def test_a_resumed_fit_settles_once_and_equals_an_uninterrupted_fit(page, steps, cells, places, tmp_path):
    options = {"epochs": 5, "batch_size": 20, "lr": 1e-2}
    straight = quick(page, cells, objectives=[interrupted_after(99)], **options)
    assert places["calls"] == 1
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(page, cells, objectives=[interrupted_after(steps)], folder=folder, **options)
    assert same(straight, quick(page, cells, objectives=[interrupted_after(99)], folder=folder, **options))


# What keeps components apart


def test_balance_is_log_k_minus_the_entropy_of_the_shares_of_components(cells):
    model = GMVAE(latent=2, kinds=4).sized(cells.dims).eval()
    guide = SMALL.sized(model, cells).eval()
    with torch.no_grad():
        model.w.copy_(torch.tensor([500.0, 0, 0, 0]))
        assert torch.allclose(Balance(2.0)(model, guide, cells), torch.full((60,), 2 * log(4)))
        model.w.zero_()
        model.m.zero_()
        assert torch.allclose(Balance(2.0)(model, guide, cells), torch.zeros(60), atol=1e-6)
        model.w.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]).log())  # and all components at one place
        entropy = dist.Categorical(torch.tensor([0.4, 0.3, 0.2, 0.1])).entropy()
        assert torch.allclose(Balance()(model, guide, cells), (log(4) - entropy).expand(60), atol=1e-6)
    with pytest.raises(KeyError, match="no enumerated site 'k': there are y"):
        quick(Annotated(latent=2), cells, objectives=[Balance()])


def test_balance_takes_cells_from_a_component_that_has_almost_all(cells):
    """Without it, a component with almost all of the weight keeps almost all cells."""
    model = GMVAE(latent=2, kinds=4).sized(cells.dims)
    with torch.no_grad():
        model.w[0] = 6.0
    fits = [quick(model, cells, objectives=o, lr=1e-2, epochs=30) for o in ([], [Balance(50.0)])]
    alone, balanced = (usage(fit, cells).components for fit in fits)
    assert balanced > alone + 1


@pytest.mark.parametrize("equal", [0.0, 0.5])
def test_weights_stay_equal_for_the_given_fraction_of_the_fit(cells, equal):
    spread = []

    def note(model, guide, minibatch):
        spread.append(float(model.prior.w.detach().std()))
        return torch.zeros(len(minibatch))

    page = SCVI(latent=3, prior=Mixture(3, start=Random(), equal=equal))
    quick(page, cells, epochs=10, warmup=0.0, objectives=[note], early_stopping=False)
    held = [value == 0 for value in spread]
    assert held == [step <= 10 * equal for step in range(10)]  # one minibatch per epoch; a step changes the next value


# How collapse is measured


def test_information_of_two_gaussians_agrees_with_an_integral():
    """Two cells, z ~ Normal(+-a, 1): I = log 2 - E[H(cell | z)], by the trapezoidal rule."""
    n, a = 20_000, 0.8
    torch.manual_seed(0)
    loc = a * (1 - 2 * (torch.arange(MAX_CELLS) % 2).double())[:, None]
    t = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    left, right = (dist.Normal(sign * a, 1.0).log_prob(t) for sign in (1.0, -1.0))
    exact = torch.trapezoid(left.exp() * (left - torch.logaddexp(left, right) + log(2)), t).item()
    estimates = [
        information(loc + torch.randn_like(loc), loc, torch.ones(MAX_CELLS, 1, 1)) for _ in range(n // MAX_CELLS)
    ]
    assert np.mean(estimates) == pytest.approx(exact, abs=0.01)


def test_information_is_zero_for_equal_cells_and_log_n_for_separate_cells():
    scale = torch.diag_embed(torch.full((7, 2), 0.1, dtype=torch.float64))
    assert information(torch.randn(7, 2).double(), torch.zeros(7, 2).double(), scale) == pytest.approx(0, abs=1e-6)
    apart = torch.arange(14.0).reshape(7, 2)
    assert information(apart, apart, scale) == pytest.approx(log(7))
    many = torch.arange(3000.0)[:, None]
    assert information(many, many, torch.full((3000, 1, 1), 0.01)) == pytest.approx(log(MAX_CELLS), abs=1e-4)


def test_information_of_a_fit(cells):
    """It is the information of z alone, for any minibatches. A latent size would add information about the cell."""
    from pyroscvi.parts import LatentSize

    model = SCVI(latent=2, size=LatentSize()).sized(cells.dims)
    guide = SMALL.sized(model, cells)
    assert list(guide.sites) == ["l", "z"]
    with torch.no_grad():
        guide.heads["z"].weight.zero_()
    used = usage((model, guide), cells)
    assert used.information == pytest.approx(0, abs=1e-6)
    assert np.isnan(used.components)
    assert np.isnan(used.component_information)
    with torch.no_grad():
        guide.heads["z"].weight.normal_()
        guide.heads["z"].bias[2:] = -5.0
    used = usage((model, guide), cells)
    assert 1 < used.information <= log(60) + 1e-6
    assert usage((model, guide), cells, batch_size=7).information == pytest.approx(used.information, abs=1e-9)


def test_equal_components_have_no_information_about_cells(cells):
    model = GMVAE(latent=2, kinds=4).sized(cells.dims)
    guide = SMALL.sized(model, cells)
    with torch.no_grad():
        model.m.zero_()
    used = usage((model, guide), cells)
    assert used.components == pytest.approx(4, abs=1e-3)
    assert used.component_information == pytest.approx(0, abs=1e-6)
    with torch.no_grad():  # now one number that the guide reads decides between two components
        guide.heads["z"].weight.zero_()
        guide.heads["z"].weight[0].normal_()
        guide.heads["z"].bias[2:] = -9.0
        z = guide.posteriors(cells)["z"].mean[:, 0]
        model.m[:, 0] = torch.tensor([-1.0, 1.0, 50.0, 50.0]) + z.mean()
        model.raw_s.fill_(-5.0)
    share = (z > z.mean()).double().mean()
    used = usage((model, guide), cells)
    assert used.component_information == pytest.approx(dist.Bernoulli(share).entropy().item(), abs=0.02)
    assert log(used.components) == pytest.approx(used.component_information, abs=0.02)


# Whether components are kept; the full study is ``python benchmarks/collapse.py``


@pytest.mark.parametrize("page", [SCVI(latent=5, prior=Mixture(KINDS), likelihood=NB(), decoder=MLP(32)),
                                  GMVAE(latent=5, kinds=KINDS)], ids=repr)  # fmt: skip
def test_five_clusters_keep_five_components(page):
    cells, _ = clusters(KINDS, 500, seed=0)
    assert usage(quick(page, cells, epochs=120, lr=1e-2, compile="trace"), cells).components > 4.5


def test_five_components_are_not_better_than_one_if_there_is_one_cluster():
    assert ahead(300, 150, seed=0, epochs=30, refits=2)["ahead"] < 2
