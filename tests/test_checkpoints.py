"""Fits on disk: nothing in them executes, nothing is lost, and a run that stopped goes on bitwise."""

import errno
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.inference import checkpoints
from pyroscvi.inference.checkpoints import read, write
from pyroscvi.inference.declarations import declaration, declared
from pyroscvi.inference.resume import Folder
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import CVAE, GMVAE, LDVAE, SCVI, Annotated
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    Continuous,
    Embedding,
    GammaDispersion,
    LaplaceLoadings,
    LatentSize,
    Linear,
    OneHot,
    RandomDispersion,
    ReadCell,
    VampPrior,
)

PAGES = [
    SCVI(latent=3, prior=VampPrior(components=5)),
    SCVI(latent=3, decoder=MLP(widths=(16, 8), norm=BatchNorm(), dropout=0.1), size=LatentSize()),
    CVAE(latent=3, condition=Embedding("label", 4) + OneHot("batch") + Continuous()),
    LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion()), decoder=Linear(bias=False, norm=BatchNorm())),
    LDVAE(latent=3, likelihood=NB(dispersion=GammaDispersion(b=2.0)), decoder=Linear(loadings=LaplaceLoadings(b=0.5))),
    GMVAE(latent=3),
    Annotated(latent=3, trust=0.9),
]


def quick(model, guide, cells, **options):
    return ps.fit(model, guide, cells, **{"epochs": 3, "batch_size": 20, "progress": False, **options})


@pytest.fixture
def told(cells):
    return replace(cells, covariates=torch.arange(120.0).reshape(60, 2) / 60 - 1, graph=None)


@pytest.fixture
def small(told):
    return quick(SCVI(latent=3), MeanField(), told, epochs=1)


def state(fit):
    return {f"{k}.{name}": t for k in ("model", "guide") for name, t in getattr(fit, k).state_dict().items()}


def same(one, two):
    one, two = state(one), state(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# There and back


@pytest.mark.parametrize("model", PAGES, ids=repr)
def test_a_fit_comes_back_as_it_was(model, told, tmp_path):
    f = quick(model, FullCovariance(encoder=ReadCell(widths=16, condition=OneHot("batch"))), told)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert repr(again) == repr(f)
    assert same(f, again)
    assert again.record == f.record
    pd.testing.assert_frame_equal(again.history, f.history)
    assert again.dims.levels == f.dims.levels
    assert torch.equal(again.dims.profile, f.dims.profile)
    assert again.levels == {"batch": ("a", "b"), "label": ("B", "NK", "T"), "drug": ("control", "x", "y", "z")}
    assert again.genes == told.genes
    assert not again.model.training
    np.testing.assert_array_equal(again.latent(told, samples=2), f.latent(told, samples=2))
    np.testing.assert_array_equal(again.generate(n=5), f.generate(n=5))


def test_a_vamp_prior_follows_its_guide_again(told, tmp_path):
    quick(PAGES[0], MeanField(), told).save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert again.model.prior.guide is again.guide
    further = quick(again.model, again.guide, told)
    assert not torch.equal(further.model.prior.raw_u, again.model.prior.raw_u)


def test_double_precision_comes_back_double(told, tmp_path):
    f = quick(SCVI(latent=3), MeanField(), told.to(dtype=torch.float64))
    f.save(tmp_path / "fit")
    assert same(f, ps.load(tmp_path / "fit"))


def test_fields_come_back(tmp_path):
    import anndata

    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b"] * 10), "age": np.arange(20.0)}, index=[f"c{i}" for i in range(20)]
    )
    adata = anndata.AnnData(rng.poisson(3.0, (20, 6)).astype(np.float32), obs)
    cells = ps.Fields(batch="donor", covariates=("age",)).read(adata)
    f = quick(SCVI(latent=2), MeanField(), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert again.fields == f.fields
    assert again.genes == tuple(adata.var_names)
    np.testing.assert_array_equal(again.latent(adata), f.latent(cells))


def test_a_folder_will_do_for_a_path(small, tmp_path):
    small.save(tmp_path)
    assert same(ps.load(tmp_path), small)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no fit at"):
        ps.load(tmp_path / "nothing")


class MyDecoder(MLP):
    """A part of the user's own."""


def test_a_users_own_part_has_to_be_handed_over(told, tmp_path):
    f = quick(SCVI(latent=3, decoder=MyDecoder(widths=8)), MeanField(), told)
    f.save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"MyDecoder, which pyroscvi does not know: load\(path, parts=\[MyDecoder\]\)"):
        ps.load(tmp_path / "fit")
    again = ps.load(tmp_path / "fit", parts=[MyDecoder])
    assert type(again.model.decoder) is MyDecoder
    assert same(f, again)


def test_numbers_of_numpy_are_numbers(told, tmp_path):
    three = np.int64(3)
    f = quick(SCVI(latent=three, decoder=MLP(dropout=np.float32(0.5))), MeanField(), told, seed=three, epochs=three)
    f.save(tmp_path / "fit")
    assert same(f, ps.load(tmp_path / "fit"))


@pytest.mark.parametrize("model", PAGES, ids=repr)
def test_declarations_go_through_json(model):
    again = declared(json.loads(json.dumps(declaration(model))))
    assert repr(again) == repr(model)
    assert type(again) is type(model)


def test_what_cannot_be_written_down_is_an_error():
    with pytest.raises(TypeError, match="cannot be written down"):
        declaration(SCVI(latent=np.random.default_rng(0)))


# Trust


def test_there_is_no_pickle(small, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(torch, "save", never)
    small.save(tmp_path / "fit")
    assert same(ps.load(tmp_path / "fit"), small)


OTHERS = ["os.system", "builtins.eval", "subprocess.Popen", "evil.Model", "pyroscvi.models.evil.Model"]
OURS_BUT_NO_PARTS = [
    "pyroscvi.inference.checkpoints.write",
    "pyroscvi.program.Part",
    "pyroscvi.part.os",
    "pyroscvi.program.Site",
]


@pytest.mark.parametrize("name", OTHERS + OURS_BUT_NO_PARTS)
def test_a_file_cannot_name_what_is_called(name, small, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    small.save(tmp_path / "fit")
    tensors, about = read(tmp_path / "fit")
    about["model"] = {"class": name, "fields": {}}
    write(tmp_path / "fit", tensors, about)
    with pytest.raises(ValueError, match="does not know"):
        ps.load(tmp_path / "fit")
    assert "evil" not in sys.modules


def test_a_newer_format_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    small.save(tmp_path / "fit")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="a newer pyroscvi wrote it"):
        ps.load(tmp_path / "fit")


# Torn, altered, full, killed


@pytest.mark.parametrize("left", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_gives_way_to_the_one_before(left, small, told, tmp_path):
    other = quick(SCVI(latent=3), MeanField(), told, epochs=1, seed=1)
    small.save(tmp_path / "fit")
    other.save(tmp_path / "fit")
    whole = (tmp_path / "fit").read_bytes()
    (tmp_path / "fit").write_bytes(whole[: int(left * len(whole))])
    with pytest.warns(UserWarning, match="the one before it was taken"):
        assert same(ps.load(tmp_path / "fit"), small)
    (tmp_path / "fit.previous").unlink()
    with pytest.raises(ValueError, match="there is no whole file before it"):
        ps.load(tmp_path / "fit")


def test_an_altered_byte_is_noticed_wherever_it_is(small, tmp_path):
    small.save(tmp_path / "fit")
    whole = (tmp_path / "fit").read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 40)
    for place in [0, 9, *places.tolist(), len(whole) - 1]:
        altered = bytearray(whole)
        altered[place] ^= 0b100
        (tmp_path / "fit").write_bytes(altered)
        with pytest.raises(ValueError, match="cannot be read"):
            ps.load(tmp_path / "fit")


def test_a_renamed_tensor_is_noticed(small, tmp_path):
    """Its own bytes are as they were."""
    small.save(tmp_path / "fit")
    whole = (tmp_path / "fit").read_bytes()
    assert whole.count(b'"guide.heads.z.bias"') == 1
    (tmp_path / "fit").write_bytes(whole.replace(b'"guide.heads.z.bias"', b'"guide.heads.y.bias"'))
    with pytest.raises(ValueError, match="checksum"):
        ps.load(tmp_path / "fit")


@pytest.mark.parametrize("breaks", ["save_file", "_flush", "replace"])
def test_a_full_disk_leaves_what_was_there(breaks, small, told, tmp_path, monkeypatch):
    other = quick(SCVI(latent=3), MeanField(), told, epochs=1, seed=1)
    small.save(tmp_path / "fit")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "replace") if breaks == "replace" else (checkpoints, breaks)), full)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path / "fit")
    monkeypatch.undo()
    assert same(ps.load(tmp_path / "fit"), small)
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


def test_the_file_before_the_last_is_kept(small, told, tmp_path):
    for seed in (1, 2, 3):
        quick(SCVI(latent=3), MeanField(), told, epochs=1, seed=seed).save(tmp_path / "fit")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit", "fit.previous"]
    assert ps.load(tmp_path / "fit").record["seed"] == 3
    assert ps.load(tmp_path / "fit.previous").record["seed"] == 2


def test_a_file_that_is_missing_between_two_renames_is_found(small, tmp_path):
    small.save(tmp_path / "fit")
    os.rename(tmp_path / "fit", tmp_path / "fit.previous")
    with pytest.warns(UserWarning, match="the one before it was taken"):
        assert same(ps.load(tmp_path / "fit"), small)


KILL = """
    import os, random, signal, sys, time, warnings
    import torch
    from pyroscvi.inference.checkpoints import read, write

    warnings.simplefilter("ignore")
    path, chance, last = sys.argv[1], random.Random(0), -1

    def put(step):
        write(path, {"w": torch.full((500_000,), float(step))}, {"step": step})

    put(0)
    for _ in range(15):
        child = os.fork()
        if not child:
            step = last + 1
            while True:
                step += 1
                put(step)
        time.sleep(0.02 + 0.08 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tensors, about = read(path)
        assert (tensors["w"] == about["step"]).all()
        assert about["step"] >= last, (about["step"], last)
        last = about["step"]
    print("survived", last)
"""


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_nine_at_any_moment_leaves_a_whole_file(tmp_path):
    done = run(KILL, tmp_path / "w")
    assert done.stdout.startswith("survived"), done.stderr
    assert int(done.stdout.split()[1]) > 10


# Resume


def interrupted_after(steps):
    """An objective that asks for nothing, and interrupts the run once."""
    taken = []

    def interrupt(model, guide, minibatch):
        taken.append(1)
        if len(taken) == steps + 1:
            raise KeyboardInterrupt
        return torch.zeros(len(minibatch))

    interrupt.taken = taken
    return interrupt


STORIES = {
    "dropout and batch norm": (SCVI(latent=3, decoder=MLP(norm=BatchNorm(), dropout=0.2)), FullCovariance()),
    "enumerated, following": (SCVI(latent=3, prior=VampPrior(components=4)), MeanField()),
    "shared latents": (LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField()),
}


@pytest.mark.parametrize("steps", [0, 1, 6, 7, 11])
@pytest.mark.parametrize("story", STORIES)
def test_a_run_that_was_interrupted_goes_on_bitwise(story, steps, told, tmp_path):
    model, guide = STORIES[story]
    options = {"epochs": 5, "batch_size": 20, "lr": 1e-2, "early_stopping": Patience(2), "seed": 3}
    straight = quick(model, guide, told, objectives=[interrupted_after(10**6)], **options)
    folder = Folder(tmp_path / "run", seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(model, guide, told, objectives=[interrupted_after(steps)], folder=folder, **options)
    rest = interrupted_after(10**6)
    resumed = quick(model, guide, told, objectives=[rest], folder=folder, **options)
    assert len(rest.taken) + steps == 3 * len(straight.history)
    assert same(straight, resumed)
    pd.testing.assert_frame_equal(straight.history.drop(columns="seconds"), resumed.history.drop(columns="seconds"))
    assert {**straight.record, "seconds": 0} == {**resumed.record, "seconds": 0}
    assert same(ps.load(tmp_path / "run"), resumed)


def test_the_best_state_outlives_an_interruption(told, tmp_path):
    """The run is interrupted when its best epoch is behind it: nothing that follows is as good."""
    few = told.subset(torch.arange(30))
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


def test_a_finished_run_is_not_run_again(told, tmp_path):
    first = quick(SCVI(latent=3), MeanField(), told, folder=tmp_path, objectives=[interrupted_after(10**6)])
    again = interrupted_after(0)
    second = quick(SCVI(latent=3), MeanField(), told, folder=tmp_path, objectives=[again])
    assert again.taken == []
    assert same(first, second)
    pd.testing.assert_frame_equal(first.history, second.history)


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        ({"lr": 5e-3}, "lr was 0.003 and is 0.005"),
        ({"epochs": 4}, "epochs was 3 and is 4"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"model": SCVI(latent=4)}, "the model differs"),
        ({"guide": FullCovariance()}, "the guide differs"),
    ],
)
def test_another_run_in_the_folder_is_an_error(change, told_of, told, tmp_path):
    quick(SCVI(latent=3), MeanField(), told, folder=tmp_path)
    model, guide = change.pop("model", SCVI(latent=3)), change.pop("guide", MeanField())
    with pytest.raises(ValueError, match=told_of):
        quick(model, guide, told, folder=tmp_path, **change)


def test_other_cells_are_another_run(told, tmp_path):
    quick(SCVI(latent=3), MeanField(), told, folder=tmp_path)
    counts = told.counts.clone()
    counts[0, 0] += 1
    with pytest.raises(ValueError, match="the cells differ"):
        quick(SCVI(latent=3), MeanField(), replace(told, counts=counts), folder=tmp_path)


def test_a_torn_checkpoint_costs_a_step_and_nothing_else(told, tmp_path):
    options = {"epochs": 4, "lr": 1e-2}
    straight = quick(SCVI(latent=3), MeanField(), told, objectives=[interrupted_after(10**6)], **options)
    folder = Folder(tmp_path, seconds=0.0)
    with pytest.warns(UserWarning, match="interrupted"):
        quick(SCVI(latent=3), MeanField(), told, objectives=[interrupted_after(7)], folder=folder, **options)
    whole = (tmp_path / "run.safetensors").read_bytes()
    (tmp_path / "run.safetensors").write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match="the one before it was taken"):
        resumed = quick(
            SCVI(latent=3), MeanField(), told, objectives=[interrupted_after(10**6)], folder=folder, **options
        )
    assert same(straight, resumed)


def test_a_full_disk_does_not_cost_the_fit(told, tmp_path, monkeypatch):
    straight = quick(SCVI(latent=3), MeanField(), told)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.warns(UserWarning, match="No space left on device.*the fit goes on without"):
        f = quick(SCVI(latent=3), MeanField(), told, folder=Folder(tmp_path, seconds=0.0))
    assert same(straight, f)
    assert list(tmp_path.iterdir()) == []


def test_the_last_good_state_of_a_fit_that_failed_is_in_its_folder(told, tmp_path):
    taken = []

    def fail(model, guide, minibatch):
        taken.append(1)
        return (
            torch.full((len(minibatch),), torch.nan if len(taken) == 5 else 0.0)
            + 0 * model.decoder.heads["rho"].bias[0]
        )

    with pytest.raises(ValueError, match="the loss became nan at epoch 2, minibatch 2") as caught:
        quick(SCVI(latent=3), MeanField(), told, objectives=[fail], folder=tmp_path)
    assert same(ps.load(tmp_path), caught.value.fit)
    assert np.isfinite(ps.load(tmp_path).latent(told)).all()


RESUME = """
    import os, signal, sys, time, warnings
    import torch
    import pyroscvi as ps
    from pyroscvi.data.cells import Cells
    from pyroscvi.guides import MeanField
    from pyroscvi.inference.resume import Folder
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
def test_a_run_that_is_killed_again_and_again_arrives_where_it_would_have(tmp_path):
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
