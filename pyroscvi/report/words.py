"""A comparison in words: the answer, the question, and how reliable the answer is.

The table on a terminal, the table in a notebook and the page of HTML all take their sentences from here.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pyroscvi.advice import either
from pyroscvi.evidence.importance import MAX_K_HAT

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Behind, Comparison, GeneComparison

MAX_NAMES = 4  # in a sentence
MIN_GROUPS = 10  # of fewer clusters a standard error is itself inaccurate


def answer(comparison: "Comparison") -> list[str]:
    """Which fit is the best, by how much, and which fits are indistinguishable from it."""
    table, cells = comparison.table, len(comparison.by_cell)
    best, evidence = table.index[0], minus(table["evidence"].iloc[0], 2)
    if len(table) == 1:
        return [f"{best} has a log evidence of {evidence} nats a cell. It is the only fit."]
    alike, apart, undecided = (
        table[table["verdict"] == verdict] for verdict in ("indistinguishable", "told apart", "undecided")
    )
    sentences = [f"{marked(best, table.iloc[0])} explains the held-out cells best, with {evidence} nats a cell."]
    if len(apart) == len(table) - 1:
        sentences.append("It is told apart from every other fit.")
    if not alike.empty:
        names = _shortened(f"{name} ({_difference(row)})" for name, row in alike.iterrows())
        sentences.append(f"On these cells it is indistinguishable from {names}.")
    if not undecided.empty:
        names = _shortened(f"{marked(name, row)} ({_difference(row)})" for name, row in undecided.iterrows())
        sentences.append(f"Whether it is better than {names} is undecided. {' '.join(_reasons(comparison))}")
    if not apart.empty:
        name, row = apart.index[0], apart.iloc[0]
        ratio = abs(row["difference"]) / row["standard_error"] if row["standard_error"] > 0 else float("inf")
        errors = f"{ratio:.1f} standard errors" if ratio < 100 else "more than a hundred standard errors"
        sentences.append(
            f"The best of the fits that are told apart from it is {name}: {_difference(row)} nats a cell lower, which "
            f"is {abs(row['difference']) * cells:,.0f} nats over the {cells:,} cells and {errors}."
        )
    if len(apart) > 1:
        sentences.append(f"Also told apart: {_shortened(apart.index[1:])}.")
    return sentences


def asked(comparison: "Comparison", held_out: str | None = None) -> list[str]:
    """What the numbers are probabilities of."""
    estimand = comparison.table["estimand"].iloc[0]
    how = f" ({held_out})" if held_out else ""
    sentences = [
        f"The numbers are log {estimand}: how probable the counts of all {comparison.genes:,} genes of a cell are "
        "together under each fitted model, with the latents of the cell integrated out. They are averages over the "
        f"same {len(comparison.by_cell):,} cells for every fit, held out of all of them{how}{_averaged(comparison)}. "
        "A difference of d nats a cell means that the better model makes a typical cell exp(d) times as probable."
    ]
    return sentences + _conditional(estimand)


def trusted(comparison: "Comparison") -> list[str]:
    """How far off the numbers may be, and what they do not allow to say."""
    table, by, clusters = comparison.table, comparison.by, comparison.clusters
    sentences = [*_reasons(comparison), *map(_behind, comparison.behind), *_budget(comparison)]
    sentences.append(_certified(table["certificate"]))
    if (monte_carlo := table["monte_carlo"].max()) > 0:
        sentences.append(
            f"The Monte Carlo error of a difference is at most {monte_carlo:.2g} nats a cell, with at most "
            f"{comparison.particles:,} posterior samples a cell."
        )
    if by is None or clusters is None:
        sentences.append("Standard errors are over cells, paired, as if cells were independent of each other.")
    else:
        few = " With so few clusters the standard errors are inaccurate." if clusters < MIN_GROUPS else ""
        sentences.append(f"Standard errors are over {clusters} clusters of cells ({by}), paired.{few}")
    if (table["seeds"] > 1).any():
        sentences.append(_seeds(comparison))
    if len(table) > 2 and comparison.optimism > 0:
        sentences.append(_selected(comparison))
    if (heavy := table["heavy_tailed"].max()) > 0:
        sentences.append(
            f"For {heavy:.0%} of the cells of {table['heavy_tailed'].idxmax()} the importance weights have a heavy "
            f"tail (k-hat above {MAX_K_HAT}), and their evidence is too low by an unknown amount. More particles, or "
            "the default estimator, come closer."
        )
    if (early := table.index[table["kl_weight"] < 1]).size:
        sentences.append(
            f"The KL weight of {_shortened(early)} ended below 1: the fit maximised another bound than the ELBO."
        )
    return sentences


def doubts(comparison: "Comparison") -> list[str]:
    """What to know beside the table: ``trusted``, and what the numbers are conditional on."""
    return _conditional(comparison.table["estimand"].iloc[0]) + trusted(comparison)


def genes_answer(genes: "GeneComparison") -> str:
    """How many genes each of two fits predicts better."""
    better = genes.table["verdict"].value_counts()
    return (
        f"Of {len(genes.table):,} genes, {better.get(genes.first, 0):,} are predicted better by {genes.first} and "
        f"{better.get(genes.second, 0):,} by {genes.second}; the others are indistinguishable, at a false discovery "
        "rate of 5%. The number of a gene is how much more probable its counts are, given the other genes of the cell; "
        "these numbers do not add up to an evidence."
    )


def _conditional(estimand: str) -> list[str]:
    if "| l" not in estimand:
        return []
    return [
        "The numbers are conditional on the observed total of the cell. Its counts add up to that total, and so the "
        "numbers are not probabilities of counts: this favours likelihoods with little dispersion. A latent size "
        "(LatentSize), or a size factor that was not computed from these counts, avoids it."
    ]


def _certified(certificates: pd.Series) -> str:
    """One sentence about all certificates."""
    text = certificates.astype(str)
    uncertified = text.str.startswith("uncertified")
    if (text == "exact").all():
        return "All evidences are exact."
    if not uncertified.any():
        return (
            "All evidences are certified: on cells simulated from each fit an upper and a lower bound of the evidence "
            "are at most a tenth of a nat apart."
        )
    if (text == "uncertified").any():
        return "Evidences are uncertified: their error was not measured on simulated cells."
    return (
        f"The evidence of {_shortened(certificates.index[uncertified])} is uncertified: on cells simulated from the "
        "fit, an upper and a lower bound of the evidence are more than a tenth of a nat apart."
    )


def _reasons(comparison: "Comparison") -> list[str]:
    """Why verdicts are undecided: one seed, or training that ended too early."""
    table, sentences = comparison.table, []
    if (once := table.index[table["seeds"] == 1]).size and len(table) > 1:
        names = "Every model" if len(once) == len(table) else _shortened(once)
        sentences.append(
            f"{names} was fitted with one seed, and one seed cannot tell models apart: how much the evidence of a fit "
            f"with another seed differs is unknown. Fit several: {either('sweep(..., seeds=3)', '--seeds 3')}."
        )
    if early := [name for name, row in table.iterrows() if has_not_converged(row)]:
        sentences.append(
            f"Not converged: {_shortened(early)}. The fit still improved when its training ended, so verdicts about "
            f"it are undecided. Train it for more epochs: {either('epochs=', '--epochs')}."
        )
    return sentences


def _behind(behind: "Behind") -> str:
    larger, smaller, by, error = behind
    return (
        f"{larger} contains {smaller} and is behind it, by {by:.2f} ± {error:.2f}: it was not trained to its optimum, "
        "or its additional parameters overfit."
    )


def _budget(comparison: "Comparison") -> list[str]:
    """How many cells were scored, and what they leave open, where there was a budget."""
    table, scored = comparison.table, len(comparison.by_cell)
    if comparison.available is None or comparison.available == scored:
        return []
    text = f"{scored:,} of {comparison.available:,} held-out cells were scored"
    if (open_ := table.index[table["verdict"] == "indistinguishable"]).size:
        return [f"{text} before the time was over. Not settled: {_shortened(open_)}."]
    clear = (table["verdict"] != "undecided").all()
    return [f"{text}: they were enough for clear verdicts." if clear else f"{text}."]


def _selected(comparison: "Comparison") -> str:
    """What the choice of the best of several fits costs."""
    evidence, by = comparison.table["evidence"], comparison.optimism
    lead = evidence.iloc[0] - evidence.median()
    least = "at least " if (comparison.table["seeds"] == 1).any() else ""
    chance = "" if lead > by else f" It is {lead:.2g} ahead of the middle one of them, which may be chance."
    return (
        f"The best of {len(evidence)} fits looks better than it is, because it is the best: by {least}{by:.2g} nats a "
        f"cell if all were equally good (expected maximum).{chance}"
    )


def _averaged(comparison: "Comparison") -> str:
    """Whether an average is over seeds too."""
    seeds = comparison.table["seeds"]
    return "" if seeds.max() == 1 else f", and over {_up_to(seeds)}{seeds.max()} seeds of a fit"


def _seeds(comparison: "Comparison") -> str:
    """How much evidences vary from seed to seed."""
    seeds = comparison.table["seeds"]
    return (
        f"Evidences are means over {_up_to(seeds)}{seeds.max()} seeds. They vary between seeds by up to "
        f"{comparison.table['seed_sd'].max():.2g} nats a cell (standard deviation). Standard errors include the error "
        "of the mean over seeds, and intervals are wider where seeds are few (Student's t)."
    )


def _up_to(seeds: pd.Series) -> str:
    return "up to " if seeds.nunique() > 1 else ""


def marked(name: Hashable, row: pd.Series) -> str:
    """The name of a fit, which says so if the fit has not converged."""
    return f"{name} (not converged)" if has_not_converged(row) else str(name)


def has_not_converged(row: pd.Series) -> bool:
    return not (pd.isna(row["converged"]) or row["converged"])


def _difference(row: pd.Series) -> str:
    return f"{abs(row['difference']):.2f} ± {row['standard_error']:.2f}"


def minus(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _shortened(names: Iterable[object]) -> str:
    """The first names in a sentence, and how many more there are."""
    every = list(map(str, names))
    rest = [f"{len(every) - MAX_NAMES} more"] if len(every) > MAX_NAMES else []
    return listed([*every[:MAX_NAMES], *rest])


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, with semicolons between them if a name has a comma.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    by = "; " if any("," in name for name in names) else ", "
    return f"{by.join(names[:-1])}{';' * (by == '; ')} and {names[-1]}" if len(names) > 1 else names[0]
