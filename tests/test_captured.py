"""A captured step is the eager step: the same loss, the same gradients, the same fit."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from textbook import negative_binomial_log_pmf, poisson_log_pmf, zero_inflated
from torch import nn

import pyroscvi as ps
from pyroscvi.data import Delaunay
from pyroscvi.data.cells import Cells
from pyroscvi.data.halo import padded
from pyroscvi.distributions import kernel
from pyroscvi.guides import Flow, FullCovariance, LowRank, MeanField, SpatialGNN
from pyroscvi.inference import captured
from pyroscvi.inference.captured import Captured, capture
from pyroscvi.inference.loss import Loss
from pyroscvi.inference.objectives import Classifier, FreeBits
from pyroscvi.models import CVAE, GMVAE, LDVAE, PPCA, SCVI, Annotated, PoissonLognormal, Spillover
from pyroscvi.part import hops_of
from pyroscvi.parts import (
    CAR,
    MLP,
    NB,
    BatchNorm,
    Laplace,
    LatentSize,
    Linear,
    Mixture,
    NormalLoadings,
    NormalWeights,
    PerBatch,
    Poisson,
    RandomDispersion,
    ReadCell,
    VampPrior,
)
from pyroscvi.parts.neighbours import Equivariant, MeanAggregation, ReadNeighbours

compiled = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")

NORMED = ReadCell(norm=BatchNorm(), dropout=0.3)
PROGRAMS = [
    (SCVI(latent=3), MeanField()),
    (SCVI(latent=3, likelihood=NB(dispersion=PerBatch()), decoder=MLP(norm=BatchNorm())), MeanField(encoder=NORMED)),
    (SCVI(latent=3, likelihood=Poisson(), size=LatentSize()), FullCovariance()),
    (SCVI(latent=3, prior=Mixture(components=4)), LowRank()),
    (SCVI(latent=3, prior=VampPrior(components=4)), FullCovariance()),
    (SCVI(latent=3, prior=Laplace()), MeanField()),
    (GMVAE(latent=3), FullCovariance()),
    (LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion())), MeanField()),
    (LDVAE(latent=3, decoder=Linear(loadings=NormalLoadings())), MeanField()),
    (Annotated(latent=3), FullCovariance()),
    (CVAE(latent=3), Flow()),
    (PPCA(latent=3), LowRank()),
    (PoissonLognormal(), MeanField()),
]


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet(monkeypatch):
    monkeypatch.setattr(captured, "GRAPHS", {})


def graph_itself(graph, inputs, **_):
    """In place of Inductor: the graph as it was traced."""
    return graph


def loss_of(model, guide, cells, objectives=(), dtype=torch.float64):
    model = model.sized(cells.dims).to(dtype)
    guide = guide.sized(model, cells).to(dtype)
    trained = nn.ModuleDict({"model": model, "guide": guide}).train()
    return Loss(trained, objectives, len(cells)), list(trained.parameters())


def step(loss, parameters, cells, beta, seed=0):
    torch.manual_seed(seed)
    value = loss(cells, beta)
    return value.detach(), torch.autograd.grad(value, parameters, materialize_grads=True, allow_unused=True)


def agree(one, other, value, gradient):
    torch.testing.assert_close(one[0], other[0], rtol=value, atol=value)
    scale = max(g.abs().max().item() for g in one[1])
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=gradient, atol=gradient * scale)


@pytest.fixture
def alone(cells) -> Cells:
    """Cells without neighbours, in float64."""
    return Cells(cells.counts, cells.categories, levels=cells.levels).to(dtype=torch.float64)


def textbook(x, given):
    """log p(x) by the textbook formulas and autograd."""
    log_mu = given.mean if given.size is None else given.mean.log_softmax(-1) + given.size
    if given.dispersion is None:
        log_p, at_zero = poisson_log_pmf(x, log_mu), poisson_log_pmf(torch.zeros_like(x), log_mu)
    else:
        log_p, at_zero = (
            negative_binomial_log_pmf(count, log_mu, given.dispersion) for count in (x, torch.zeros_like(x))
        )
    return (log_p if given.gate is None else zero_inflated(x, log_p, at_zero, given.gate)).sum(-1)


def test_a_step_of_cells_with_predecessors_is_not_captured(alone):
    """Their places and predecessors would be those of the first minibatch in every step."""
    loss, parameters = loss_of(SCVI(latent=2), MeanField(), alone)
    ordered = replace(alone, before=sparse.csr_matrix(np.tri(len(alone), k=-1)))
    assert not captured.pays(ordered, 10**9, 1)
    with pytest.raises(ValueError, match="predecessors"):
        Captured(loss, parameters, ordered)


@compiled
@pytest.mark.parametrize(("model", "guide"), PROGRAMS, ids=lambda p: repr(p)[:60])
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_eager_captured_and_textbook_agree(model, guide, beta, alone, monkeypatch):
    """On another minibatch than the one that was traced, with another KL weight."""
    monkeypatch.setattr("torch._inductor.compile", graph_itself)
    loss, parameters = loss_of(model, guide, alone)
    first, second = alone.minibatches(30, torch.Generator().manual_seed(0))
    graph = Captured(loss, parameters, first)
    buffers = [b.clone() for b in loss.buffers()]

    def afresh(how):
        for buffer, was in zip(loss.buffers(), buffers, strict=True):
            buffer.copy_(was)
        result = how()
        return result, [b.clone() for b in loss.buffers()]

    def by_graph():
        torch.manual_seed(1)
        return graph(second, beta)

    eager, moved = afresh(lambda: step(loss, parameters, second, beta, seed=1))
    from_graph, moved_too = afresh(by_graph)
    agree(eager, from_graph, 1e-6, 1e-5)
    for a, b in zip(moved, moved_too, strict=True):  # running moments of a batch norm
        torch.testing.assert_close(a, b)
    monkeypatch.setattr(kernel, "log_prob", textbook)
    slow, _ = afresh(lambda: step(loss, parameters, second, beta, seed=1))
    agree(slow, eager, 1e-6, 1e-5)


@compiled
@pytest.mark.parametrize("objective", [Classifier(), FreeBits(2.0)], ids=repr)
def test_objectives_are_in_the_graph(objective, alone, monkeypatch):
    monkeypatch.setattr("torch._inductor.compile", graph_itself)
    loss, parameters = loss_of(Annotated(latent=3), MeanField(), alone, [objective])
    first, second = alone.minibatches(30)
    graph = Captured(loss, parameters, first)
    eager = step(loss, parameters, second, 0.5)
    torch.manual_seed(0)
    agree(eager, graph(second, 0.5), 1e-6, 1e-5)


@compiled
def test_a_compiled_fit_is_the_eager_one(alone):
    """Dropout and draws are those of the eager fit, and the short last minibatch is trained on."""
    model, guide = GMVAE(latent=3, decoder=MLP(norm=BatchNorm())), FullCovariance(encoder=NORMED)
    cells = alone.to(dtype=torch.float32)
    settings = {"epochs": 3, "batch_size": 25, "early_stopping": False, "validation": 0.1, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = ps.fit(model, guide, cells, compile=True, **settings)
    slow = ps.fit(model, guide, cells, **settings)
    columns = ["loss", "elbo_train", "elbo_held_out"]
    assert fast.history[columns].to_numpy() == pytest.approx(slow.history[columns].to_numpy(), rel=1e-4)
    state = slow.model.state_dict()
    for name, tensor in fast.model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-2, atol=1e-3)


@compiled
def test_seeds_of_a_model_share_a_program(alone, monkeypatch):
    """Two seeds are compiled once. A page that differs by a number alone is compiled for itself."""
    graphs = []
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, **_: graphs.append(graph) or graph)
    monkeypatch.setattr(captured, "KEPT", 2)
    for page, programs in [
        (1.0, 1),
        (1.0, 1),
        (2.0, 2),
        (1.0, 2),
        (3.0, 3),
        (1.0, 4),
    ]:  # the first was given up for 3.0
        model = SCVI(latent=2, likelihood=Poisson(), decoder=MLP(weights=NormalWeights(s=page)))
        assert capture(*loss_of(model, MeanField(), alone), alone, 0.5) is not None
        assert len(graphs) == programs
    assert len(captured.GRAPHS) == 2


@compiled
def test_seeds_of_a_fit_are_recorded_once_and_other_data_again(alone, monkeypatch):
    """Fits of the same page differ where something that the page holds does, such as the mean size of cells."""
    times, recorded = [], captured.recorded
    monkeypatch.setattr(captured, "recorded", lambda *given: times.append(1) or recorded(*given))
    more = replace(alone, counts=alone.counts * 2)
    for cells, seed, so_far in [(alone, 0, 1), (alone, 1, 1), (more, 0, 2), (alone, 2, 2)]:
        settings = {"epochs": 2, "batch_size": len(cells), "seed": seed, "progress": False}
        shared = ps.fit(SCVI(latent=2, size=LatentSize()), MeanField(), cells, compile="trace", **settings)
        assert len(times) == so_far
        eager = ps.fit(SCVI(latent=2, size=LatentSize()), MeanField(), cells, compile=False, **settings)
        np.testing.assert_allclose(shared.history["loss"], eager.history["loss"], rtol=1e-6)


@compiled
def test_a_step_that_is_only_recorded_is_the_eager_one(alone, monkeypatch):
    monkeypatch.setattr("torch._inductor.compile", lambda *_, **__: 1 / 0)
    settings = {"epochs": 2, "batch_size": 25, "progress": False}
    traced = ps.fit(SCVI(latent=2, likelihood=NB()), MeanField(), alone, compile="trace", **settings)
    eager = ps.fit(SCVI(latent=2, likelihood=NB()), MeanField(), alone, compile=False, **settings)
    assert traced.history["loss"].to_numpy() == pytest.approx(eager.history["loss"].to_numpy(), rel=1e-6)


@compiled
def test_one_line_says_why_a_step_is_not_compiled(alone, monkeypatch):
    def broken(graph, inputs, **_):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr("torch._inductor.compile", broken)
    settings = {"epochs": 1, "batch_size": 30, "progress": False, "compile": True}
    with pytest.warns(UserWarning, match=r"compile: no compiler; training goes on without compiling$") as caught:
        fit = ps.fit(SCVI(latent=2), MeanField(), alone, **settings)
    assert len(caught) == 1
    assert len(fit.history) == 1


@compiled
@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_a_graph_that_does_something_else_is_not_used(wrong, alone, monkeypatch):
    def altered(graph, inputs, **_):
        def run(*given):
            loss, *gradients = graph(*given)
            return [loss + 0.1, *gradients] if wrong == "loss" else [loss, *gradients[:-1], gradients[-1] + 1.0]

        return run

    monkeypatch.setattr("torch._inductor.compile", altered)
    loss, parameters = loss_of(SCVI(latent=2), MeanField(), alone)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=f"the compiled {wrong} .*eager one"):
        assert capture(loss, parameters, alone, 0.5) is None
    assert torch.equal(torch.get_rng_state(), before)
    assert captured.LOSS <= 1e-5


@compiled
def test_dropout_masks_in_a_compiled_graph_are_random_and_independent(alone):
    """Two masks of the same shape are different, and each is drawn before it is read."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(12, dtype=torch.float64))
            self.drop = nn.Dropout(0.5)

        def forward(self, cells, beta):
            rows = torch.ones(len(cells), 12, dtype=torch.float64) * self.w
            return (self.drop(rows) * self.drop(rows)).sum() * beta

    loss = Twice()
    graph = Captured(loss, list(loss.parameters()), alone)
    eager = step(loss, list(loss.parameters()), alone, 0.5, seed=3)
    torch.manual_seed(3)
    agree(eager, graph(alone, 0.5), 1e-12, 1e-12)


@compiled
def test_a_fit_is_compiled_unasked_only_where_that_pays(cells, alone, monkeypatch):
    asked, settings = [], {"epochs": 2, "progress": False}
    monkeypatch.setattr("pyroscvi.inference.run.capture", lambda *_: asked.append(True))
    ps.fit(SCVI(latent=2), MeanField(), alone, **settings)
    assert not asked
    monkeypatch.setattr(captured, "COUNTS_TO_COMPILE", 2 * alone.x.numel())
    ps.fit(SCVI(latent=2), SpatialGNN(), cells, **settings)  # a step with neighbours cannot be compiled
    ps.fit(SCVI(latent=2), MeanField(), alone, compile=False, **settings)
    ps.fit(SCVI(latent=2), MeanField(), alone, **settings | {"epochs": 1})
    assert not asked
    ps.fit(SCVI(latent=2), MeanField(), alone, **settings)
    assert asked == [True]


@compiled
def test_a_shorter_fit_is_recorded_unasked_and_is_the_same_fit(alone, monkeypatch):
    eager = ps.fit(SCVI(latent=2), MeanField(), alone, epochs=3, batch_size=15, progress=False)
    recorded, capture = [], captured.capture
    monkeypatch.setattr("pyroscvi.inference.run.capture", lambda *a: recorded.append(a[-1]) or capture(*a))
    monkeypatch.setattr(captured, "STEPS_TO_RECORD", 3 * 4)
    short = ps.fit(SCVI(latent=2), MeanField(), alone, epochs=2, batch_size=15, progress=False)
    assert not recorded
    longer = ps.fit(SCVI(latent=2), MeanField(), alone, epochs=3, batch_size=15, progress=False)
    assert recorded == [False]  # without Inductor
    assert len(short.history) == 2
    np.testing.assert_allclose(longer.history["loss"], eager.history["loss"], rtol=1e-4)


@compiled
def test_without_a_request_a_step_that_cannot_be_compiled_gives_no_warning(alone, monkeypatch):
    monkeypatch.setattr(captured, "COUNTS_TO_COMPILE", 1)
    monkeypatch.setattr(captured, "Captured", lambda *_: 1 / 0)
    assert len(ps.fit(SCVI(latent=2), MeanField(), alone, epochs=2, progress=False).history) == 2


TISSUE = [
    (SCVI(latent=3), SpatialGNN(encoder=ReadNeighbours(cell=NORMED, convolution=MeanAggregation(), hops=2))),
    (Spillover(latent=3), MeanField(encoder=ReadNeighbours(convolution=Equivariant()))),
    (SCVI(latent=3, prior=CAR()), SpatialGNN()),
]


def in_tissue(n=60):
    data = ps.data.simulated(cells=n, genes=12, sections=2)
    return ps.Fields(spatial="spatial", section="section", graph=Delaunay()).read(data).to(dtype=torch.float64)


@compiled
@pytest.mark.parametrize(("model", "guide"), TISSUE, ids=lambda p: repr(p)[:60])
def test_a_captured_step_reads_the_neighbours_of_its_own_minibatch(model, guide, monkeypatch):
    monkeypatch.setattr("torch._inductor.compile", graph_itself)
    cells = in_tissue()
    loss, parameters = loss_of(model, guide, cells)
    hops = hops_of(*loss.trained.values())
    generator = torch.Generator().manual_seed(0)
    first, second = same_sizes(padded(m) for _ in range(3) for m in cells.minibatches(15, generator, hops))
    graph = Captured(loss, parameters, first)
    eager = step(loss, parameters, second, 0.5, seed=1)
    other = step(loss, parameters, replace(second, graph=first.graph), 0.5, seed=1)
    torch.manual_seed(1)
    agree(eager, graph(second, 0.5), 1e-6, 1e-5)
    assert abs(other[0] - eager[0]) > 1e-4


def same_sizes(minibatches):
    """The first two minibatches with one size of the halo and one number of edges."""
    met = {}
    for minibatch in minibatches:
        size = minibatch.graph.shape, minibatch.graph.nnz
        if size in met:
            return met[size], minibatch
        met[size] = minibatch
    raise AssertionError("no two minibatches have one size")


@compiled
def test_a_fit_in_tissue_is_the_same_recorded_and_eager(monkeypatch):
    calls, step = [], Captured.__call__
    monkeypatch.setattr(Captured, "__call__", lambda self, *given: calls.append(self) or step(self, *given))
    cells = in_tissue(60)
    fits = [
        ps.fit(SCVI(latent=2), SpatialGNN(), cells, epochs=2, batch_size=30, compile=how, progress=False)
        for how in (False, "trace")
    ]
    np.testing.assert_allclose(*(f.history["loss"] for f in fits), rtol=1e-6)
    assert len(calls) > len(set(calls)) >= 1


@pytest.mark.parametrize("size", [7, 60])
@torch.no_grad()
def test_padding_changes_no_posterior_and_gives_few_sizes(size):
    cells = in_tissue()
    guide = SpatialGNN().sized(SCVI(latent=2).sized(cells.dims).double(), cells).double().eval()
    sizes = set()
    for m in cells.minibatches(size, torch.Generator().manual_seed(0)):
        more = padded(m)
        sizes.add((more.graph.shape, more.graph.nnz))
        assert more.graph.nnz >= m.graph.nnz
        torch.testing.assert_close(guide.posteriors(more)["z"].mean, guide.posteriors(m)["z"].mean)
    assert len(sizes) <= 6
