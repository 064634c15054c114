"""Comparison: which of several fits best explains cells that none of them was fitted to.

    comparison = compare({"nb": [nb, nb1, nb2], "zinb": [zinb, zinb1, zinb2]}, held_out, by="batch")
    print(comparison)
    comparison.report("report.html")

Differences are paired: they are taken cell by cell, because cells differ from each other far more than models do. If a
model was fitted with several seeds, its evidence is the mean over the seeds. A standard error has three sources, which
the table keeps apart: random posterior samples (Monte Carlo), the choice of these cells (or clusters of cells, such as
donors, whose cells are alike), and the choice of these seeds (``paired`` has the formula). With one seed it is unknown
what another would give, and no difference is told apart. ``sweep`` makes the fits from declarations, with three seeds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from pyroscvi.comparison.entry import Entry
from pyroscvi.comparison.looks import pieces
from pyroscvi.comparison.nested import nested
from pyroscvi.comparison.paired import LEVEL, Paired, clusters, paired, verdict
from pyroscvi.comparison.question import question, refuse_unequal
from pyroscvi.comparison.result import Behind, Comparison
from pyroscvi.comparison.selection import optimism
from pyroscvi.comparison.stacking import stacking_weights
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.ladder import MAX_DRAWS, Ladder
from pyroscvi.evidence.reader import MEMORY, Compile, as_cells
from pyroscvi.program import Fitted, Pair

Candidate = Fitted | Pair | str | Path  # a fit, or the file or folder of one


def compare(
    fits: Mapping[str, Candidate | list[Candidate]],
    cells: Cells | AnnData | Mapping[str, Cells | AnnData],
    particles: int = MAX_DRAWS,
    seed: int = 0,
    *,
    by: str | None = None,
    budget: float | None = None,
    estimator: Estimator = Ladder(),
    certify: bool = False,
    simulated: int = 64,
    batch_size: int | None = None,
    memory: int | str = MEMORY,
    compile: Compile = "auto",
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Comparison:
    """The held-out evidence of every fit, best first, and which differences can be told apart.

    fits       {name: fit}, or {name: [fits of one declaration with several seeds]}; a fit may be its file or folder. Or
               the result of ``sweep``, which keeps evidences in its folders
    cells      held-out Cells, or an AnnData that every fit reads through its own fields; {name: cells} if fits read
               different columns of the same cells
    by         a categorical field ("batch") whose levels are clusters: standard errors are then over clusters
    budget     seconds: cells are scored until all verdicts are clear, or the seconds are over (``looks`` says how);
               None scores all cells
    certify    simulate cells from every fit and measure the error of its evidence: ``pyroscvi.certify``
    simulated  so many cells, for every seed of a fit
    particles, seed, estimator, batch_size, memory, compile, dtype, progress   as in ``log_evidence``

    The table of the result has one row for each fit and these columns:

    evidence        mean of log p(x_n) over cells and over seeds, in nats
    difference      to the best fit, in nats a cell
    standard_error  of the difference: ``over_clusters`` if there are clusters, else ``over_cells``, and ``seed_sd`` of
                    both fits over the square root of their seeds; combined as a root of a sum of squares
    interval        half the width of the 95% interval of the difference: ``paired``
    over_cells      paired standard error of the difference, as if cells were independent
    over_clusters   paired standard error of the difference, as if clusters were independent; NaN without ``by``
    monte_carlo     Monte Carlo standard error of the difference. ``over_cells`` and ``over_clusters`` include it
    verdict         "best", "told apart", "indistinguishable" (below 4 nats in total, or inside the interval), or
                    "undecided": one of the two has one seed, or has not converged
    seed_sd         standard deviation of the evidence between seeds; NaN with one seed, and then in no standard error
    weight          of the fit in the mixture of all fits that predicts these cells best, in which the seeds of a fit
                    have equal shares: ``stacking_weights``
    estimand        what the evidence is a probability of, such as "p(x | l)"
    heavy_tailed    share of the cells whose k-hat is above 0.7: their evidence is too low by an unknown amount
    active_units    dimensions of z whose posterior mean has a variance above 0.01 over these cells
    information     mutual information of z and the cell, in nats; at most the log of the number of cells, or of 1,000
    components      effective number of components of a mixture, exp H(mean responsibilities); NaN without a mixture
    component_information   mutual information of the component and the cell: 0 if all components are alike
    seeds           number of seeds
    converged       False if one of the seeds still improved when its training ended; None if that is unknown
    kl_weight       at the end of training, the smallest of all seeds; below 1 the fit maximised another bound
    certificate     "exact", "certified (gap 0.01)", "uncertified (gap 3.2)", or "uncertified" without ``certify``; the
                    weakest of all seeds

    With several seeds, ``heavy_tailed``, ``active_units`` to ``component_information`` and ``seconds`` are means.
    Raises ValueError where two evidences are not probabilities of the same thing: other cells, genes, counts, estimand,
    support or base measure. The message says what to change.
    """
    if not fits:
        raise ValueError("compare needs at least one fit: compare({name: fit}, cells)")
    several = {name: _loaded(some) for name, some in getattr(fits, "by_seed", fits).items()}
    given = {name: as_cells(s[0], cells[name] if isinstance(cells, Mapping) else cells) for name, s in several.items()}
    options: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "compile": compile, "dtype": dtype}
    folders = getattr(fits, "folders", {})
    entries = {name: Entry(name, seeds, given[name], folders.get(name, ()), options) for name, seeds in several.items()}
    questions = {
        entry.called(place): question(fit, entry.cells)
        for entry in entries.values()
        for place, fit in enumerate(entry.fits)
    }
    refuse_unequal(questions)

    reference = next(iter(entries.values())).cells
    every_cluster = None if by is None else clusters(reference, by)
    looks, parts = pieces(len(reference), seed, budget)
    how: dict[str, Any] = {"particles": particles, "seed": seed, "estimator": estimator}
    how |= {"certify": certify, "simulated": simulated}
    for part in parts:
        for entry in entries.values():
            entry.score(part.rows, how, progress)
        order = sorted(entries, key=lambda name: -entries[name].scores.evidence)
        scored = [entries[name] for name in order]
        best, rows = scored[0], scored[0].rows
        cluster = None if every_cluster is None else np.unique(every_cluster[rows], return_inverse=True)[1]
        against = [paired(entry.scores, best.scores, cluster, LEVEL / looks) for entry in scored[1:]]
        verdicts = [
            verdict(difference, len(rows)) if _decidable(entry, best) else "undecided"
            for entry, difference in zip(scored[1:], against, strict=True)
        ]
        if part.look and "told apart" in verdicts and "indistinguishable" not in verdicts:
            break

    weights = stacking_weights(np.column_stack([entry.scores.log_mixture for entry in scored]))
    itself = Paired(over_clusters=np.nan if cluster is None else 0.0)
    lines = [
        {
            "evidence": entry.scores.evidence,
            **difference._asdict(),
            "verdict": word,
            "seed_sd": entry.scores.spread,
            "weight": weight,
            "estimand": questions[entry.name].estimand,
            "heavy_tailed": entry.scores.heavy_tailed,
            **entry.usage(seed)._asdict(),
            **entry.record,
            "certificate": entry.scores.certificate,
        }
        for entry, difference, word, weight in zip(
            scored, [itself, *against], ["best", *verdicts], weights, strict=True
        )
    ]
    evidence, errors = ([getattr(entry.scores, what) for entry in scored] for what in ("log_evidence", "error"))
    return Comparison(
        table=pd.DataFrame(lines, index=pd.Index(order, name="fit")),
        by_cell=_by_cell(scored),
        fits={entry.name: entry.summary for entry in scored},
        genes=reference.counts.shape[1],
        particles=particles,
        by=by,
        clusters=None if cluster is None else int(cluster.max()) + 1,
        behind=_behind(entries, cluster),
        optimism=optimism(np.column_stack(evidence), np.array(errors), cluster),
        available=len(reference),
        looks=looks,
    )


def _loaded(fits: Candidate | list[Candidate]) -> list[Any]:
    """The fits of one declaration, read from their files or folders where these are given."""
    from pyroscvi.fitting.checkpoints import load

    every = fits if isinstance(fits, list) else [fits]
    return [load(fit) if isinstance(fit, str | Path) else fit for fit in every]


def _decidable(one: Entry, other: Entry) -> bool:
    """Whether a verdict is possible: both have several seeds, and no fit that is known to be unfinished."""
    return all(entry.record["seeds"] > 1 and entry.record["converged"] is not False for entry in (one, other))


def _behind(entries: Mapping[str, Entry], cluster: np.ndarray | None) -> list[Behind]:
    """The models that are behind a model which they contain, by more than chance."""
    behind = []
    for larger, smaller in nested({name: entry.fits[0] for name, entry in entries.items()}):
        one, other = entries[larger].scores, entries[smaller].scores
        difference = paired(one, other, cluster)
        apart = verdict(difference, len(entries[larger].rows)) == "told apart"
        if min(one.seeds, other.seeds) > 1 and difference.difference < 0 and apart:
            behind.append(Behind(larger, smaller, -difference.difference, difference.standard_error))
    return behind


def _by_cell(scored: list[Entry]) -> pd.DataFrame:
    """What is known of every cell, and what every fit gives it; levels are "?" where they are not known."""
    cells = scored[0].scored_cells
    index = pd.Index([str(cell) for cell in (scored[0].rows if cells.names is None else cells.names)], name="cell")
    known = {"library_size": cells.library.squeeze(-1).cpu().numpy()}
    for field, levels in cells.levels.items():
        if field in cells.categories:
            known[field] = np.array([*levels, "?"])[cells.categories[field].cpu().numpy()]
    parts = {
        "cell": known,
        "log_evidence": {entry.name: entry.scores.log_evidence for entry in scored},
        "monte_carlo_se": {entry.name: entry.scores.monte_carlo_se for entry in scored},
    }
    return pd.concat({heading: pd.DataFrame(columns, index=index) for heading, columns in parts.items()}, axis=1)
