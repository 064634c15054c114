"""What a fit promises, and what goes wrong."""

import io
import math
import random
import re
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError, version
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from fits import pyros, quick, same, state
from pyro.infer import SVI
from rich.console import Console
from scipy import sparse

import pyroscvi as ps
from pyroscvi import distributions
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.fit import default_epochs
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.diagnosis import NonFiniteLoss
from pyroscvi.inference.evaluation import evaluate
from pyroscvi.inference.progress import counted
from pyroscvi.models import GMVAE, SCVI
from pyroscvi.parts import MLP, NB, BatchNorm, Poisson, ReadCell, VampPrior

# Fits


def test_history_has_a_row_an_epoch(cells):
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=5)
    assert isinstance(f.history, pd.DataFrame)
    assert f.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert {"loss", "elbo_train", "elbo_held_out", "kl_weight", "seconds"} < set(f.history)
    assert f.history.notna().all().all()
    assert (f.history["seconds"].diff().dropna() > 0).all()
    assert f.record["versions"] == {
        "pyroscvi": ps.__version__, **{name: version(name) for name in ("torch", "pyro-ppl", "numpy")}
    }  # fmt: skip
    assert f.record["cells"] == {"train": 54, "held_out": 6}
    assert f.record["levels"]["batch"] == {"a": 30, "b": 30}
    assert not f.model.training
    assert not f.guide.training


def test_sources_that_were_not_installed_can_be_used(cells, monkeypatch):
    """Nobody has to wait for a fit, only to hear that the package has no metadata."""
    monkeypatch.setattr(Distribution, "from_name", Mock(side_effect=PackageNotFoundError("pyroscvi")))
    assert quick(SCVI(latent=3), MeanField(), cells, epochs=1).record["epochs"] == 1


def test_loss_is_a_mean_over_cells(cells):
    """Twice the same cells: the same loss a cell, to what the split and the steps do to it."""
    f = quick(SCVI(latent=3), MeanField(), cells, epochs=1, warmup=0.0, lr=1e-9, validation=0.0)
    reference = -evaluate(f.model, f.guide, cells, len(cells), 0) - f.model.decoder.log_prior().item() / len(cells)
    assert f.history["loss"][0] == pytest.approx(reference, rel=0.05)


def test_training_lowers_the_loss_and_learns_the_cells(cells):
    f = quick(SCVI(latent=3), FullCovariance(), cells, epochs=60, lr=1e-2, early_stopping=False)
    bounds = f.history["elbo_held_out"].dropna()
    assert bounds.iloc[-1] > bounds.iloc[0] + 1


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


def test_earlier_random_draws_of_the_user_do_not_change_a_fit(cells):
    torch.manual_seed(1)
    one = quick(SCVI(latent=3), MeanField(), cells)
    torch.manual_seed(2)
    assert same(one, quick(SCVI(latent=3), MeanField(), cells))


def test_two_models_in_one_process_do_not_affect_each_other(cells):
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
    of_weights = m.decoder.log_prior().item() / 54  # cells to fit to
    assert f.history["loss"][0] + of_weights == pytest.approx(np.mean(losses[-5:]), rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 21, 41])
def test_any_number_of_cells_can_be_fitted(n, cells):
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
    assert [default_epochs(n) for n in (20_000, 40_000, 1_000_000, 5_000)] == [60, 30, 10, 60]
    assert default_epochs(100) == 1_000  # one step an epoch


def test_a_log_gets_a_line_now_and_then(cells, capsys, monkeypatch):
    quick(SCVI(latent=3), MeanField(), cells, progress=True)
    assert capsys.readouterr() == ("", "")  # done before the first line was due
    monkeypatch.setattr("pyroscvi.inference.progress.SECONDS", 0.0)
    quick(SCVI(latent=3), MeanField(), cells, progress=False)
    assert capsys.readouterr() == ("", "")
    f = quick(SCVI(latent=3), MeanField(), cells, progress=True)
    out, log = capsys.readouterr()
    assert out == ""
    assert re.search(r"^SCVI: epoch 2/3  loss [\d.]+  held-out ELBO .*, 0:00:\d\d elapsed, about .* left$", log, re.M)
    assert f"held-out ELBO {f.history['elbo_held_out'].iloc[-1]:.2f}" in log.splitlines()[-1]


def screen(monkeypatch, width):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=width)
    monkeypatch.setattr("pyroscvi.inference.progress.Console", lambda **_: terminal)
    return written


def test_a_terminal_shows_progress(cells, monkeypatch):
    written = screen(monkeypatch, 140)
    f = quick(SCVI(latent=3), MeanField(), cells, progress=True)
    shown = written.getvalue()
    assert "SCVI" in shown
    assert "epoch 3/3" in shown
    assert f"held-out ELBO {f.history['elbo_held_out'].iloc[-1]:.2f}" in shown
    assert "beta 1.00" in shown
    written.truncate(0)
    quick(SCVI(latent=3), MeanField(), cells, progress=False)
    assert written.getvalue() == ""


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_shows_the_times(width, cells, monkeypatch):
    written = screen(monkeypatch, width)
    quick(SCVI(latent=3), MeanField(), cells, progress=True)
    last = [line for line in re.split(r"[\r\n]", written.getvalue()) if "epoch" in line][-1]
    assert re.search(r"epoch 3/3 .*\d:\d\d:\d\d.* \d:\d\d:\d\d", re.sub(r"\x1b\[[\d;?]*\w", "", last))


def test_a_name_with_brackets_is_shown_as_it_is(monkeypatch):
    written = screen(monkeypatch, 80)
    monkeypatch.setattr("pyroscvi.inference.progress.DELAY", 0.0)
    with counted("scvi [nb] [/red]", 10) as add:
        add(10)
    assert "scvi [nb] [/red]" in written.getvalue()


def test_gradients_are_clipped(cells):
    wild, tame = (quick(SCVI(latent=3), MeanField(), cells, epochs=1, clip=clip) for clip in (1e9, 1e-30))
    still = quick(SCVI(latent=3), MeanField(), cells, epochs=1, lr=1e-30)
    moved = [max((state(f)[k] - state(still)[k]).abs().max().item() for k in state(f)) for f in (wild, tame)]
    assert moved[0] > 1e-4
    assert moved[1] < 1e-9


# What goes wrong


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("how", [torch.as_tensor, sparse.csr_matrix])
def test_invalid_counts_are_refused_before_training(rubbish, how, cells):
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


def test_a_gradient_that_is_not_finite_stops_the_run_before_a_parameter_changes(cells):
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


def test_the_last_step_is_checked_too(cells):
    with pytest.raises(NonFiniteLoss, match=r"the training ELBO was \S+ at the end of epoch 1: .* lower lr") as caught:
        quick(SCVI(latent=3), MeanField(), cells, epochs=1, batch_size=60, validation=0, lr=1e30)
    fit = caught.value.fit
    assert np.isfinite(fit.latent(cells)).all()
    assert max(t.abs().max() for t in state(fit).values()) < 1e3
    assert len(fit.history) == fit.record["epochs"] == 0


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (lambda c: ps.fit(SCVI, MeanField(), c), r"fit takes a model, not the class SCVI: write SCVI\(\)"),
        (lambda c: ps.fit(SCVI(), MeanField, c), r"fit takes a guide, not the class MeanField: write MeanField\(\)"),
        (lambda c: ps.fit(MeanField(), SCVI(), c), r"the model comes first.*: write fit\(model, guide, cells\)"),
        (lambda c: ps.fit("scvi", MeanField(), c), r"a model such as SCVI\(\), not 'scvi'"),
        (lambda c: ps.fit(SCVI(), c, c), r"a guide such as MeanField\(\), not .*: write fit\(model, guide, cells\)"),
    ],
)
def test_errors_for_common_mistakes_say_what_to_write(wrong, advice, cells):
    with pytest.raises(TypeError, match=advice):
        wrong(cells)


def test_latents_of_a_fit_that_was_trained_further_are_the_means_of_the_guide(cells):
    """Supports of its sites are copies of torch's then, and were not recognised as the real line."""
    cells = replace(cells, graph=None)
    one = quick(SCVI(latent=2, likelihood=NB()), MeanField(), cells, epochs=1)
    two = quick(one.model, one.guide, cells, epochs=1)
    with torch.no_grad():
        np.testing.assert_array_equal(two.latent(cells), two.guide.posteriors(cells)["z"].mean.numpy())
