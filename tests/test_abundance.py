"""Abundance: types whose share changes between groups of donors, at the stated error rate."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run
from fits import quick

from pyroscvi.analysis.abundance import CHANGES, _compared, _likelihood
from pyroscvi.cli import main
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI


def donors_of(rng, shift, departures):
    """Counts of types in each donor [d, k]: a multinomial whose logits depart from those of the condition."""
    p = np.exp(shift + departures)
    return np.stack([rng.multinomial(rng.integers(100, 600), row / row.sum()) for row in p]).astype(float)


def of_simulated(rng, effects, donors=4, sd=0.4, paired=False):
    """The table of two groups of simulated donors, and the true log2 odds ratios in its order."""
    base, own = rng.normal(size=len(effects)), rng.normal(0, sd, (2 * donors, len(effects)))
    if paired:
        own = own[:donors].repeat(2, 0).reshape(donors, 2, -1).swapaxes(0, 1).reshape(2 * donors, -1)
        own = own + rng.normal(0, sd / 10, own.shape)
    group, other = donors_of(rng, base + effects, own[:donors]), donors_of(rng, base, own[donors:])
    absent = np.zeros_like(group)
    counts = [group, other] if paired else [np.r_[group, absent], np.r_[absent, other]]
    totals = [n.sum(1, keepdims=True) for n in counts]
    names = list(map(str, range(len(effects))))
    table = _compared({"group": "a", "reference": "b"}, names, counts, totals, 0.25, 0.05, 0.9)
    shares = [np.exp(logit) / np.exp(logit).sum() for logit in (base + effects, base)]
    truth = np.log2(np.divide(*(share / (1 - share) for share in shares)))
    return table, truth[table["type"].astype(int)]


def test_no_type_is_called_where_nothing_changes_and_large_changes_are_found_at_the_stated_rate():
    rng = np.random.default_rng(0)
    assert sum(of_simulated(rng, np.zeros(8))[0]["changed"].sum() for _ in range(10)) <= 1
    effects = np.r_[1.5, -1.5, np.zeros(6)]
    called = false = covered = 0
    for _ in range(10):
        table, truth = of_simulated(rng, effects, sd=0.3)
        called += table["changed"].sum()
        false += (table["changed"] & (np.abs(truth) <= 0.25)).sum()
        covered += ((table["low"] <= truth) & (truth <= table["high"])).mean() / 10
    assert called >= 8
    assert false <= 0.1 * called
    assert covered > 0.75


def test_donors_in_both_groups_are_compared_with_themselves():
    """Donors differ by a factor of ten, and the change within each is the same: pairs see it, and groups do not."""
    rng = np.random.default_rng(2)
    table, _ = of_simulated(rng, np.r_[1.5, np.zeros(5)], sd=1.5, paired=True, donors=6)
    assert table.iloc[0][["type", "changed", "donors"]].tolist() == ["0", True, 6]
    apart, _ = of_simulated(rng, np.r_[1.5, np.zeros(5)], sd=1.5, donors=6)
    assert not apart["changed"].any()


def test_the_likelihood_of_a_change_agrees_with_the_normal_one_where_there_are_many_cells():
    """With many cells a donor's logit is known, so b given s is normal: a mean of two minus a mean of two."""
    logits = np.array([[-1.0], [-0.6]]), np.array([[-2.0], [-1.8]])
    total = np.full((4, 1), 1e6)
    total[2:] = 0
    n = [np.r_[total[:2] / (1 + np.exp(-x)), np.zeros((2, 1))] for x in logits]
    likelihood, rows = _likelihood([n[0], n[1][::-1]], [total, total[::-1]], "a against b")
    assert [list(row) for row in rows] == [[True, True, False, False], [False, False, True, True]]
    p = likelihood[0, 6] / likelihood[0, 6].sum()  # s is 0.8
    mean = p @ CHANGES
    assert mean == pytest.approx(-0.8 + 1.9, abs=0.01)
    assert np.sqrt(p @ (CHANGES - mean) ** 2) == pytest.approx(0.8, rel=0.02)


def test_a_type_that_is_taken_as_constant_and_wrong_input(fitted, cells):
    obs = {"groupby": cells.obs["condition"], "donor": cells.obs["donor"], "types": cells.obs["type"]}
    table = fitted.abundance(cells.counts, **obs, reference="ctrl")
    assert set(table["type"]) == {"A", "B", "C"}
    assert table["share_group"].sum() == pytest.approx(1)
    against = fitted.abundance(cells.counts, **obs, reference="ctrl", against="C")
    assert set(against["type"]) == {"A", "B"}
    with pytest.raises(ValueError, match="there is no type 'D' to compare with"):
        fitted.abundance(cells.counts, **obs, reference="ctrl", against="D")
    with pytest.raises(ValueError, match="nothing shows how much donors vary"):
        fitted.abundance(cells.counts, **{**obs, "donor": cells.obs["condition"]}, reference="ctrl")
    with pytest.raises(ValueError, match="has no types of cells"):
        fitted.abundance(cells.counts, cells.obs["condition"], donor=cells.obs["donor"])


class Simulated:
    """60 cells of six donors, and their obs."""

    def __init__(self):
        rng = np.random.default_rng(0)
        donor = np.arange(60) % 6
        self.obs = pd.DataFrame({"donor": donor.astype(str), "condition": np.where(donor < 3, "ctrl", "stim")})
        self.obs["type"] = rng.choice(list("ABC"), 60)
        self.counts = Cells(torch.poisson(torch.full((60, 8), 3.0)))


@pytest.fixture(scope="module")
def cells():
    return Simulated()


@pytest.fixture(scope="module")
def fitted(cells):
    return quick(SCVI(latent=1), MeanField(), cells.counts, epochs=1, batch_size=60)


def test_the_command_prints_types_and_draws_their_intervals(nb, data, tmp_path, capsys):
    adata = ad.read_h5ad(data)
    donor = np.arange(adata.n_obs) % 6
    adata.obs["donor"], adata.obs["condition"] = donor.astype(str), np.where(donor < 3, "ctrl", "stim")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    groups = ("--groups", "condition", "--reference", "ctrl", "--donor", "donor", "--types", "cell_type")
    picture, out = tmp_path / "abundance.png", tmp_path / "abundance.csv"
    run("abundance", nb, tmp_path / "cells.h5ad", *groups, "--picture", picture, "--out", out)
    said = capsys.readouterr().out
    assert "type1" in said
    assert f"{picture}: the picture" in said
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert len(pd.read_csv(out)) == 3
    run("abundance", nb, tmp_path / "cells.h5ad", *groups, "--json", "--quiet")
    assert {row["reference"] for row in json.loads(capsys.readouterr().out)} == {"ctrl"}
    assert main(["abundance", str(nb), str(data), *groups]) == 1
    assert "no column of obs 'condition'" in capsys.readouterr().err
