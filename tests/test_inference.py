"""The bound, its divergences and schedules, and what a fit promises."""

import io
import math
import random
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from rich.console import Console
from scipy import sparse
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import pyroscvi as ps
from pyroscvi import distributions
from pyroscvi.data.cells import Cells
from pyroscvi.guides import FullCovariance, LowRank, MeanField
from pyroscvi.handlers import Tempered, temper
from pyroscvi.inference.diagnosis import NonFiniteLoss
from pyroscvi.inference.divergence import divergence
from pyroscvi.inference.elbo import bound, joint, negative_elbo
from pyroscvi.inference.fit import default_epochs
from pyroscvi.inference.objectives import Classifier, FreeBits, log_levels
from pyroscvi.inference.run import evaluate
from pyroscvi.inference.schedules import Constant, Cosine, Cyclical, Linear, Patience
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import GMVAE, LDVAE, PPCA, SCVI, Annotated
from pyroscvi.parts import MLP, NB, BatchNorm, Laplace, Mixture, Poisson, RandomDispersion, ReadCell, VampPrior
from pyroscvi.program import Guide, Model

PAGES = [
    SCVI(latent=3),
    SCVI(latent=3, prior=Laplace()),
    SCVI(latent=3, prior=Mixture(components=4)),
    SCVI(latent=3, prior=VampPrior(components=4)),
    GMVAE(latent=3),
    Annotated(latent=3),
    LDVAE(latent=3),
    LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())),
    PPCA(latent=3),
]
GUIDES = [MeanField(), FullCovariance(), LowRank()]


def sized(model, guide, cells, dtype=torch.float64):
    """Both in double precision, moved off their starting points, in evaluation mode."""
    model = model.sized(cells.dims).to(dtype)
    guide = guide.sized(model, cells)
    model, guide = model.to(dtype).eval(), guide.to(dtype).eval()
    with torch.no_grad():
        for p in guide.heads.parameters():
            p += 0.05 * torch.randn_like(p)
    return model, guide


def pyros():
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def quick(model, guide, cells, **options):
    return ps.fit(model, guide, cells, **{"epochs": 3, "batch_size": 20, "progress": False, **options})


def state(fit):
    return {f"{k}.{name}": t for k in ("model", "guide") for name, t in getattr(fit, k).state_dict().items()}


def same(one, two):
    one, two = state(one), state(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# The bound


@pytest.mark.parametrize("guide", GUIDES, ids=repr)
@pytest.mark.parametrize("model", PAGES, ids=repr)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_bound_is_pyros_on_the_same_draw(model, guide, beta, cells):
    m, g = sized(model, guide, cells.to(dtype=torch.float64))
    minibatch = cells.to(dtype=torch.float64).take(torch.arange(7))
    with temper(beta):
        with seeded(3):
            theirs = pyros().differentiable_loss(m, g, minibatch)
        with seeded(3):
            ours = negative_elbo(m, g, minibatch, analytic=False)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    parameters = [p for p in [*m.parameters(), *g.parameters()] if p.requires_grad]
    for a, b in zip(
        *(torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs)), strict=True
    ):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3), LDVAE(latent=3)], ids=repr)
def test_analytic_bound_is_the_average_of_drawn_ones(model, cells):
    cells = cells.to(dtype=torch.float64).subset(torch.arange(10))
    m, g = sized(model, FullCovariance(), cells)
    with torch.no_grad():
        drawn, exact = (
            torch.tensor([negative_elbo(m, g, cells, analytic=analytic) for _ in range(144)])
            for analytic in (False, True)
        )
    error = math.hypot(drawn.std() / 12, exact.std() / 12)
    assert abs(drawn.mean() - exact.mean()) < 4 * error
    assert error < 0.1 * abs(drawn.mean())


def test_a_closed_form_takes_noise_away(cells):
    m, g = sized(PPCA(latent=3), FullCovariance(), cells.to(dtype=torch.float64))
    cells = cells.to(dtype=torch.float64)
    with torch.no_grad():
        p, q = joint(m, g, cells)
        kl = divergence(q["z"]["fn"], p["z"]["fn"])
        assert kl.shape == (len(cells),)
        assert (kl > 0).all()
        spread = [
            torch.stack([bound(m, g, cells, analytic=a).cells.sum() for _ in range(60)]).std() for a in (False, True)
        ]
    assert spread[1] < spread[0]


def test_cells_and_shared_latents_are_told_apart(cells):
    """Minibatches of a data set of ten times the cells: cells count ten times as much, shared latents once."""
    m, g = sized(
        LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField(), cells.to(dtype=torch.float64)
    )
    cells = cells.to(dtype=torch.float64)
    few = cells.subset(torch.arange(6))
    with torch.no_grad(), seeded(1):
        alone = bound(m, g, few)
    with torch.no_grad(), seeded(1):
        among_many = bound(m, g, cells.take(torch.arange(6)))
    assert torch.allclose(among_many.cells, 10 * alone.cells)
    assert torch.allclose(among_many.shared, alone.shared)
    assert alone.shared < 0


class NoNumberLeaves(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a tensor was turned into a number"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guide", GUIDES, ids=repr)
@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3), LDVAE(latent=3)], ids=repr)
def test_no_number_leaves_the_device(model, guide, cells):
    minibatch = Cells(cells.x[:10])  # without conditions: torch's one-hot looks at its numbers
    m, g = sized(model, guide, minibatch, torch.float32)
    with pytest.raises(AssertionError, match="turned into a number"), NoNumberLeaves():
        torch.ones(()).item()
    with NoNumberLeaves():
        assert negative_elbo(m, g, minibatch).requires_grad


def test_the_model_runs_once(cells):
    class Counting(SCVI):
        runs = 0

        def model(self, cells):
            type(self).runs += 1
            super().model(cells)

    m, g = sized(Counting(latent=3), MeanField(), cells, torch.float32)
    Counting.runs = 0
    negative_elbo(m, g, cells)
    assert Counting.runs == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there_is_named(cells):
    with pytest.raises(ValueError, match=r"no 'cuda': there is .*cpu; device='auto' picks"):
        ps.fit(SCVI(), MeanField(), cells, device="cuda", epochs=1, progress=False)


@pytest.mark.parametrize("was", [True, False])
def test_validation_is_left_as_it_was(was, cells):
    m, g = sized(SCVI(latent=3), MeanField(), cells, torch.float32)
    with pyro.validation_enabled(was):
        negative_elbo(m, g, cells)
        quick(SCVI(latent=3), MeanField(), cells, epochs=1)
        assert pyro.infer.is_validation_enabled() is was
        assert dist.is_validation_enabled() is was


def test_a_guide_that_cannot_be_reparameterised_is_refused(cells):
    def model(cells):
        with cells.plate():
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="'k' of the guide cannot be reparameterised"):
        negative_elbo(model, model, cells)


def test_a_batch_outside_the_plate_is_refused(cells):
    def model(cells):
        pyro.sample("theta", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(ValueError, match="'theta' has batch shape"):
        negative_elbo(model, model, cells, analytic=False)


# Divergences


def gaussians(d=3, n=2):
    mean, L = torch.randn(n, d).double(), torch.randn(n, d, d).double().tril(-1) + torch.eye(d).double() * 0.7
    return {
        "mean field": dist.Normal(mean, 0.3 + torch.rand(n, d).double()).to_event(1),
        "full": dist.MultivariateNormal(mean, scale_tril=L),
        "low rank": dist.LowRankMultivariateNormal(
            mean, torch.randn(n, d, 1).double(), 0.2 + torch.rand(n, d).double()
        ),
    }


@pytest.mark.parametrize("q", ["mean field", "full", "low rank"])
@pytest.mark.parametrize("p", ["normal", "laplace", "lognormal", "full"])
def test_divergence_against_draws(q, p):
    q = gaussians()[q]
    zero = torch.zeros(3).double()
    prior = {
        "normal": dist.Normal(zero + 0.3, 1.5).to_event(1),
        "laplace": dist.Laplace(zero - 0.2, 0.8).to_event(1),
        "lognormal": dist.LogNormal(zero + 0.3, 1.5).to_event(1),
        "full": dist.MultivariateNormal(zero, scale_tril=torch.eye(3).double() + 0.5 * torch.ones(3, 3).tril(-1)),
    }[p]
    if p == "lognormal":
        from pyroscvi.program import onto

        q = onto(prior.support, q)
    exact = divergence(q, prior)
    if exact is None:
        pytest.skip("torch knows none either")
    z = q.sample((40_000,))
    drawn = q.log_prob(z) - prior.log_prob(z)
    assert ((drawn.mean(0) - exact).abs() < 4.5 * drawn.std(0) / 200).all()


@pytest.mark.parametrize("q", ["mean field", "full", "low rank"])
@pytest.mark.parametrize("p", ["normal", "laplace", "lognormal"])
def test_divergences_of_the_zoo_have_closed_forms(q, p):
    q = gaussians()[q]
    prior = {"normal": dist.Normal, "laplace": dist.Laplace, "lognormal": dist.LogNormal}[p](
        torch.zeros(3), 1.0
    ).to_event(1)
    if p == "lognormal":
        from pyroscvi.program import onto

        q = onto(prior.support, q)
    assert divergence(q, prior) is not None


def test_divergence_of_a_tempered_pair_is_tempered():
    q, p = gaussians()["full"], dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    assert torch.equal(divergence(Tempered(q, 0.3), Tempered(p, 0.3)), 0.3 * divergence(q, p))
    assert divergence(Tempered(q, 0.3), Tempered(p, 0.4)) is None
    assert divergence(q, Tempered(p, 0.3)) is None


def test_divergence_that_nobody_knows_is_none():
    q = dist.TransformedDistribution(gaussians()["full"], [dist.transforms.SigmoidTransform()])
    assert divergence(q, dist.Beta(torch.ones(3), 1.0).to_event(1)) is None


# Schedules


@pytest.mark.parametrize("schedule", [Linear(0.25), Linear(0.0), Cosine(0.5), Cyclical(), Cyclical(1, 0.9)], ids=repr)
def test_a_warm_up_ends_at_one_and_stays(schedule):
    assert schedule.settled < 1
    for progress in np.linspace(schedule.settled, 1, 50):
        assert schedule(progress) == 1
    assert all(0 <= schedule(progress) <= 1 for progress in np.linspace(0, 1, 200))


def test_schedules_at_known_points():
    assert [Linear(0.5)(t) for t in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 1]
    assert [Linear(0.5, start=0.2)(t) for t in (0, 0.25)] == pytest.approx([0.2, 0.6])
    assert [round(Cosine(0.5)(t), 6) for t in (0, 0.125, 0.25, 0.5)] == [0, 0.146447, 0.5, 1]
    assert [round(Cyclical(2, 0.5)(t), 6) for t in (0, 0.125, 0.25, 0.49, 0.5, 0.625, 0.75, 1)] == [
        0, 0.5, 1, 1, 0, 0.5, 1, 1,
    ]  # fmt: skip
    assert Constant(4.0)(0.3) == 4


@pytest.mark.parametrize(
    "wrong", [lambda: Linear(1.0), lambda: Linear(-0.1), lambda: Cyclical(0), lambda: Cyclical(2, 1)]
)
def test_a_warm_up_that_would_not_end_is_refused(wrong):
    with pytest.raises(ValueError, match="warm-up"):
        wrong()


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_however_short_the_run_the_kl_weight_arrives(epochs, cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=epochs, warmup=0.6)
    assert f.record["kl_weight"] == f.history["kl_weight"].iloc[-1] == 1
    assert (f.history["kl_weight"].diff().dropna() >= 0).all()


def test_the_kl_weight_weighs_the_kl(cells):
    """Two runs that go nowhere, with the KL counted once and not at all: their losses differ by the KL."""
    guide = MeanField(encoder=ReadCell(dropout=0.0))
    options = {"epochs": 1, "lr": 1e-12, "validation": 0.0}
    once, never = (quick(SCVI(latent=3), guide, cells, warmup=Constant(beta), **options) for beta in (1.0, 0.0))
    kl = once.describe(cells).kl["z"].mean().item()
    assert kl > 0.01
    assert once.history["loss"][0] - never.history["loss"][0] == pytest.approx(kl, rel=1e-3)


def test_kl_weight_is_recorded_every_epoch(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=4, batch_size=60, validation=0, warmup=Linear(0.8))
    assert f.history["kl_weight"].tolist() == pytest.approx([0, 0.3125, 0.625, 0.9375])
    f = quick(SCVI(latent=3), MeanField(), cells, warmup=Constant(0.2))
    assert f.record["kl_weight"] == 0.2


# Fits


def test_history_has_a_row_an_epoch(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=5)
    assert isinstance(f.history, pd.DataFrame)
    assert f.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert {"loss", "elbo_train", "elbo_held_out", "kl_weight", "seconds"} < set(f.history)
    assert f.history.notna().all().all()
    assert (f.history["seconds"].diff().dropna() > 0).all()
    assert f.record["versions"]["pyroscvi"] == ps.__version__
    assert f.record["cells"] == {"train": 54, "held_out": 6}
    assert f.record["levels"]["batch"] == {"a": 30, "b": 30}
    assert not f.model.training
    assert not f.guide.training


def test_loss_is_a_mean_over_cells(cells):
    """Twice the same cells: the same loss a cell, to what the split and the steps do to it."""
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=1, warmup=0.0, lr=1e-9, validation=0.0)
    reference = -evaluate(f.model, f.guide, cells, len(cells), 0)
    assert f.history["loss"][0] == pytest.approx(reference, rel=0.05)


def test_training_lowers_the_loss_and_learns_the_cells(cells):
    f = quick(SCVI(latent=3), FullCovariance(), cells, epochs=60, lr=1e-2, early_stopping=False)
    assert f.history["elbo_held_out"].iloc[-1] > f.history["elbo_held_out"].iloc[0] + 1


def test_seed_decides_everything(cells):
    one, two, other = (quick(SCVI(latent=3), FullCovariance(), cells, seed=seed) for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, other)
    assert one.history["loss"].tolist() == two.history["loss"].tolist()


def test_the_users_random_state_is_left_alone(cells):
    torch.manual_seed(11), np.random.seed(11), random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    f = quick(SCVI(latent=3), MeanField(), cells)
    f.latent(cells, samples=2)
    f.generate(cells), f.generate(n=3), f.denoise(cells), f.describe(cells)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_what_the_user_drew_before_changes_nothing(cells):
    torch.manual_seed(1)
    one = quick(SCVI(latent=3), MeanField(), cells)
    torch.manual_seed(2)
    assert same(one, quick(SCVI(latent=3), MeanField(), cells))


def test_two_models_in_one_process_are_what_each_is_alone(cells):
    alone = quick(SCVI(latent=3), MeanField(), cells)
    between = quick(GMVAE(latent=4), FullCovariance(), cells)
    again = quick(SCVI(latent=3), MeanField(), cells)
    assert same(alone, again)
    assert not pyro.get_param_store().keys()
    moved = quick(between.model, between.guide, cells, epochs=2)
    assert not same(moved, between)


def test_sized_programs_go_on_in_a_copy(cells):
    torch.manual_seed(0)
    m = SCVI(latent=3, prior=VampPrior(components=4)).sized(cells.dims)
    g = MeanField().sized(m, cells)
    before = {name: t.clone() for name, t in [*m.state_dict().items(), *g.state_dict().items()]}
    f = quick(m, g, cells, lr=1e-2)
    assert all(torch.equal(before[name], t) for name, t in [*m.state_dict().items(), *g.state_dict().items()])
    assert f.model.prior.guide is f.guide
    assert not torch.equal(f.model.prior.raw_u, m.prior.raw_u)
    further = quick(f.model, f.guide, cells, epochs=30, lr=1e-2)
    assert further.history["elbo_train"].iloc[-1] > f.history["elbo_train"].iloc[-1]


def test_a_guide_of_another_model_is_refused(cells):
    m = SCVI(latent=3).sized(cells.dims)
    with pytest.raises(ValueError, match="hand over that model"):
        quick(SCVI(latent=3), MeanField().sized(m, cells), cells)


def test_plain_pyro_trains_the_same_objects(cells):
    torch.manual_seed(0)
    m = SCVI(latent=3).sized(cells.dims)
    g = FullCovariance().sized(m, cells)
    svi = SVI(m, g, pyro.optim.Adam({"lr": 1e-2}), pyros())
    losses = [svi.step(cells) / len(cells) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert not pyro.get_param_store().keys()
    f = quick(m, g, cells, epochs=1, warmup=0.0, lr=1e-9)
    assert f.history["loss"][0] == pytest.approx(np.mean(losses[-5:]), rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 21, 41])
def test_any_number_of_cells_will_do(n, cells):
    few = cells.subset(torch.arange(n))
    f = quick(SCVI(latent=3, decoder=MLP(norm=BatchNorm())), MeanField(encoder=ReadCell(norm=BatchNorm())), few)
    assert np.isfinite(f.history["loss"]).all()
    assert f.latent(few).shape == (n, 3)


def test_minibatches_are_of_one_size(cells):
    sizes = []

    def note(model, guide, minibatch):
        sizes.append(len(minibatch))
        return torch.zeros(len(minibatch))

    quick(SCVI(latent=3), MeanField(), cells, epochs=1, batch_size=59, validation=0, objectives=[note])
    assert sizes == [30, 30]


def test_no_cells_is_an_error(cells):
    with pytest.raises(ValueError, match="no cells"):
        quick(SCVI(), MeanField(), Cells(torch.zeros(0, 3)))


def test_what_is_not_cells_is_an_error():
    with pytest.raises(TypeError, match=r"Fields\(...\).read"):
        quick(SCVI(), MeanField(), np.ones((3, 3)))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"lr": -1.0}, {"validation": 1.0}, {"warmup": 1.5}]
)
def test_wrong_numbers_are_errors(wrong, cells):
    with pytest.raises(ValueError, match=r"must|fraction"):
        quick(SCVI(), MeanField(), cells, **wrong)


def test_double_precision_stays_double(cells):
    f = quick(SCVI(latent=3), MeanField(), cells.to(dtype=torch.float64))
    assert {t.dtype for t in state(f).values() if t.is_floating_point()} == {torch.float64}
    assert f.latent(cells).dtype == np.float64


def test_a_spatial_guide_reads_neighbours(cells):
    from pyroscvi.guides import SpatialGNN

    f = quick(SCVI(latent=3), SpatialGNN(), cells)
    whole, pieces = f.latent(cells), f.latent(cells, batch_size=7)
    np.testing.assert_allclose(whole, pieces, atol=1e-5)


def test_default_epochs():
    assert [default_epochs(n) for n in (20_000, 40_000, 1_000_000, 5_000)] == [400, 200, 8, 400]
    assert default_epochs(100) == 2_000  # one step an epoch


def test_silence_where_nobody_looks(cells, capsys):
    quick(SCVI(latent=3), MeanField(), cells, progress=True)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_told_how_it_goes(cells, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr("pyroscvi.inference.progress.Console", lambda **_: terminal)
    f = quick(SCVI(latent=3), MeanField(), cells, progress=True)
    said = screen.getvalue()
    assert "SCVI" in said
    assert "epoch 3/3" in said
    assert f"held-out ELBO {f.history['elbo_held_out'].iloc[-1]:.2f}" in said
    assert "beta 1.00" in said
    screen.truncate(0)
    quick(SCVI(latent=3), MeanField(), cells, progress=False)
    assert screen.getvalue() == ""


def test_gradients_are_clipped(cells):
    wild, tame = (quick(SCVI(latent=3), MeanField(), cells, epochs=1, clip=clip) for clip in (1e9, 1e-30))
    still = quick(SCVI(latent=3), MeanField(), cells, epochs=1, lr=1e-30)
    moved = [max((state(f)[k] - state(still)[k]).abs().max().item() for k in state(f)) for f in (wild, tame)]
    assert moved[0] > 1e-4
    assert moved[1] < 1e-9


# Early stopping


def worsening(cells, **options):
    """A run whose held-out bound gets worse after a while: a large step, and much to learn by heart."""
    return quick(
        SCVI(latent=8, decoder=MLP(widths=64)),
        MeanField(encoder=ReadCell(dropout=0.0)),
        cells.subset(torch.arange(30)),
        **{"epochs": 120, "lr": 3e-2, "validation": 0.3, "batch_size": 8, **options},
    )


def test_the_best_state_is_kept_and_taken_up(cells):
    f = worsening(cells, early_stopping=Patience(5), warmup=0.05)
    bounds = f.history["elbo_held_out"]
    assert f.record["stopped_early"]
    assert len(f.history) < 120
    settled = bounds[f.history["epoch"] >= 0.05 * 120]
    assert f.record["best_epoch"] == f.history["epoch"][settled.idxmax()]
    assert f.record["best_epoch"] == len(f.history) - 5
    _, held_out = cells.subset(torch.arange(30)).split(0.3, by="batch", seed=0)
    assert evaluate(f.model, f.guide, held_out, 21, 0) == pytest.approx(settled.max(), abs=1e-9)


def test_nothing_stops_before_the_warm_up_has_ended(cells):
    f = worsening(cells, epochs=40, early_stopping=Patience(1), warmup=0.9)
    assert len(f.history) >= 36
    assert f.record["best_epoch"] >= 36
    assert f.record["kl_weight"] == 1


def test_without_early_stopping_the_last_state_counts(cells):
    f = worsening(cells, epochs=30, early_stopping=False)
    assert len(f.history) == 30
    assert f.record["best_epoch"] is None
    assert not f.record["stopped_early"]


def test_no_cells_to_hold_out_no_early_stopping(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, validation=0.0)
    assert f.history["elbo_held_out"].isna().all()
    assert f.record["cells"] == {"train": 60, "held_out": 0}


def test_cells_are_held_out_of_every_batch(cells):
    from pyroscvi.inference.fit import _split

    few_of_b = replace(cells, categories={"batch": (torch.arange(60) < 15).long()})
    for seed in range(5):
        train, held_out = _split(few_of_b, 0.2, seed=seed)
        assert held_out.batch.bincount().tolist() == [9, 3]
        assert train.batch.bincount().tolist() == [36, 12]


# What goes wrong


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("how", [torch.as_tensor, sparse.csr_matrix])
def test_rubbish_is_not_trained_on(rubbish, how, cells):
    counts = cells.x.clone()
    counts[17, 3] = rubbish
    bad = Cells(how(counts.numpy()), genes=cells.genes, names=np.array([f"cell{i}" for i in range(60)], dtype=object))
    with pytest.raises(ValueError, match=rf"cell 'cell17', gene 'gene3' has the count {rubbish}"):
        quick(SCVI(latent=3), MeanField(), bad)


def test_a_covariate_that_is_not_finite_is_named(cells):
    covariates = torch.zeros(60, 2)
    covariates[5, 1] = math.inf
    with pytest.raises(ValueError, match="cell 5 has a covariate"):
        quick(SCVI(latent=3), MeanField(), replace(cells, covariates=covariates))


class Fragile(SCVI):
    """Its likelihood breaks down where one gene is counted more than eight times."""

    def model(self, cells):
        with cells.plate():
            z = self.prior()
            eta = self.decoder(z, self.condition(cells))
            crack = torch.where((cells.x > 8) & (torch.arange(12) == 3), math.nan, 0.0)
            log_mu = self.size(cells).log() + eta["rho"].log_softmax(-1) + crack
            pyro.sample("x", distributions.Poisson(log_mu), obs=cells.x)


def test_a_loss_that_is_not_finite_names_site_cell_and_gene(cells):
    named = replace(cells, names=np.array([f"cell{i}" for i in range(60)], dtype=object))
    broken = ((cells.x > 8) & (torch.arange(12) == 3)).any(1).nonzero().squeeze(-1).tolist()
    assert 0 < len(broken) < 60
    with pytest.raises(NonFiniteLoss, match="the loss became nan at epoch 1, minibatch") as caught:
        quick(Fragile(latent=3, likelihood=Poisson()), MeanField(), named, validation=0)
    message = str(caught.value)
    assert "site 'x' of the model has log-density nan" in message
    assert "site 'z'" not in message
    assert "gene 'gene3' with count" in message
    assert int(re.search(r"first in cell 'cell(\d+)'", message)[1]) in broken
    assert all(torch.isfinite(t).all() for t in state(caught.value.fit).values())
    assert caught.value.fit.latent(cells).shape == (60, 3)


def test_a_parameter_that_is_not_finite_is_named(cells):
    m = SCVI(latent=3, likelihood=NB()).sized(cells.dims)
    with torch.no_grad():
        m.likelihood.dispersion.log_theta[5] = math.nan
    with pytest.raises(NonFiniteLoss, match=r"not finite themselves: model.likelihood.dispersion.log_theta") as caught:
        quick(m, MeanField(), cells)
    assert "gene 'gene5'" in str(caught.value)


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(cells):
    steps = []

    def steep(model, guide, minibatch):
        steps.append(1)
        w = model.decoder.heads["rho"].weight
        return (w * 0).sum().expand(len(minibatch)).sqrt() if len(steps) == 4 else torch.zeros(len(minibatch))

    with pytest.raises(
        NonFiniteLoss, match=r"epoch 2, minibatch 1.*gradients are not finite for model.decoder"
    ) as caught:
        quick(SCVI(latent=3), MeanField(), cells, objectives=[steep])
    assert all(torch.isfinite(t).all() for t in state(caught.value.fit).values())
    assert len(caught.value.fit.history) == 1


def test_an_interrupted_fit_is_a_fit(cells):
    steps = []

    def interrupt(model, guide, minibatch):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return torch.zeros(len(minibatch))

    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 50"):
        f = quick(SCVI(latent=3), MeanField(), cells, epochs=50, objectives=[interrupt])
    assert f.record["interrupted"]
    assert len(f.history) == 2
    assert f.latent(cells).shape == (60, 3)


# Objectives


def test_classifier_is_bayes_rule(cells):
    m, g = sized(Annotated(latent=3), MeanField(), cells, torch.float32)
    with torch.no_grad(), seeded(5):
        loss = Classifier(weight=2.0)(m, g, cells)
    with torch.no_grad(), seeded(5):
        _, q = joint(m, g, cells)
        z = q["z"]["value"]
    by_hand = m.w.log_softmax(-1) + dist.Normal(m.m, m.s).to_event(1).log_prob(z.unsqueeze(1))
    by_hand = -2 * by_hand.log_softmax(-1).detach()
    labelled = cells.label >= 0
    assert torch.allclose(loss[labelled], by_hand[labelled, cells.label[labelled]], atol=1e-5)
    assert (loss[~labelled] == 0).all()


def test_classifier_teaches_labels(cells):
    def told(f):
        d = f.describe(cells)
        return d.class_loss.nanmean()

    options = {"epochs": 40, "lr": 1e-2, "early_stopping": False}
    without, with_it = (
        quick(Annotated(latent=3), MeanField(), cells, objectives=o, **options) for o in ([], [Classifier(20.0)])
    )
    assert told(with_it) < told(without)


def test_classifier_needs_a_page_with_labels(cells):
    with pytest.raises(KeyError, match="no enumerated site 'y'"):
        quick(SCVI(latent=3), MeanField(), cells, objectives=[Classifier()])
    with pytest.raises(KeyError, match="no field 'type'"):
        quick(Annotated(latent=3), MeanField(), cells, objectives=[Classifier(field="type")])


def test_log_levels_of_a_mixture(cells):
    m, g = sized(GMVAE(latent=3), MeanField(), cells, torch.float32)
    p, q = joint(m, g, cells)
    assert torch.allclose(log_levels(p, "k").exp(), m.responsibilities(q["z"]["value"]), atol=1e-5)


@pytest.mark.parametrize("model", [SCVI(latent=3), GMVAE(latent=3)], ids=repr)
def test_free_bits_give_back_what_is_below(model, cells):
    m, g = sized(model, MeanField(), cells, torch.float32)
    with torch.no_grad(), seeded(0):
        given = FreeBits(1e3)(m, g, cells)
    with torch.no_grad(), seeded(0):
        d = bound(m, g, cells, analytic=True)
    with torch.no_grad(), seeded(0):
        p, _ = joint(m, g, cells)
    x = p["x"]["fn"].log_prob(cells.x)
    assert torch.allclose(1e3 - given, x.reshape(-1, len(cells))[0] - d.cells, atol=1e-2)


def test_an_objective_with_parameters_is_trained_too(cells):
    class Pull(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, model, guide, minibatch):
            return ((self.a - 3) ** 2).expand(len(minibatch))

    pull = Pull()
    quick(SCVI(latent=3), MeanField(), cells, epochs=5, lr=1e-1, objectives=[pull], early_stopping=False)
    assert pull.a > 0.5


def test_a_models_own_latent_sites_of_any_kind(cells):
    """A page written by a user: two local latents, one of them positive, and one that all cells share."""

    class Mine(Model):
        def build(self, dims):
            self.W = nn.Parameter(torch.randn(dims.genes, 2))

        def model(self, cells):
            b = pyro.sample("b", dist.Normal(torch.zeros(12), 1.0).to_event(1))
            with cells.plate():
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                s = pyro.sample("s", dist.Gamma(torch.ones(1) * 3, 1.0).to_event(1))
                log_mu = z @ self.W.T + b + s.log()
                pyro.sample("x", dist.Poisson(log_mu.exp()).to_event(1), obs=cells.x)

    f = quick(Mine(), FullCovariance(), cells, epochs=20, lr=1e-2, early_stopping=False)
    assert f.history["elbo_train"].iloc[-1] > f.history["elbo_train"].iloc[0]
    assert f.latent(cells, site="s").min() > 0
    assert f.latent(cells, site="b").shape == (12,)
    m, g = f.model, f.guide
    with torch.no_grad(), seeded(0):
        ours = negative_elbo(m, g, cells, analytic=False)
    with seeded(0):
        assert ours.item() == pytest.approx(pyros().loss(m, g, cells), rel=1e-5)


def test_guides_and_models_are_what_was_declared(cells):
    f = quick(SCVI(latent=3, likelihood=Poisson()), MeanField(), cells)
    assert isinstance(f.model, Model)
    assert isinstance(f.guide, Guide)
    assert repr(f).startswith("Fit(SCVI(latent=3, likelihood=Poisson()), MeanField(); 3 epochs")
    assert "<code>SCVI" in f._repr_html_()
