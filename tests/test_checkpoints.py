"""Fits on disk: what is loaded equals what was saved, no file runs code, and a damaged file is an error."""

import errno
import json
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fits import quick, run, same

import pyroscvi as ps
from pyroscvi.fitting import checkpoints
from pyroscvi.fitting.checkpoints import read, write
from pyroscvi.fitting.declarations import declaration, declared
from pyroscvi.guides import FullCovariance, MeanField
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


@pytest.fixture
def small(with_covariates):
    return quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1)


# There and back


@pytest.mark.parametrize("model", PAGES, ids=repr)
def test_a_fit_comes_back_as_it_was(model, with_covariates, tmp_path):
    f = quick(model, FullCovariance(encoder=ReadCell(widths=16, condition=OneHot("batch"))), with_covariates)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert repr(again) == repr(f)
    assert same(f, again)
    assert again.record == f.record
    pd.testing.assert_frame_equal(again.history, f.history)
    assert again.dims.levels == f.dims.levels
    assert torch.equal(again.dims.profile, f.dims.profile)
    assert again.levels == {"batch": ("a", "b"), "label": ("B", "NK", "T"), "drug": ("control", "x", "y", "z")}
    assert again.genes == with_covariates.genes
    assert not again.model.training
    np.testing.assert_array_equal(again.latent(with_covariates, samples=2), f.latent(with_covariates, samples=2))
    np.testing.assert_array_equal(again.generate(n=5), f.generate(n=5))


def test_a_vamp_prior_follows_its_guide_again(with_covariates, tmp_path):
    quick(PAGES[0], MeanField(), with_covariates).save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert again.model.prior.guide is again.guide
    further = quick(again.model, again.guide, with_covariates)
    assert not torch.equal(further.model.prior.raw_u, again.model.prior.raw_u)


def test_double_precision_comes_back_double(with_covariates, tmp_path):
    f = quick(SCVI(latent=3), MeanField(), with_covariates.to(dtype=torch.float64))
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


def test_the_folder_of_a_fit_is_read_too(small, tmp_path):
    small.save(tmp_path)
    assert same(ps.load(tmp_path), small)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no fit at"):
        ps.load(tmp_path / "nothing")


class MyDecoder(MLP):
    """A part of the user's own."""


def test_a_users_own_part_has_to_be_handed_over(with_covariates, tmp_path):
    f = quick(SCVI(latent=3, decoder=MyDecoder(widths=8)), MeanField(), with_covariates)
    f.save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"MyDecoder, which pyroscvi does not know: load\(path, parts=\[MyDecoder\]\)"):
        ps.load(tmp_path / "fit")
    again = ps.load(tmp_path / "fit", parts=[MyDecoder])
    assert type(again.model.decoder) is MyDecoder
    assert same(f, again)


def test_numbers_of_numpy_are_numbers(with_covariates, tmp_path):
    three = np.int64(3)
    f = quick(
        SCVI(latent=three, decoder=MLP(dropout=np.float32(0.5))), MeanField(), with_covariates, seed=three, epochs=three
    )
    f.save(tmp_path / "fit")
    assert same(f, ps.load(tmp_path / "fit"))


@pytest.mark.parametrize("model", PAGES, ids=repr)
def test_declarations_go_through_json(model):
    again = declared(json.loads(json.dumps(declaration(model))))
    assert repr(again) == repr(model)
    assert type(again) is type(model)


def test_a_declaration_that_cannot_be_saved_is_an_error():
    with pytest.raises(TypeError, match="cannot be saved"):
        declaration(np.random.default_rng(0))


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
    "pyroscvi.fitting.checkpoints.write",
    "pyroscvi.program.Part",
    "pyroscvi.part.os",
    "pyroscvi.program.Site",
]


@pytest.mark.parametrize("name", OTHERS + OURS_BUT_NO_PARTS)
def test_a_file_cannot_name_a_function_to_call(name, small, tmp_path, monkeypatch):
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


def put(about, *path_and_value):
    *path, last, value = path_and_value
    for name in path:
        about = about[name]
    about[last] = value


MIXTURE = {"class": "pyroscvi.parts.priors.Mixture", "fields": {"components": 10**6}}
TOO_LARGE = [
    ("model", "fields", "latent", 10**5),
    ("model", "fields", "prior", MIXTURE),
    ("model", "fields", "decoder", "fields", "widths", {"tuple": [8] * 20_000}),
    ("dims", "genes", 10**5),
    ("dims", "covariates", 10**8),
    ("dims", "levels", {"batch": 10**8}),
]
MALFORMED = [
    ("model", 3),
    ("model", {}),
    ("model", "class", 3),
    ("model", "class", "pyroscvi.parts.decoders.MLP"),
    ("model", "fields", []),
    ("model", "fields", "__init__", 3),
    ("model", "fields", "latent", "ten"),
    ("model", "fields", "latent", -1),
    ("dims", "genes", -1),
    ("fields", []),
    ("history", {"a": [1], "b": [1, 2]}),
    ("record", []),
]


@pytest.mark.parametrize("change", TOO_LARGE, ids=repr)
def test_shapes_are_looked_at_before_memory_is_taken(change, small, tmp_path):
    """All of these are refused for the numbers that they would allocate, not for a shape that does not fit."""
    small.save(tmp_path / "fit")
    tensors, about = read(tmp_path / "fit")
    put(about, *change)
    write(tmp_path / "fit", tensors, about)
    with pytest.raises(ValueError, match=r"fit holds no fit that can be made again: it declares"):
        ps.load(tmp_path / "fit")


@pytest.mark.parametrize("change", MALFORMED, ids=repr)
def test_a_malformed_declaration_is_one_clear_error(change, small, tmp_path):
    small.save(tmp_path / "fit")
    tensors, about = read(tmp_path / "fit")
    put(about, *change)
    write(tmp_path / "fit", tensors, about)
    with pytest.raises(ValueError, match=r"fit holds no fit that can be made again: "):
        ps.load(tmp_path / "fit")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fit")
    with pytest.raises(ValueError, match="it is no file"):
        ps.load(tmp_path / "fit")


def test_loading_leaves_the_generator_of_torch_alone(small, tmp_path):
    small.save(tmp_path / "fit")
    before = torch.get_rng_state()
    ps.load(tmp_path / "fit")
    assert torch.equal(torch.get_rng_state(), before)


# Torn, altered, full, killed


@pytest.mark.parametrize("left", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_the_previous_file_is_read_if_the_last_is_truncated(left, small, with_covariates, tmp_path):
    other = quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1, seed=1)
    small.save(tmp_path / "fit")
    other.save(tmp_path / "fit")
    whole = (tmp_path / "fit").read_bytes()
    (tmp_path / "fit").write_bytes(whole[: int(left * len(whole))])
    with pytest.warns(UserWarning, match="the previous file was read"):
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


@pytest.mark.parametrize("breaks", ["fsync", "replace"])
def test_a_failed_write_keeps_the_previous_file(breaks, small, with_covariates, tmp_path, monkeypatch):
    other = quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1, seed=1)
    small.save(tmp_path / "fit")

    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, breaks, fails)
    with pytest.raises(OSError, match=r"Input/output error: .*fit"):
        other.save(tmp_path / "fit")
    monkeypatch.undo()
    assert same(ps.load(tmp_path / "fit"), small)
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


def test_a_full_disk_keeps_the_previous_file(small, with_covariates, disk):
    other = quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1, seed=1)
    small.save(disk.path / "fit")
    disk.fill()
    with pytest.raises(OSError, match=r"No space left on device: .*fit"):
        other.save(disk.path / "fit")
    assert same(ps.load(disk.path / "fit"), small)
    assert sorted(p.name for p in disk.path.iterdir()) == ["ballast", "fit"]


def test_a_file_is_as_readable_as_other_files(small, tmp_path):
    small.save(tmp_path / "fit")
    (tmp_path / "text").write_text("")
    assert (tmp_path / "fit").stat().st_mode == (tmp_path / "text").stat().st_mode


def test_the_file_before_the_last_is_kept(small, with_covariates, tmp_path):
    for seed in (1, 2, 3):
        quick(SCVI(latent=3), MeanField(), with_covariates, epochs=1, seed=seed).save(tmp_path / "fit")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit", "fit.previous"]
    assert ps.load(tmp_path / "fit").record["seed"] == 3
    assert ps.load(tmp_path / "fit.previous").record["seed"] == 2


def test_a_file_that_is_missing_between_two_renames_is_found(small, tmp_path):
    small.save(tmp_path / "fit")
    os.rename(tmp_path / "fit", tmp_path / "fit.previous")
    with pytest.warns(UserWarning, match="the previous file was read"):
        assert same(ps.load(tmp_path / "fit"), small)


KILL = """
    import os, random, signal, sys, time, warnings
    import torch
    from pyroscvi.fitting.checkpoints import read, write

    warnings.simplefilter("ignore")
    path, chance, last = sys.argv[1], random.Random(0), -1

    def put(step):
        write(path, {"w": torch.full((500_000,), float(step))}, {"step": step})

    put(0)
    for _ in range(15):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            step = last + 1
            while True:
                step += 1
                put(step)
                os.write(writer, b".")
        os.read(reader, 1)  # it has begun to write, however busy the machine is
        time.sleep(0.05 * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader), os.close(writer)
        tensors, about = read(path)
        assert (tensors["w"] == about["step"]).all()
        assert about["step"] >= last, (about["step"], last)
        last = about["step"]
    print("survived", last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_nine_at_any_moment_leaves_a_whole_file(tmp_path):
    done = run(KILL, tmp_path / "w")
    assert done.stdout.startswith("survived"), done.stderr
    assert int(done.stdout.split()[1]) > 10
