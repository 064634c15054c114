"""Two processes under torchrun do together what one would do. ``two_ranks`` is what each of them runs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from two_ranks import At, fitted, gradients, history_of, places, sixty, tensors

import pyroscvi as ps
from pyroscvi.inference.distributed import Ranks
from pyroscvi.inference.sync_batch_norm import AcrossRanks, across_ranks
from pyroscvi.parts import Mixture

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch was built for one process")


def torchrun(*command):
    """Two processes on this machine, which find each other at a free port."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, env=environment, timeout=300)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def alike(one, two):
    return same(one["tensors"], two["tensors"]) and torch.equal(one["history"], two["history"])


def test_two_ranks_do_together_what_one_process_does(tmp_path):
    done = torchrun(os.path.join(os.path.dirname(__file__), "two_ranks.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "find_unused_parameters" not in done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))

    for (problem, minibatch), (loss, slopes, buffers) in first["gradients"].items():
        whole, of_one, moved = gradients(problem, minibatch, Ranks())
        assert loss.item() == pytest.approx(whole.item(), rel=1e-12), (problem, minibatch)
        assert slopes.keys() == of_one.keys()
        for name, slope in of_one.items():
            assert (slope is None) == (slopes[name] is None), (problem, minibatch, name)
            assert slope is None or torch.allclose(slopes[name], slope, rtol=1e-9, atol=1e-12), (
                problem,
                minibatch,
                name,
            )
        assert all(torch.allclose(buffers[name], moved[name]) for name in moved), (problem, minibatch)

    for name in ("plain", "stopped early", "interrupted", "resumed", "spoilt", "settled"):
        assert alike(first[name], second[name]), f"{name}: ranks ended with different fits"
    assert same(first["plain"]["tensors"], tensors(ps.load(tmp_path / "plain")))
    assert len(first["stopped early"]["history"]) < 40
    if shutil.which("g++"):
        for rank in (first, second):
            assert torch.allclose(rank["recorded"]["history"], rank["eager"]["history"], rtol=1e-5, equal_nan=True)
            assert (rank["recorded"]["warnings"], rank["graphs"]) == ([], 1)
            assert "batch norms read the cells of all processes" in rank["refused"]["warnings"][0]
        assert alike(first["recorded"], second["recorded"])
    assert [rank["interrupted"]["interrupted"] for rank in (first, second)] == [True, True]  # only one had Ctrl-C
    assert [len(rank["interrupted"]["warnings"]) for rank in (first, second)] == [1, 0]
    assert alike(first["resumed"], first["plain"]), "a run that was interrupted and taken up is another run"
    alone = fitted(At(9, 0, None), folder=tmp_path / "left")  # what two began, one may end
    assert alone.record["epochs"] == 6
    assert torch.equal(history_of(alone)[:1], first["left"]["history"])
    mixture = Mixture(3).sized(3)
    mixture.settle(places(54, rank=0)[0])
    for rank in (first, second):  # parameters are handed round at the end, and would hide that they began elsewhere
        (began,) = rank["began"]
        assert all(map(torch.equal, began, (mixture.w, mixture.m, mixture.raw_s))), "ranks settled on different means"
    for rank in (first, second):
        assert "NonFiniteLoss: the loss became nan at epoch 1, minibatch 3" in rank["spoilt"]["error"]
        assert "gene 0 with count nan" in rank["spoilt"]["error"]  # of a cell that only one of them has seen
        assert "rank 1 was given seed 1, and rank 0 0" in rank["other seeds"]["error"]
        assert "leave 2 ranks with less than two cells each: raise batch_size" in rank["too small"]["error"]
        assert rank["alone"]["error"] is None
        assert rank["generator untouched"]
        assert rank["handler"]
    assert not same(first["alone"]["tensors"], second["alone"]["tensors"])
    drawn = [torch.load(tmp_path / f"drawn{rank}.pt") for rank in (0, 1)]
    assert not torch.equal(*drawn), "both ranks draw the same noise"


def test_the_command_line_under_torchrun_leaves_one_run(tmp_path):
    cells = sixty()
    obs = pd.DataFrame({"batch": np.where(cells.batch.numpy() == 0, "a", "b")}, index=[f"c{n}" for n in range(60)])
    ad.AnnData(cells.counts.numpy(), obs=obs).write_h5ad(tmp_path / "data.h5ad")
    asked = ["--batch", "batch", "--epochs", "2", "--device", "cpu", "--batch-size", "16"]
    twice = os.path.join(os.path.dirname(__file__), "two_commands.py")
    done = torchrun(twice, "fit", tmp_path / "data.h5ad", "--out", tmp_path / "run", *asked)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("holds this very run, finished") == 2  # both say so, and none waits for the other
    assert done.stdout.count("Fit(SCVI()") == 1
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "configuration.json", "cells.csv", "checksums.json", "fit.safetensors", "genes.txt", "history.csv",
        "history.png", "latents.h5ad", "run.json",
    }  # fmt: skip
    assert ps.load(tmp_path / "run").record["epochs"] == 2
    assert json.loads((tmp_path / "run" / "configuration.json").read_text())["training"]["batch_size"] == 16


@pytest.mark.parametrize(
    ("cells", "size", "world"), [(60, 13, 2), (61, 15, 4), (1001, 126, 3), (7, 128, 2), (97, 8, 2)]
)
def test_every_minibatch_has_two_cells_for_every_rank(cells, size, world):
    adjusted = Ranks(0, world).size(cells, size)
    assert 0 < adjusted <= size
    assert cells % adjusted == 0 or cells % adjusted >= 2 * world
    assert Ranks().size(cells, size) == size


@pytest.mark.parametrize("graph", [True, False])
def test_shards_make_up_the_minibatches_and_weights_are_their_shares(graph):
    cells = sixty() if graph else replace(sixty(), graph=None)

    def of(rank, world=3):
        return list(cells.minibatches(7, torch.Generator().manual_seed(1), 1, 2, rank, world))

    for minibatch, *shards in zip(of(0, 1), of(0), of(1), of(2), strict=True):
        for rank, shard in enumerate(shards):
            assert torch.equal(shard.index, minibatch.index[rank::3])
            assert torch.equal(shard.x, minibatch.x[rank::3])
            assert shard.total == 60
            assert graph == (shard.graph is not None)
    assert [Ranks(rank, 3).weight(n, 7) for rank, n in enumerate((3, 2, 2))] == [9 / 7, 6 / 7, 6 / 7]
    parts = [Ranks(rank, 3).part(cells.subset(torch.arange(2))) for rank in range(3)]
    assert [None if part is None else len(part) for part in parts] == [1, 1, None]


def test_a_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Ranks(5, 8).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert Ranks(5, 8).device(torch.device("cpu")) == torch.device("cpu")
    assert Ranks().device(torch.device("mps")) == torch.device("mps")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 3 on this machine finds 2 GPUs"):
        Ranks(6, 8).device(torch.device("cuda"))
    with pytest.raises(ValueError, match="not 'mps'"):
        Ranks(1, 2).device(torch.device("mps"))


def test_a_batch_norm_looks_at_all_ranks_and_back(monkeypatch):
    norm = nn.BatchNorm1d(3, 1e-3, 0.1)
    rows = torch.randn(5, 3) * 2 + 1
    expected = nn.BatchNorm1d(3, 1e-3, 0.1)
    across_ranks(module := nn.Sequential(norm), True)
    assert type(norm) is AcrossRanks
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x)  # of one rank
    assert torch.allclose(norm(rows), expected(rows), atol=1e-5)
    assert torch.allclose(norm.running_var, expected.running_var)
    across_ranks(module, False)
    assert type(norm) is nn.BatchNorm1d
