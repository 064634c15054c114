"""Counts that come from neighbours: the page asks loaders for them, is scVI without them, and finds its own shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import untrained
from pyro import poutine
from test_graph import edges_by_name, tissue
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.graph import nearest, visited
from pyroscvi.fitting.resume import digest
from pyroscvi.guides import MeanField, SpatialGNN
from pyroscvi.models import SCVI, Ambient, Spillover
from pyroscvi.part import hops_of
from pyroscvi.parts import NB, Linear, Poisson
from pyroscvi.sites import sampled


class Seen(SCVI):
    """A page that asks for neighbours, and notes those that it was given."""

    hops = 1
    given = "neighbours"

    def model(self, cells):
        names = cells.with_halo.names[: len(cells)]
        notes.append({(s, t) for s, t, _ in edges_by_name(cells) if t in set(names)} >= of(names))
        super().model(cells)


notes: list[bool] = []


def trace(program, cells):
    return poutine.trace(poutine.uncondition(program)).get_trace(cells).nodes


def of(names):
    """The edges of these cells in the whole tissue."""
    return {(s, t) for s, t, _ in edges_by_name(tissue()) if t in set(names)}


@pytest.mark.parametrize("guide", [MeanField(), SpatialGNN()])
def test_a_page_that_asks_for_neighbours_is_given_all_of_them_everywhere(guide):
    notes.clear()
    cells = tissue()
    fit = ps.fit(Seen(latent=2, likelihood=NB()), guide, cells, epochs=2, batch_size=20, validation=0.0, progress=False)
    assert fit.hops == hops_of(fit.model) + hops_of(fit.guide) == 1 + (not isinstance(guide, MeanField))
    assert fit.model.estimand == "p(x | l, neighbours)"
    ps.log_evidence(fit, cells, particles=5)
    ps.certify(fit, cells, simulated=4, particles=5)
    fit.denoise(cells)
    fit.calibrate(cells, simulations=4, draws=3, corrected=False)
    assert all(notes)
    assert len(notes) > 20
    with pytest.raises(ValueError, match=r"neighbours up to 0 hops away, but Seen\(.* reads 1 hops"):
        fit.model(cells.take([0, 1], hops=0))


def test_neighbours_are_part_of_the_identity_of_cells():
    cells = tissue()
    taken = cells.take([0, 1], hops=1)
    other = replace(taken, halo=replace(taken.halo, counts=taken.halo.counts + 1))
    assert digest(taken) != digest(other)
    assert digest(cells) != digest(replace(cells, graph=nearest(np.arange(100.0).reshape(50, 2), 2)))


def test_without_foreign_shares_it_is_scvi(cells):
    fits = [
        ps.fit(page, MeanField(), cells, epochs=2, progress=False)
        for page in (Spillover(latent=3, neighbours=0, background=0), SCVI(latent=3, likelihood=NB()))
    ]
    assert fits[0].history["loss"].tolist() == fits[1].history["loss"].tolist()
    one, _ = untrained(Spillover(latent=3), MeanField(), cells)
    two = SCVI(latent=3, likelihood=NB()).sized(cells.dims).eval()
    two.load_state_dict({name: t for name, t in one.state_dict().items() if name not in ("m", "b")})
    z = torch.randn(len(cells), 3)
    c = torch.full((len(cells), 2), -torch.inf)  # also where the shares have been learned, and are 0
    values = [poutine.trace(poutine.condition(m, data={"z": z, "c": c})).get_trace(cells) for m in (one, two)]
    assert_close(*(each.nodes["x"]["fn"].log_prob(cells.x) for each in values))


def test_cells_without_neighbours_keep_the_share_of_neighbours(cells):
    page = Spillover(latent=3, neighbours=0.3, background=0.2).sized(cells.dims)
    alone = replace(cells, graph=None)
    own, foreign = page.sources(torch.zeros(60, 12), page.m, alone)
    assert_close(own + foreign, page.b * 0.2 + torch.full((60, 12), 0.8 / 12))


def test_background_alone_mixes_as_ambient_counts_do(cells):
    rho, share = torch.randn(60, 12), torch.full((60, 1), 0.2)
    page, ambient = (p.sized(cells.dims) for p in (Spillover(neighbours=0, background=0.2), Ambient()))
    for one, other in zip(page.sources(rho, page.m, cells), ambient.sources(rho, share), strict=True):
        assert_close(one.expand_as(rho), other.expand_as(rho))


def test_the_profile_of_neighbours_is_that_of_their_pooled_counts(cells):
    graph = cells.graph.toarray() != 0
    pooled = graph @ cells.x.numpy()
    assert_close(cells.neighbour_profile.numpy(), (pooled / pooled.sum(1, keepdims=True)).astype(np.float32))
    for m in cells.minibatches(7, torch.Generator().manual_seed(0)):
        assert_close(m.neighbour_profile, cells.neighbour_profile[m.index])


def test_shares_that_leave_nothing_to_the_cell_are_refused(cells):
    with pytest.raises(ValueError, match=r"shares of 0\.7 and 0\.3 leave no counts to the cell itself"):
        Spillover(neighbours=0.7, background=0.3).sized(cells.dims)


@pytest.mark.parametrize("neighbours", [0.3, 1e-3])
def test_shares_are_recovered_from_cells_that_the_page_simulated(neighbours):
    """The mean share a little too low: the decoder explains the part of y that all cells have in common."""
    data = ps.data.simulated(cells=200, genes=30, types=3, sections=1, purity=0.0, difference=1.5, seed=3)
    cells = ps.Fields(spatial="spatial").read(data)
    page = Spillover(latent=2, neighbours=neighbours, background=0, decoder=Linear(), likelihood=Poisson())
    truth = page.sized(cells.dims).eval()
    with torch.no_grad():
        truth.decoder.heads["rho"].weight.copy_(torch.randn(30, 2))
        drawn = {name: node["value"] for name, node in sampled(trace(truth, cells)).items()}
        own, foreign = truth.sources(truth.decoder(drawn["z"], truth.condition(cells))["rho"], drawn["c"], cells)
    graph, halo = visited(cells.graph, len(cells)), replace(cells, graph=None)  # neighbours are the cells it was given
    made = replace(cells, counts=drawn["x"], graph=graph, halo=halo)
    start = Spillover(latent=2, neighbours=0.1, background=0, decoder=Linear(), likelihood=Poisson())
    fit = ps.fit(start, MeanField(), made, epochs=40, batch_size=50, lr=3e-2, progress=False)
    share, true = torch.from_numpy(fit.latent(made, site="c")).sigmoid().mean(), drawn["c"].sigmoid().mean()
    assert abs(share - true) < 0.08
    if neighbours > 0.1:
        expected = (drawn["x"] * own / (own + foreign)).numpy()
        assert np.abs(fit.decontaminated(made) - expected).sum() < 0.5 * np.abs(made.x.numpy() - expected).sum()


def test_unmeasured_genes_are_left_out_after_shares_were_mixed():
    cells = tissue(60)
    genes = cells.counts.shape[1]
    measured = torch.arange(genes) % 3 > 0
    few = replace(cells, panels=measured[None], panel=torch.zeros(len(cells), dtype=torch.long))
    few = replace(few, counts=few.counts * measured)
    model, _ = untrained(Spillover(latent=3), MeanField(), cells)
    x = poutine.trace(model).get_trace(few).nodes["x"]["fn"]
    assert_close((x.mu * measured).sum(-1, keepdim=True), few.library)
