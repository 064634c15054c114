"""Mixtures that keep their components: where these begin, what holds them apart, and what says that they collapsed."""

import sys
from math import log
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyroscvi as ps
from pyroscvi.comparison.usage import AMONG, information, usage
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import MeanField
from pyroscvi.inference.objectives import Balance
from pyroscvi.inference.run import placed
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


# Where components begin


def test_components_are_laid_out_on_clusters():
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
    assert torch.equal(again.m, mixture.m)  # however it was drawn


def test_a_cluster_of_one_cell_has_a_width():
    z = torch.cat([torch.randn(50, 2), torch.tensor([[100.0, 100.0]])])
    w, m, raw_s = torch.ones(2), torch.zeros(2, 2), torch.zeros(2, 2)
    set_to_clusters(w, m, raw_s, z)
    assert (w == 0).all()
    assert m.max() == 100
    assert raw_s.isfinite().all()
    assert torch.nn.functional.softplus(raw_s[m[:, 0].argmax()]).min() > 0.3


def test_cells_that_are_fewer_than_components_leave_all_as_it_is():
    mixture = Mixture(5).sized(2)
    before = mixture.m.clone()
    mixture.settle(torch.randn(4, 2))
    assert torch.equal(mixture.m, before)


def test_random_components_stay_where_they_are():
    mixture = Mixture(5, start=Random()).sized(2)
    before = mixture.m.clone()
    mixture.settle(torch.randn(40, 2))
    assert torch.equal(mixture.m, before)


class Noted(Mixture):
    """A mixture that says where cells were when it settled."""

    said: ClassVar[list] = []

    def settle(self, z):
        Noted.said.append(z)
        super().settle(z)


@pytest.fixture
def places(monkeypatch):
    """How often cells may be looked at before each has a place of its own; from then on the same, twice."""
    Noted.said.clear()
    looks = {"cold": 0, "taken": 0}

    def placed(guide, cells, seed):
        looks["taken"] += 1
        generator = torch.Generator().manual_seed(looks["taken"] if looks["taken"] <= looks["cold"] else 0)
        z = torch.randn(2, len(cells), 3, generator=generator)
        return z if looks["taken"] <= looks["cold"] else z[:1].expand(2, -1, -1)

    monkeypatch.setattr("pyroscvi.inference.run.placed", placed)
    return looks


@pytest.mark.parametrize(
    ("warmup", "epochs", "cold", "after"),
    [(0.1, 40, 0, 2), (0.5, 40, 0, 10), (0.0, 40, 0, 2), (0.1, 3, 0, 1), (0.1, 40, 3, 5), (0.1, 40, 99, 40)],
)
def test_components_settle_once_cells_have_places(cells, places, warmup, epochs, cold, after):
    """From half of the warm-up on, and before half of the run is over."""
    places["cold"], steps = cold, []

    def count(model, guide, minibatch):
        steps.append(len(Noted.said))
        return torch.zeros(len(minibatch))

    quick(SCVI(latent=3, prior=Noted(3)), cells, epochs=epochs, warmup=warmup, objectives=[count], early_stopping=False)
    assert steps == [0] * after + [1] * (epochs - after)  # a minibatch an epoch
    assert [z.shape for z in Noted.said] == [(54, 3)] * (after < epochs)  # of all the cells that are fitted to
    assert places["taken"] == min(cold + 1, 18)


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_two_draws_of_a_cell_are_what_a_guide_says(cells, alike):
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
    z = placed(guide, many, seed=0, batch_size=512)
    assert torch.equal(torch.get_rng_state(), state)
    assert z.shape == (2, 6000, 2)
    assert np.corrcoef(z[:, :, 0].numpy())[0, 1] == pytest.approx(alike, abs=0.03)
    assert abs(np.corrcoef(z[:, :, 1].numpy())[0, 1]) < 0.03


def test_components_that_were_trained_already_stay(cells, places):
    first = quick(SCVI(latent=3, prior=Noted(3)), cells)
    assert len(Noted.said) == 1
    ps.fit(first.model, first.guide, cells, epochs=20, progress=False)
    assert len(Noted.said) == 1


@pytest.mark.parametrize("page", PAGES, ids=repr)
@pytest.mark.parametrize("steps", [2, 3, 4, 6])  # components settle before the fourth of 15
def test_a_run_that_was_interrupted_settles_once(page, steps, cells, places, tmp_path):
    options = {"epochs": 5, "batch_size": 20, "lr": 1e-2}
    straight = quick(page, cells, objectives=[interrupted_after(99)], **options)
    assert places["taken"] == 1
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(page, cells, objectives=[interrupted_after(steps)], folder=folder, **options)
    assert same(straight, quick(page, cells, objectives=[interrupted_after(99)], folder=folder, **options))


# What holds them apart


def test_balance_is_how_far_shares_are_from_equal(cells):
    model = GMVAE(latent=2, kinds=4).sized(cells.dims).eval()
    guide = SMALL.sized(model, cells).eval()
    with torch.no_grad():
        model.w.copy_(torch.tensor([500.0, 0, 0, 0]))
        assert torch.allclose(Balance(2.0)(model, guide, cells), torch.full((60,), 2 * log(4)))
        model.w.zero_()
        model.m.zero_()
        assert torch.allclose(Balance(2.0)(model, guide, cells), torch.zeros(60), atol=1e-6)
        model.w.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]).log())  # and all at one place
        entropy = dist.Categorical(torch.tensor([0.4, 0.3, 0.2, 0.1])).entropy()
        assert torch.allclose(Balance()(model, guide, cells), (log(4) - entropy).expand(60), atol=1e-6)
    with pytest.raises(KeyError, match="no enumerated site 'k': there are y"):
        quick(Annotated(latent=2), cells, objectives=[Balance()])


def test_balance_gives_a_component_back_its_cells(cells):
    """One that has nearly all of the weight has nearly all of the cells, and would keep them."""
    model = GMVAE(latent=2, kinds=4).sized(cells.dims)
    with torch.no_grad():
        model.w[0] = 6.0
    fits = [quick(model, cells, objectives=o, lr=1e-2, epochs=30) for o in ([], [Balance(50.0)])]
    alone, balanced = (usage(fit, cells).components for fit in fits)
    assert balanced > alone + 1


@pytest.mark.parametrize("equal", [0.0, 0.5])
def test_weights_are_held_equal_for_as_long_as_asked(cells, equal):
    spread = []

    def note(model, guide, minibatch):
        spread.append(float(model.prior.w.detach().std()))
        return torch.zeros(len(minibatch))

    page = SCVI(latent=3, prior=Mixture(3, start=Random(), equal=equal))
    quick(page, cells, epochs=10, warmup=0.0, objectives=[note], early_stopping=False)
    held = [value == 0 for value in spread]
    assert held == [step <= 10 * equal for step in range(10)]  # a minibatch an epoch; moved by what came before it


# What says that they collapsed


def test_information_is_that_of_gaussians_side_by_side():
    """Two cells, z ~ Normal(+-a, 1): log 2 less the entropy of which of them, by the trapezoidal rule."""
    n, a = 20_000, 0.8
    torch.manual_seed(0)
    loc = a * (1 - 2 * (torch.arange(AMONG) % 2).double())[:, None]
    t = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    here, there = (dist.Normal(sign * a, 1.0).log_prob(t) for sign in (1.0, -1.0))
    exact = torch.trapezoid(here.exp() * (here - torch.logaddexp(here, there) + log(2)), t).item()
    found = [information(loc + torch.randn_like(loc), loc, torch.ones(AMONG, 1, 1)) for _ in range(n // AMONG)]
    assert np.mean(found) == pytest.approx(exact, abs=0.01)


def test_information_of_cells_that_are_all_alike_or_all_apart():
    scale = torch.diag_embed(torch.full((7, 2), 0.1, dtype=torch.float64))
    assert information(torch.randn(7, 2).double(), torch.zeros(7, 2).double(), scale) == pytest.approx(0, abs=1e-6)
    apart = torch.arange(14.0).reshape(7, 2)
    assert information(apart, apart, scale) == pytest.approx(log(7))
    many = torch.arange(3000.0)[:, None]
    assert information(many, many, torch.full((3000, 1, 1), 0.01)) == pytest.approx(log(AMONG), abs=1e-4)


def test_information_of_a_fit(cells):
    """Of z alone, in whatever minibatches: a cell's size, which is latent as well, tells much of which cell it is."""
    from pyroscvi.parts import LatentSize

    model = SCVI(latent=2, size=LatentSize()).sized(cells.dims)
    guide = SMALL.sized(model, cells)
    assert list(guide.sites) == ["l", "z"]
    with torch.no_grad():
        guide.heads["z"].weight.zero_()
    found = usage((model, guide), cells)
    assert found.information == pytest.approx(0, abs=1e-6)
    assert np.isnan(found.components)
    assert np.isnan(found.component_information)
    with torch.no_grad():
        guide.heads["z"].weight.normal_()
        guide.heads["z"].bias[2:] = -5.0
    found = usage((model, guide), cells)
    assert 1 < found.information <= log(60) + 1e-6
    assert usage((model, guide), cells, batch_size=7).information == pytest.approx(found.information, abs=1e-9)


def test_components_that_are_all_alike_tell_nothing(cells):
    model = GMVAE(latent=2, kinds=4).sized(cells.dims)
    guide = SMALL.sized(model, cells)
    with torch.no_grad():
        model.m.zero_()
    found = usage((model, guide), cells)
    assert found.components == pytest.approx(4, abs=1e-3)
    assert found.component_information == pytest.approx(0, abs=1e-6)
    with torch.no_grad():  # now cells are of one component or of another, by one number that the guide has read
        guide.heads["z"].weight.zero_()
        guide.heads["z"].weight[0].normal_()
        guide.heads["z"].bias[2:] = -9.0
        z = guide.posteriors(cells)["z"].mean[:, 0]
        model.m[:, 0] = torch.tensor([-1.0, 1.0, 50.0, 50.0]) + z.mean()
        model.raw_s.fill_(-5.0)
    share = (z > z.mean()).double().mean()
    found = usage((model, guide), cells)
    assert found.component_information == pytest.approx(dist.Bernoulli(share).entropy().item(), abs=0.02)
    assert log(found.components) == pytest.approx(found.component_information, abs=0.02)


# Whether they do: all of it, ``python benchmarks/collapse.py``


@pytest.mark.parametrize("page", [SCVI(latent=5, prior=Mixture(KINDS), likelihood=NB(), decoder=MLP(32)),
                                  GMVAE(latent=5, kinds=KINDS)], ids=repr)  # fmt: skip
def test_five_clusters_keep_five_components(page):
    cells, _ = clusters(KINDS, 500, seed=0)
    assert usage(quick(page, cells, epochs=60, lr=1e-2), cells).components > 4.5


def test_five_components_win_nothing_where_there_is_one_cluster():
    assert ahead(300, 150, seed=0, epochs=30, refits=2)["ahead"] < 2
