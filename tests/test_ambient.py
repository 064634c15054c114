"""Ambient counts: their profile, the page, and what it recovers from cells that it simulated."""

from dataclasses import replace
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from command_line import run
from fits import untrained
from pyro import poutine
from test_identities import loss
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.analysis.decontaminated import decontaminated
from pyroscvi.data import Cells
from pyroscvi.data.ambient import ambient
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI, Ambient
from pyroscvi.parts import MLP, NB, PerGene


def test_empty_droplets_give_the_profile_and_the_total():
    x = np.array([[1, 3, 0], [500, 0, 500], [0, 0, 0], [2, 0, 2]], dtype=np.float32)
    droplets = AnnData(x, var=pd.DataFrame(index=["a", "b", "c"]))
    profile, total = ambient(droplets)
    assert profile.to_dict() == {"a": 3 / 8, "b": 3 / 8, "c": 2 / 8}
    assert total == 4
    with pytest.raises(ValueError, match="no droplet has 1 to 3 counts: give all droplets"):
        ambient(droplets, most=3)


def test_without_ambient_counts_the_page_is_scvi_with_nb(cells):
    one, guide = untrained(Ambient(latent=3), MeanField(), cells)
    two, of_scvi = untrained(SCVI(latent=3, likelihood=NB()), MeanField(), cells)
    two.load_state_dict({name: t for name, t in one.state_dict().items() if name not in ("a", "total")})
    zero = poutine.condition(one, data={"c": torch.zeros(len(cells), 1)})
    with torch.no_grad():
        z = of_scvi.posteriors(cells)["z"].mean
        nodes = [poutine.trace(poutine.condition(m, data={"z": z})).get_trace(cells).nodes for m in (zero, two)]
    assert_close(*(each["x"]["fn"].log_prob(cells.x) for each in nodes))
    assert np.isfinite(loss(one, guide, cells))


def test_a_droplet_has_as_many_ambient_counts_as_an_empty_one(cells):
    profile = pd.Series(np.arange(1.0, 13.0), index=reversed(cells.genes))
    page = Ambient(latent=3).known(profile, 5.0, cells)
    assert_close(page.a, torch.arange(12.0, 0, -1) / 78)
    c = poutine.trace(page).get_trace(cells).nodes["c"]["fn"]
    assert_close(c.mean * cells.library, torch.full((60, 1), 5.0))
    assumed = poutine.trace(Ambient(latent=3).sized(cells.dims)).get_trace(cells).nodes["c"]["fn"]
    assert_close(assumed.mean, torch.full((60, 1), 0.05))


def test_unmeasured_genes_are_left_out_after_shares_were_mixed(cells):
    measured = torch.arange(12) % 3 > 0
    few = replace(cells, panels=measured[None], panel=torch.zeros(60, dtype=torch.long), graph=None)
    few = replace(few, counts=few.counts * measured)
    model, _ = untrained(Ambient(latent=3), MeanField(), cells)
    x = poutine.trace(model).get_trace(few).nodes["x"]["fn"]
    assert_close((x.mu * measured).sum(-1, keepdim=True), few.library)


def test_other_pages_cannot_be_decontaminated(cells):
    with pytest.raises(ValueError, match=r"SCVI\(.*has no foreign counts"):
        decontaminated(SimpleNamespace(model=SCVI(latent=2)), cells)


def test_the_page_recovers_ambient_shares_of_cells_that_it_simulated():
    """Two types of cells, which share no gene with each other, and an ambient profile of both and of other genes."""
    torch.manual_seed(0)
    n, g = 300, 30
    shares = torch.zeros(2, g)
    shares[0, :12], shares[1, 12:24] = 1 / 12, 1 / 12
    a = torch.full((g,), 1 / g)
    kind, l = torch.arange(n) % 2, 200 + 600 * torch.rand(n, 1)
    c = torch.distributions.Beta(40 * 60 / l, 40 * (1 - 60 / l)).sample()
    own = torch.poisson(l * (1 - c) * shares[kind])
    cells = Cells(own + torch.poisson(l * c * a), genes=tuple(map(str, range(g))))
    page = Ambient(latent=2, decoder=MLP(widths=(16,)), likelihood=NB(dispersion=PerGene(start=4.0)))
    known = page.known(pd.Series(a.numpy(), cells.genes), 60.0, cells)
    fit = ps.fit(known, MeanField(), cells, epochs=100, batch_size=100, lr=5e-2, progress=False)
    share = fit.latent(cells, site="c").squeeze(-1)
    assert np.corrcoef(share, c.squeeze(-1))[0, 1] > 0.8
    assert np.abs(share - c.squeeze(-1).numpy()).mean() < 0.04
    clean = fit.decontaminated(cells)
    assert np.abs(clean - own.numpy()).sum() < 0.5 * (cells.x - own).sum().item()
    # without empty droplets the level is the one that is assumed, 0.05
    alone = ps.fit(page, MeanField(), cells, epochs=30, batch_size=100, lr=5e-2, progress=False)
    assert alone.latent(cells, site="c").mean() < 0.08 < c.mean()


def test_the_command_line_takes_all_droplets_and_removes_ambient_counts(tmp_path, capsys):
    data, droplets, out = (tmp_path / name for name in ("cells.h5ad", "raw.h5ad", "out.h5ad"))
    cells = ps.data.simulated(cells=40, genes=8, seed=0)
    cells.write_h5ad(data)
    empty = ps.data.simulated(cells=30, genes=8, size=20.0, seed=1)
    empty.write_h5ad(droplets)
    run("fit", data, "--model", "ambient:latent=2", "--known", droplets, "--epochs", 2, "--out", tmp_path / "run")
    fit = ps.load(tmp_path / "run")
    profile, total = ambient(empty)
    np.testing.assert_allclose(fit.model.a, profile, rtol=1e-4)
    assert fit.model.total.item() == pytest.approx(total)
    capsys.readouterr()
    run("decontaminate", tmp_path / "run", data, "--out", out)
    written = anndata.read_h5ad(out)
    own = fit.decontaminated(cells)
    np.testing.assert_allclose(written.layers["decontaminated"], own, rtol=1e-6)
    removed = 1 - own.sum(1) / np.asarray(cells.X.sum(1)).ravel()
    np.testing.assert_allclose(written.obs["pyroscvi_ambient"], removed, rtol=1e-5)
    assert f"{removed.mean():.1%} of the counts of a cell removed on average" in capsys.readouterr().out
