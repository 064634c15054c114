"""Sweeps: every combination is fitted once; a second sweep reads it from its folder."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import pyroscvi as ps
from pyroscvi.comparison import sweep as module
from pyroscvi.comparison.compare import compare
from pyroscvi.comparison.sweep import grid, sweep
from pyroscvi.evidence.as_counts import as_counts
from pyroscvi.evidence.estimator import Importance
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, PPCA, SCVI
from pyroscvi.parts import MLP, NB, ZINB, LatentSize, Mixture, PerBatch, Poisson, ReadCell, StandardNormal, VampPrior

GUIDE = MeanField(encoder=ReadCell(widths=8))
PAGE = SCVI(latent=2, decoder=MLP(8))
QUICK = {"epochs": 2, "progress": False, "early_stopping": False}


@pytest.fixture
def plain(cells):
    return replace(cells, graph=None)


@pytest.fixture
def counted(monkeypatch):
    """What is really fitted, rather than read."""
    done = []

    def fit(model, guide, cells, **settings):
        done.append(repr(model.likelihood))
        return ps.fit(model, guide, cells, **settings)

    monkeypatch.setattr(module, "fit", fit)
    return done


# What is declared


def test_a_grid_has_every_combination():
    declared = grid(PAGE, GUIDE, likelihood=[NB(), ZINB()], latent=[2, 3], guide=[MeanField(), FullCovariance()])
    assert len(declared) == 8
    model, guide = declared["zinb, latent 3, full_covariance"]
    assert repr(model) == "SCVI(latent=3, decoder=MLP(widths=8))"  # zinb is its default
    assert repr(guide) == "FullCovariance()"
    assert repr(declared["nb, latent 2, mean_field"][0]) == "SCVI(latent=2, decoder=MLP(widths=8), likelihood=NB())"


def test_names_contain_only_slots_that_vary():
    assert list(grid(PAGE, GUIDE, likelihood=[NB()], latent=[2, 3])) == ["latent 2", "latent 3"]
    assert list(grid(PAGE, GUIDE, likelihood=[NB()])) == ["nb"]
    assert list(grid(PAGE, GUIDE)) == ["SCVI"]


def test_names_are_those_of_the_command_line():
    priors = [StandardNormal(), Mixture(16), VampPrior(components=4)]
    assert list(grid(PAGE, GUIDE, prior=priors)) == ["standard_normal", "mixture:16", "vamp_prior:4"]
    assert list(grid(PAGE, GUIDE, likelihood=[NB(), NB(PerBatch())])) == ["nb", "nb:per_batch"]
    decoders = [MLP(), MLP(dropout=0.1)]
    assert list(grid(PAGE, GUIDE, decoder=decoders)) == ["mlp", "mlp:dropout=0.1"]
    assert list(grid(PAGE, GUIDE, prior={"wide": Mixture(32), "none": StandardNormal()})) == ["wide", "none"]


def test_models_and_encoders_are_choices_too():
    declared = grid(PAGE, GUIDE, model=[SCVI(), LDVAE()], encoder=[ReadCell(8), ReadCell(4)], latent=[3])
    assert set(declared) == {f"{page}, read_cell:{width}" for page in ("scvi", "ldvae") for width in (8, 4)}
    model, guide = declared["ldvae, read_cell:4"]
    assert repr(model) == "LDVAE(latent=3)"
    assert repr(guide) == "MeanField(encoder=ReadCell(widths=4))"


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="no field of SCVI 'likelyhood'; did you mean 'likelihood'"):
        grid(PAGE, GUIDE, likelyhood=[NB()])
    with pytest.raises(ValueError, match="no field of PPCA 'likelihood'"):
        grid(PPCA(), GUIDE, likelihood=[NB()])
    with pytest.raises(ValueError, match="likelihood takes a list of choices"):
        grid(PAGE, GUIDE, likelihood=NB())
    with pytest.raises(ValueError, match="two choices of latent are the same"):
        grid(PAGE, GUIDE, latent=[2, 2])
    with pytest.raises(ValueError, match="no choice of latent"):
        grid(PAGE, GUIDE, latent=[])


# What is fitted


def test_a_sweep_gives_the_same_fits_as_fit(plain):
    (swept,) = sweep(grid(PAGE, GUIDE, likelihood=[NB()]), plain, seeds=1, **QUICK).values()
    alone = ps.fit(replace(PAGE, likelihood=NB()), GUIDE, plain, **QUICK)
    np.testing.assert_array_equal(swept.latent(plain), alone.latent(plain))


def test_nothing_is_fitted_twice(plain, tmp_path, counted):
    declared = grid(PAGE, GUIDE, likelihood=[NB(), Poisson()])
    first = sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    assert counted == ["NB()", "Poisson()"]
    again = sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    assert len(counted) == 2
    for name in declared:
        np.testing.assert_array_equal(first[name].latent(plain), again[name].latent(plain))
    wider = sweep(grid(PAGE, GUIDE, likelihood=[ZINB(), NB(), Poisson()]), plain, folder=tmp_path, seeds=1, **QUICK)
    assert counted[2:] == ["ZINB()"]
    assert list(wider) == ["zinb", "nb", "poisson"]


def test_other_settings_or_cells_are_fitted_again(plain, tmp_path, counted):
    declared = grid(PAGE, GUIDE, likelihood=[NB()])
    sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK, lr=1e-2)  # other settings
    sweep(declared, plain.subset(torch.arange(50)), folder=tmp_path, seeds=1, **QUICK)  # other cells
    one_more = plain.counts.clone()
    one_more[0, 0] += 1
    sweep(declared, replace(plain, counts=one_more), folder=tmp_path, seeds=1, **QUICK)  # another count
    sweep(grid(replace(PAGE, latent=3), GUIDE, likelihood=[NB()]), plain, folder=tmp_path, seeds=1, **QUICK)
    sweep(grid(PAGE, FullCovariance(encoder=ReadCell(8)), likelihood=[NB()]), plain, folder=tmp_path, seeds=1, **QUICK)
    assert len(counted) == len(list(tmp_path.iterdir())) == 6
    about = [json.loads((folder / "declaration.json").read_text()) for folder in tmp_path.iterdir()]
    assert {each["guide"] for each in about} == {repr(GUIDE), "FullCovariance(encoder=ReadCell(widths=8))"}
    sweep(declared, plain, folder=tmp_path, seeds=1, device="cpu", **QUICK)  # which changes nothing
    assert len(counted) == 6


def test_an_interrupted_sweep_is_resumed(plain, tmp_path, monkeypatch, counted):
    from pyroscvi.inference.run import Run

    declared = grid(PAGE, GUIDE, likelihood=[NB(), Poisson(), ZINB()])
    alone = sweep(declared, plain, seeds=1, **QUICK)
    counted.clear()
    advance, steps = Run.advance, []

    def interrupted(run):
        if len(steps) == 3:  # in the second epoch of the second fit
            raise KeyboardInterrupt
        steps.append(repr(run.model.likelihood))
        advance(run)

    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same sweep goes on from here"):
        sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    assert counted == ["NB()", "Poisson()"]

    steps.clear()
    monkeypatch.setattr(Run, "advance", lambda run: (steps.append(repr(run.model.likelihood)), advance(run)))
    swept = sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    assert steps == ["Poisson()", "ZINB()", "ZINB()"]  # one epoch was left of the second fit, and all of the third
    for name in declared:
        np.testing.assert_array_equal(swept[name].latent(plain), alone[name].latent(plain))
    assert not list(tmp_path.rglob("run.safetensors*"))


def test_seeds_give_the_error_over_refits(plain, tmp_path, counted):
    train, held_out = plain.split(0.3, seed=0)
    lines = []
    swept = sweep(
        grid(PAGE, GUIDE, likelihood=[NB(), Poisson()]), train, folder=tmp_path, seeds=2, tell=lines.append, **QUICK
    )
    assert {name: len(seeds) for name, seeds in swept.by_seed.items()} == {"nb": 2, "poisson": 2}
    assert lines[1].startswith("2 of 4  nb, seed 1: SCVI(")
    result = compare(swept, held_out, 20)
    table = result.table
    assert (table["seed_sd"] > 0).all()
    by_seed = [ps.log_evidence(one, held_out, 20).mean() for one in swept.by_seed["nb"]]
    assert table.loc["nb", "evidence"] == pytest.approx(np.mean(by_seed))
    other = table.index[1]
    spread = np.hypot(*table["seed_sd"]) / 2**0.5
    assert table.loc[other, "standard_error"] == pytest.approx(np.hypot(table.loc[other, "over_cells"], spread))
    assert {len(fit.seeds) for fit in result.fits.values()} == {2}
    sweep(grid(PAGE, GUIDE, likelihood=[NB()]), train, folder=tmp_path, seeds=[0, 5], **QUICK)
    assert len(counted) == 5


def test_evidences_are_kept_with_their_fits(plain, tmp_path, monkeypatch):
    from pyroscvi.comparison import entry as comparison

    train, held_out = plain.split(0.3, seed=0)
    declared = grid(PAGE, GUIDE, likelihood=[NB(), Poisson()])
    made = []

    def evidences(reader, *arguments, **settings):
        made.append(repr(reader.model.likelihood))
        return real(reader, *arguments, **settings)

    real = comparison.evidences
    monkeypatch.setattr(comparison, "evidences", evidences)

    def compared(cells=held_out, particles=20, **settings):
        made.clear()
        return compare(sweep(declared, train, folder=tmp_path, seeds=2, **QUICK), cells, particles, **settings)

    first = compared()
    assert len(made) == 4
    again = compared(memory="10MB", batch_size=3)  # which no number depends on
    assert made == []
    pd.testing.assert_frame_equal(again.table, first.table, rtol=1e-9)
    pd.testing.assert_frame_equal(again.by_cell, first.by_cell, rtol=0, atol=0)

    changed = replace(held_out, counts=held_out.x.clone().index_fill_(0, torch.tensor([3]), 1.0))
    for other in ({"particles": 21}, {"seed": 1}, {"estimator": Importance()}, {"certify": True}, {"cells": changed}):
        compared(**other)
        assert len(made) == 4, other
    compared(), compared(particles=21), compared(seed=1), compared(estimator=Importance()), compared(cells=changed)
    with as_counts():
        compared()
        assert len(made) == 4  # a handler makes another model of a fit


def test_a_damaged_evidence_is_computed_again(plain, tmp_path):
    train, held_out = plain.split(0.3, seed=0)
    swept = sweep(grid(PAGE, GUIDE, likelihood=[NB()]), train, folder=tmp_path, seeds=1, **QUICK)
    first = compare(swept, held_out, 5)
    (file,) = tmp_path.rglob("evidence/*.json")
    text = file.read_text()
    digit = re.search(r"-\d+\.\d", text)
    assert digit
    for damaged in (text.replace(digit[0], f"-1{digit[0][1:]}", 1), text[:-40], "{}", ""):
        file.write_text(damaged)
        with pytest.warns(UserWarning, match=rf"{file.name} is not as pyroscvi wrote it.*computed again"):
            again = compare(swept, held_out, 5)
        pd.testing.assert_frame_equal(again.by_cell, first.by_cell)
        assert file.read_text() == text


def test_a_sweep_continues_after_a_fit_that_fails(plain, monkeypatch):
    from pyroscvi.inference.diagnosis import NonFiniteLoss

    def fit(model, guide, cells, **settings):
        if isinstance(model.likelihood, Poisson):
            raise NonFiniteLoss("the loss is not finite")
        return ps.fit(model, guide, cells, **settings)

    monkeypatch.setattr(module, "fit", fit)
    with pytest.warns(UserWarning, match="'poisson' could not be fitted with seed 0: the loss is not finite"):
        swept = sweep(grid(PAGE, GUIDE, likelihood=[Poisson(), NB()]), plain, seeds=1, **QUICK)
    assert list(swept) == ["nb"]
    assert swept.failed == {"poisson": "the loss is not finite"}


def test_a_page_outside_the_catalogue_is_loaded_again(plain, tmp_path, counted):
    class Mine(NB):
        """A part that the library does not know."""

    declared = grid(PAGE, GUIDE, likelihood=[Mine()])
    sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    sweep(declared, plain, folder=tmp_path, seeds=1, **QUICK)
    assert counted == ["Mine()"]


def test_fits_with_other_estimands_are_not_compared(plain):
    from pyroscvi.parts import ObservedSize

    swept = sweep(grid(PAGE, GUIDE, size=[ObservedSize(), LatentSize()]), plain, seeds=1, **QUICK)
    with pytest.raises(ValueError, match=r"'observed_size' gives p\(x \| l\) and 'latent_size' gives p\(x\)"):
        compare(swept, plain, 5)


def test_wrong_arguments_of_a_sweep_are_refused(plain, tmp_path):
    declared = grid(PAGE, GUIDE)
    with pytest.raises(ValueError, match="a sweep takes seeds=, how many or which, and not seed="):
        sweep(declared, plain, seed=1)
    with pytest.raises(ValueError, match="seeds that differ"):
        sweep(declared, plain, seeds=[1, 1])
    with pytest.raises(ValueError, match="one declaration at least"):
        sweep({}, plain)
    with pytest.raises(ValueError, match=r"objectives=.* prints differently in every process: make it a Part"):
        sweep(declared, plain, folder=tmp_path, objectives=[lambda *_: 0.0])
