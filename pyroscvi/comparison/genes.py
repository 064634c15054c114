"""Genes: which genes one model explains better than another.

    genes = compare_genes({"zinb": zinb, "nb": nb}, held_out)
    print(genes)
    genes.table.head(20)                    the genes for which zero inflation helps most

An evidence is the probability of all counts of a cell together, and cannot be divided into shares of genes. For a gene
there are two measures. Both are averages over weighted draws of the posterior of the cell's latents, so that they do
not depend on the guide:

    predicted   log p(x_ng | x_n without g) = -log E[1 / p(x_ng | z)]   how probable a count is, given the other genes
    expected    E[log p(x_ng | z)]                                      how well a z that has seen the count fits it

``predicted`` is the probability of a count that was left out, and decides the verdicts. Its sum over genes is not an
evidence, because genes are predicted from each other over and over. If the size of a cell is its observed total, that
total includes the gene. ``expected`` adds up over genes to E[log p(x | z)] = log p(x) + KL(p(z | x), p(z)): the
evidence, and how far the posterior is from the prior. A model that moves z farther to fit better gains in
``expected`` what its evidence loses.

References
    Geisser, S. & Eddy, W. F. (1979) A predictive approach to model selection. J Am Stat Assoc 74, 153-160.
    Gelfand, A. E., Dey, D. K. & Chang, H. (1992) Model determination using predictive distributions with implementation
    via sampling-based methods. Bayesian Statistics 4, 147-167. (the average of 1 / p over the posterior)
    Benjamini, Y. & Hochberg, Y. (1995) Controlling the false discovery rate. J R Stat Soc B 57, 289-300.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import false_discovery_control, norm

from pyroscvi.comparison.paired import MIN_NATS, clusters, standard_error
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.comparison.result import GeneComparison
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import MEMORY, Compile, Reader, as_cells, pair
from pyroscvi.evidence.resampling import PROPOSALS, pools
from pyroscvi.inference.progress import counted
from pyroscvi.parts.likelihoods import NB, ZINB, ZIP, Likelihood, Poisson
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

TWINS: dict[Any, type[Likelihood]] = {ZINB: NB, ZIP: Poisson}
DISCOVERIES = 0.05  # false discovery rate of the verdicts


class GeneScores(NamedTuple):
    """Both measures of every count, in nats, each [n, g]."""

    predicted: np.ndarray
    expected: np.ndarray


@torch.no_grad()
@alone
def gene_scores(
    fit: Fitted | Pair, cells: Cells | AnnData, particles: int = 1000, seed: int = 0, *, memory: int | str = MEMORY,
    batch_size: int | None = None, compile: Compile = "auto", dtype: torch.dtype | None = None,
    progress: bool | str = True,
) -> GeneScores:  # fmt: skip
    """How well a fit predicts and fits every count; 0 for genes that were not measured in a cell.

    particles   draws for every cell, each with the weight that makes them those of its posterior. A gene is left out by
                another weight, w / p(x_g | z): a proposal is wider than the posterior, and so has draws where z would
                be without the gene; draws of the posterior itself have too few
    memory, batch_size, compile, dtype, progress   as in ``log_evidence``
    """
    reader = Reader(fit, cells, memory=memory, batch_size=batch_size, dtype=dtype, compile=compile)
    predicted, expected = [], []
    label = progress if isinstance(progress, str) else "genes"
    with reader.kernel(), counted(label, len(reader.cells), bool(progress)) as done:
        for target, pool in pools(reader, particles, seed, proposals=PROPOSALS[:1]):
            log_w = pool.log_w.log_softmax(0)
            inverse, mean = [], torch.zeros(())
            for u, w in zip(
                pool.u.split(target.chunk or particles), log_w.split(target.chunk or particles), strict=True
            ):
                log_p, levels = target.joint.by_gene(u)
                weight = (levels + w).unsqueeze(-1)
                inverse.append((weight - log_p).logsumexp((0, 1)))
                mean = mean + (weight.exp() * log_p).sum((0, 1))
            predicted.append(-torch.stack(inverse).logsumexp(0))
            expected.append(mean)
            done(len(mean))
    return GeneScores(torch.cat(predicted).cpu().numpy(), torch.cat(expected).cpu().numpy())


def compare_genes(
    fits: Mapping[str, Fitted | Pair], cells: Cells | AnnData, particles: int = 1000, seed: int = 0, *,
    by: str | None = None, memory: int | str = MEMORY, batch_size: int | None = None, compile: Compile = "auto",
    dtype: torch.dtype | None = None, progress: bool = True,
) -> GeneComparison:  # fmt: skip
    """The first of two fits against the second, gene by gene on held-out cells; the genes that gain most come first.

    fits   two of them, {name: fit}
    cells  as ``compare`` takes them; four numbers for every count are kept in memory
    by     a categorical field whose levels are clusters, over which errors are then

    predicted        log p(x_g | other genes of the cell), the first less the second, in nats over all cells
    predicted_error  its standard error, paired over cells or clusters
    of_zeros         the part of it that is of cells with a count of zero
    expected         E[log p(x_g | z)], in the same way
    expected_error
    zeros            share of the cells with a count of zero
    mean             mean count
    q_value          by Benjamini and Hochberg, of ``predicted`` and its error: there are many genes
    verdict          name of the fit that explains the gene better, or "indistinguishable": q above 0.05, or below 4
                     nats in total

    Raises ValueError where ``compare`` would: other cells, genes, counts or estimand.
    """
    if len(fits) != 2:
        raise ValueError(
            f"genes are compared between two fits, not {len(fits)}: compare_genes({{name: fit, ...}}, cells)"
        )
    first, second = fits
    given = {name: as_cells(fit, cells[name] if isinstance(cells, Mapping) else cells) for name, fit in fits.items()}
    refuse_unequal({name: question(fit, given[name]) for name, fit in fits.items()})
    how: dict[str, Any] = {"memory": memory, "batch_size": batch_size, "compile": compile, "dtype": dtype}
    one, other = (
        gene_scores(fit, given[name], particles, seed, **how, progress=f"genes of {name}" if progress else False)
        for name, fit in fits.items()
    )
    reference = given[first]
    cluster = None if by is None else clusters(reference, by)
    counts = reference.x.cpu().numpy()
    n = len(counts)
    measured = np.ones(counts.shape, bool) if reference.measured is None else reference.measured.cpu().numpy()
    predicted, expected = one.predicted - other.predicted, one.expected - other.expected
    error = n * standard_error(predicted, cluster)
    total = predicted.sum(0)
    q = _q_values(total, error)
    better = np.where(total > 0, first, second).astype(object)
    table = pd.DataFrame(
        {
            "predicted": total,
            "predicted_error": error,
            "of_zeros": np.where(counts == 0, predicted, 0.0).sum(0),
            "expected": expected.sum(0),
            "expected_error": n * standard_error(expected, cluster),
            "zeros": ((counts == 0) & measured).sum(0) / measured.sum(0),
            "mean": counts.sum(0) / measured.sum(0),
            "q_value": q,
            "verdict": np.where((np.abs(total) >= MIN_NATS) & (q <= DISCOVERIES), better, "indistinguishable"),
        },
        index=pd.Index(_genes(reference), name="gene"),
    )
    return GeneComparison(table.sort_values("predicted", ascending=False), first, second, n)


def zero_inflation(fits: Mapping[str, Fitted | Pair]) -> list[tuple[str, str]]:
    """Pairs of fits that differ only by zero inflation: (with it, without it), in the order of ``fits``."""
    plain = {tuple(map(repr, pair(fit))): name for name, fit in fits.items()}
    pairs = []
    for name, fit in fits.items():
        model: Any
        model, guide = pair(fit)
        likelihood = getattr(model, "likelihood", None)
        if type(likelihood) in TWINS:
            stated = {f.name: getattr(likelihood, f.name) for f in fields(likelihood)}  # type: ignore[arg-type]
            twin = replace(model, likelihood=TWINS[type(likelihood)](**stated))
            if (repr(twin), repr(guide)) in plain:
                pairs.append((name, plain[repr(twin), repr(guide)]))
    return pairs


def _q_values(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """q-values of two-sided tests; 1 for a gene whose standard error is zero or unknown."""
    z = np.divide(np.abs(total), error, out=np.zeros_like(total), where=error > 0)
    return false_discovery_control(2 * norm.sf(z))


def _genes(cells: Cells) -> list[str]:
    return [str(gene) for gene in cells.genes or range(cells.counts.shape[1])]
