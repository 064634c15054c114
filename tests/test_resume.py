"""Runs that were interrupted go on from the last checkpoint, and end with the same bits."""

import json
import math
import os
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fits import interrupted_after, quick, run, same
from safetensors import safe_open
from scipy import sparse

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.resume import Folder, digest
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import LDVAE, SCVI
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    RandomDispersion,
    VampPrior,
)


@pytest.fixture
def small(with_covariates):
    return quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1)


STORIES = {
    "dropout and batch norm": (SCVI(latent=3, decoder=MLP(norm=BatchNorm(), dropout=0.2)), FullCovariance()),
    "enumerated, following": (SCVI(latent=3, prior=VampPrior(components=4)), MeanField()),
    "shared latents": (LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField()),
}


@pytest.mark.parametrize("steps", [0, 1, 6, 7, 11])
@pytest.mark.parametrize("story", STORIES)
def test_an_interrupted_run_is_resumed_bitwise(story, steps, with_covariates, tmp_path):
    model, guide = STORIES[story]
    options = {"epochs": 5, "batch_size": 20, "lr": 1e-2, "early_stopping": Patience(2), "seed": 3}
    straight = quick(model, guide, with_covariates, objectives=[interrupted_after(10**6)], **options)
    folder = Folder(tmp_path / "run", seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(model, guide, with_covariates, objectives=[interrupted_after(steps)], folder=folder, **options)
    rest = interrupted_after(10**6)
    resumed = quick(model, guide, with_covariates, objectives=[rest], folder=folder, **options)
    assert len(rest.taken) + steps == 3 * len(straight.history)
    assert same(straight, resumed)
    pd.testing.assert_frame_equal(straight.history.drop(columns="seconds"), resumed.history.drop(columns="seconds"))
    assert {**straight.record, "seconds": 0} == {**resumed.record, "seconds": 0}
    assert same(ps.load(tmp_path / "run"), resumed)


def test_the_best_state_outlives_an_interruption(with_covariates, tmp_path):
    """The run is interrupted when its best epoch is behind it: nothing that follows is as good."""
    few = with_covariates.subset(torch.arange(30))
    options = {
        "epochs": 60,
        "batch_size": 10,
        "lr": 3e-2,
        "validation": 0.3,
        "early_stopping": Patience(4),
        "warmup": 0.0,
    }
    straight = quick(SCVI(latent=3), MeanField(), few, objectives=[interrupted_after(10**6)], **options)
    best, steps = straight.record["best_epoch"], math.ceil(straight.record["cells"]["train"] / 10)
    assert straight.record["stopped_early"]
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match=f"interrupted in epoch {best + 3}"):
        quick(
            SCVI(latent=3),
            MeanField(),
            few,
            objectives=[interrupted_after(steps * (best + 2) + 1)],
            folder=folder,
            **options,
        )
    resumed = quick(SCVI(latent=3), MeanField(), few, objectives=[interrupted_after(10**6)], folder=folder, **options)
    assert resumed.record["best_epoch"] == best
    assert same(straight, resumed)


def test_a_finished_run_is_not_run_again(with_covariates, tmp_path):
    first = quick(SCVI(latent=3), MeanField(), with_covariates, folder=tmp_path, objectives=[interrupted_after(10**6)])
    again = interrupted_after(0)
    second = quick(SCVI(latent=3), MeanField(), with_covariates, folder=tmp_path, objectives=[again])
    assert again.taken == []
    assert same(first, second)
    pd.testing.assert_frame_equal(first.history, second.history)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"lr": 5e-3}, "lr was 0.006 and is 0.005"),
        ({"epochs": 4}, "epochs was 3 and is 4"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"validation": 0.2}, "cells held out was 6 and is 12"),
        ({"model": SCVI(latent=4)}, "the model differs"),
        ({"guide": FullCovariance()}, "the guide differs"),
    ],
)
def test_another_run_in_the_folder_is_an_error(change, difference, with_covariates, tmp_path):
    quick(SCVI(latent=3), MeanField(), with_covariates, folder=tmp_path)
    model, guide = change.pop("model", SCVI(latent=3)), change.pop("guide", MeanField())
    with pytest.raises(ValueError, match=difference):
        quick(model, guide, with_covariates, folder=tmp_path, **change)


def test_other_cells_are_another_run(with_covariates, tmp_path):
    quick(SCVI(latent=3), MeanField(), with_covariates, folder=tmp_path)
    counts = with_covariates.counts.clone()
    counts[0, 0] += 1
    with pytest.raises(ValueError, match="the cells differ"):
        quick(SCVI(latent=3), MeanField(), replace(with_covariates, counts=counts), folder=tmp_path)


def test_cells_with_other_predecessors_are_other_cells(with_covariates):
    n = len(with_covariates)
    few, many = (replace(with_covariates, before=sparse.csr_matrix(np.tri(n, k=-1) - np.tri(n, k=-k))) for k in (2, 5))
    assert len({digest(with_covariates), digest(few), digest(many)}) == 3


def test_cells_with_other_neighbours_are_other_cells(cells):
    part = cells.subset(torch.arange(5))
    other = replace(part, halo=replace(part.halo, counts=part.halo.counts + 1))
    assert digest(part) != digest(other)


def test_a_truncated_checkpoint_is_replaced_by_the_previous_one(with_covariates, tmp_path):
    options = {"epochs": 4, "lr": 1e-2}
    straight = quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[interrupted_after(10**6)], **options)
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[interrupted_after(7)], folder=folder, **options)
    whole = (tmp_path / "run.safetensors").read_bytes()
    (tmp_path / "run.safetensors").write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match="the previous file was read"):
        resumed = quick(
            SCVI(latent=3),
            MeanField(),
            with_covariates,
            objectives=[interrupted_after(10**6)],
            folder=folder,
            **options,
        )
    assert same(straight, resumed)


def test_a_fit_removes_what_a_killed_one_was_writing(with_covariates, tmp_path):
    (tmp_path / ".run.partial.safetensors").write_bytes(b"half a checkpoint")
    quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1, folder=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fit.safetensors", "run.safetensors"]


def test_a_full_disk_does_not_cost_the_fit(with_covariates, disk):
    straight = quick(SCVI(latent=3), MeanField(), with_covariates)
    disk.fill()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fit = quick(SCVI(latent=3), MeanField(), with_covariates, folder=Folder(disk.path / "run", seconds=0.0))
    first, last = (str(warned[place].message) for place in (0, -1))
    assert "run.safetensors could not be written: No space left on device. The fit goes on" in first
    assert "fit.safetensors could not be written: No space left on device. The fit is returned" in last
    assert "fit.save(PATH)" in last
    assert same(straight, fit)
    assert list((disk.path / "run").iterdir()) == []


def test_a_full_disk_leaves_the_last_checkpoint(with_covariates, disk):
    straight = quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[interrupted_after(10**6)])
    folder = Folder(disk.path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[interrupted_after(4)], folder=folder)
    disk.fill()
    for _ in range(2):
        rest = interrupted_after(10**6)
        with pytest.warns(UserWarning, match="No space left"):
            resumed = quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[rest], folder=folder)
        assert len(rest.taken) == 3 * 3 - 4
        assert same(straight, resumed)


def test_the_last_good_state_of_a_fit_that_failed_is_in_its_folder(with_covariates, tmp_path):
    taken = []

    def fail(model, guide, minibatch):
        taken.append(1)
        return (
            torch.full((len(minibatch),), torch.nan if len(taken) == 5 else 0.0)
            + 0 * model.decoder.heads["rho"].bias[0]
        )

    with pytest.raises(ValueError, match="the loss became nan at epoch 2, minibatch 2") as caught:
        quick(SCVI(latent=3), MeanField(), with_covariates, objectives=[fail], folder=tmp_path)
    assert same(ps.load(tmp_path), caught.value.fit)
    assert np.isfinite(ps.load(tmp_path).latent(with_covariates)).all()


RESUME = """
    import os, signal, sys, time, warnings
    import torch
    import pyroscvi as ps
    from pyroscvi.data.cells import Cells
    from pyroscvi.guides import MeanField
    from pyroscvi.fitting.resume import Folder
    from pyroscvi.models import SCVI

    warnings.simplefilter("ignore")
    x = torch.poisson(torch.full((80, 10), 3.0), generator=torch.Generator().manual_seed(0))

    def go(folder=None):
        return ps.fit(SCVI(latent=2), MeanField(), Cells(x), epochs=12, batch_size=16, progress=False, folder=folder)

    straight, kills = go(), 0
    while True:
        child = os.fork()
        if not child:
            go(Folder(sys.argv[1], seconds=0.0))
            os._exit(0)
        time.sleep(0.15 + 0.05 * kills)
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        kills += 1
    resumed = go(Folder(sys.argv[1], seconds=0.0))
    for one, two in ((straight.model, resumed.model), (straight.guide, resumed.guide)):
        for name, t in one.state_dict().items():
            assert torch.equal(t, two.state_dict()[name]), name
    assert straight.history["loss"].tolist() == resumed.history["loss"].tolist()
    print("killed", kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_several_times_equals_an_uninterrupted_run(tmp_path):
    done = run(RESUME, tmp_path / "run")
    assert done.stdout.startswith("killed"), done.stderr
    assert int(done.stdout.split()[1]) >= 1


def test_the_header_is_json_and_the_rest_is_numbers(small, tmp_path):
    small.save(tmp_path / "fit")
    with safe_open(tmp_path / "fit", framework="numpy") as file:
        about = json.loads(file.metadata()["about"])
        assert about["model"]["class"] == "pyroscvi.models.scvi.SCVI"
        assert about["record"]["versions"]["torch"] == torch.__version__.split("+")[0] or about["record"]["versions"]
        assert all(file.get_tensor(name).dtype.kind in "fiu" for name in file.keys())  # noqa: SIM118


def test_cells_without_names_have_numbers(tmp_path):
    cells = Cells(torch.poisson(torch.full((30, 5), 2.0)), {"batch": torch.arange(30) % 2})
    f = quick(SCVI(latent=2), MeanField(), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert again.levels == {"batch": ("0", "1")}
    assert again.genes == ("0", "1", "2", "3", "4")
