"""States of genes on a tree: belief propagation against sums over all states, and the tree of Chow and Liu."""

from dataclasses import replace
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fits import quick, untrained
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.analysis.representation import representation
from pyroscvi.data.cells import Cells
from pyroscvi.distributions import LatentTree, Log1pNormal, Poisson
from pyroscvi.guides import MeanField
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.models import LatentTree as Tree
from pyroscvi.models import Mixture
from pyroscvi.parts import NB, Exponential, LatentSize
from pyroscvi.parts import Poisson as PoissonPart
from pyroscvi.parts.trees import chow_liu, mutual_information

PARENT = torch.tensor([1, -1, 1, 2, 2])  # 1 is the root, with children 0 and 2; 2 has children 3 and 4


@pytest.fixture
def tree():
    log_T = torch.randn(5, 3, 3).double().log_softmax(-1)
    return LatentTree(PARENT, log_T, Poisson(torch.randn(3, 4, 5).double()))


@pytest.fixture
def x():
    return torch.poisson(torch.full((4, 5), 2.0)).double()


def all_states(tree, x):
    """Every state of five genes, and log p(s, x) of it for every cell."""
    pmf = tree.counts.log_pmf(x)  # [level, n, g]
    for s in product(range(3), repeat=5):
        prior = sum(tree.log_T[g, s[p] if p >= 0 else 0, s[g]] for g, p in enumerate(PARENT.tolist()))
        yield s, prior + sum(pmf[s[g], :, g] for g in range(5))


def test_belief_propagation_is_the_sum_over_all_states(tree, x):
    assert_close(tree.log_prob(x), torch.stack([log_p for _, log_p in all_states(tree, x)]).logsumexp(0))


def test_belief_propagation_is_what_the_enumeration_of_pyro_does(tree, x):
    def program():
        with pyro.plate("cells", 4):
            states = {}
            for g in (1, 0, 2, 3, 4):
                row = tree.log_T[g, states[int(PARENT[g])] if PARENT[g] >= 0 else torch.tensor(0)]
                states[g] = pyro.sample(f"s{g}", dist.Categorical(logits=row), infer={"enumerate": "parallel"})
                rate = tree.counts.mu[states[g], torch.arange(4), g]
                pyro.sample(f"x{g}", dist.Poisson(rate), obs=x[:, g])

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda: None)
    assert -loss == pytest.approx(tree.log_prob(x).sum().item(), rel=1e-9)


def test_posteriors_of_states_and_their_mean_counts_are_bayes_rule(tree, x):
    posterior = torch.zeros(4, 5, 3).double()
    for s, log_p in all_states(tree, x):
        for g in range(5):
            posterior[:, g, s[g]] += (log_p - tree.log_prob(x)).exp()
    after = tree.after(x)
    assert_close(after.probabilities(), posterior)
    assert_close(after.mean, (posterior * tree.counts.mean.movedim(0, -1)).sum(-1))


def test_samples_have_the_mean_and_the_variance_of_the_tree(tree):
    drawn = tree.sample((40_000,))
    assert drawn.shape == (40_000, 4, 5)
    assert_close(drawn.mean(0), tree.mean, rtol=0.1, atol=0.05)
    assert_close(drawn.var(0), tree.variance, rtol=0.2, atol=0.1)
    assert tree.expand((2, 4)).sample().shape == (2, 4, 5)
    assert tree.expand((2, 4)).log_prob(drawn[0]).shape == (2, 4)


def test_genes_that_were_not_measured_are_left_out(tree, x):
    measured = torch.tensor([True, True, False, True, False])
    i, j = (
        n.flatten().double().reshape(-1, 1, 1).expand(-1, 4, 1)
        for n in torch.meshgrid(*[torch.arange(25)] * 2, indexing="ij")
    )
    every = torch.cat([x[:, :2].expand(625, 4, 2), i, x[:, 3:4].expand(625, 4, 1), j], -1)
    assert_close(tree.among(measured).log_prob(x), tree.log_prob(every).logsumexp(0), rtol=1e-3, atol=0)


def test_a_density_stays_a_density(x):
    tree = LatentTree(PARENT, torch.zeros(5, 2, 2).log_softmax(-1), Log1pNormal(torch.ones(2, 4, 5), torch.zeros(5)))
    assert tree.base_measure == "log1p"
    assert tree.log_prob(x.float()).shape == (4,)
    assert (tree.sample_as_scored((200,)) < 0).any()


def test_mutual_information_by_hand_and_the_best_of_all_trees():
    generator = torch.Generator().manual_seed(0)
    high = torch.rand(400, 4, generator=generator) < 0.5
    high[:, 1] = high[:, 0] ^ (torch.rand(400, generator=generator) < 0.1)
    high[:, 3] = high[:, 1] ^ (torch.rand(400, generator=generator) < 0.2)
    information = mutual_information(high)
    table = torch.tensor(
        [[((high[:, 0] == i) & (high[:, 1] == j)).sum() + 0.5 for j in (0, 1)] for i in (0, 1)]
    ).double()
    p = table / table.sum()
    by_hand = (p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum()
    assert_close(information[0, 1], by_hand)

    def total(parent):
        return sum(information[g, p] for g, p in enumerate(parent) if p >= 0)

    def is_tree(parent):
        return sum(p < 0 for p in parent) == 1 and all(_root(parent, g) is not None for g in range(4))

    best = max(total(parent) for parent in product(range(-1, 4), repeat=4) if is_tree(parent))
    tree = chow_liu(high).tolist()
    assert is_tree(tree)
    assert total(tree) == pytest.approx(float(best))


def _root(parent, g):
    for _ in range(5):
        if parent[g] < 0:
            return g
        g = parent[g]
    return None


def test_one_level_is_one_kind(cells):
    """Without states genes are independent given l, as they are within the one kind of a mixture."""
    link = PoissonPart(link=Exponential())
    one, guide = untrained(Tree(levels=1, likelihood=link), MeanField(), cells)
    two = Mixture(kinds=1, likelihood=link).sized(cells.dims).eval()
    shared = {k: v for k, v in one.state_dict().items() if k.startswith("decoder")}
    two.load_state_dict(two.state_dict() | shared)
    assert_close(negative_elbo(one, guide, cells), negative_elbo(two, guide, cells))


def test_a_fit_has_an_exact_evidence_a_tree_and_states(cells, tmp_path):
    fit = quick(Tree(levels=2), MeanField(), replace(cells, graph=None))
    fit.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert (fit.model.parent >= 0).sum() == 11
    assert torch.equal(again.model.parent, fit.model.parent)
    np.testing.assert_array_equal(again.log_evidence(cells), fit.log_evidence(cells))
    assert ps.certify(fit, cells).words == "exact"
    states = fit.model.states(cells)
    assert_close(states.sum(-1), torch.ones(60, 12))
    assert representation(fit, cells).shape == (60, 12)


def test_denoised_and_generated_counts_of_a_cell_follow_its_states(cells):
    fit = quick(Tree(levels=2, likelihood=PoissonPart(link=Exponential())), MeanField(), cells)
    node = poutine.trace(fit.model).get_trace(cells).nodes["x"]
    expected = node["fn"].after(cells.x).mean.detach().numpy()
    np.testing.assert_allclose(fit.denoise(cells), expected, rtol=1e-4)
    drawn = fit.generate(cells, samples=100).mean(0)
    assert np.corrcoef(drawn.ravel(), expected.ravel())[0, 1] > 0.97


def test_a_latent_size_and_levels_are_different_axes(cells):
    cells = cells.subset(torch.arange(5))
    pair = untrained(Tree(levels=2, size=LatentSize(), likelihood=NB(link=Exponential())), MeanField(), cells)
    assert np.isfinite(ps.log_evidence(pair, cells, 10)).all()


def test_genes_of_a_tree_are_not_compared_one_by_one(cells):
    fits = {"two": quick(Tree(levels=2), MeanField(), cells), "one": quick(Tree(levels=1), MeanField(), cells)}
    with pytest.raises(ValueError, match="not independent"):
        ps.compare_genes(fits, cells)


def test_a_tree_recovers_the_states_of_cells_that_it_simulated():
    blank = Cells(torch.full((300, 8), 5.0))
    truth = Tree(levels=2, likelihood=PoissonPart(link=Exponential())).sized(blank.dims)
    with torch.no_grad():
        truth.parent.copy_(torch.tensor([-1, 0, 1, 2, 3, 4, 5, 6]))
        truth.T.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]).expand(8, 2, 2))
        truth.T[0] = 0
        truth.decoder.heads["rho"].weight.copy_(torch.tensor([-2.0, 1.0]).expand(8, 2))
        x = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes["x"]["value"]
    cells = Cells(x, size_factor=blank.library.squeeze(-1))
    vars(cells)["library"] = blank.library
    fit = ps.fit(
        Tree(levels=2, likelihood=truth.likelihood), MeanField(), cells, epochs=30, batch_size=100, progress=False
    )
    edges = {frozenset((g, int(p))) for g, p in enumerate(fit.model.parent) if p >= 0}
    assert len(edges & {frozenset((g, g + 1)) for g in range(7)}) >= 5
