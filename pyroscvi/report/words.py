"""A comparison in words: the answer, the question, and how reliable the answer is.

The table on a terminal, the table in a notebook and the page of HTML all take their sentences from here.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pyroscvi.evidence.importance import MAX_K_HAT

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison, GeneComparison

__all__ = ["answer", "asked", "doubts", "genes_answer", "listed", "minus", "trusted"]

MAX_NAMES = 4  # in a sentence
MIN_GROUPS = 10  # of fewer clusters or seeds a standard error is itself inaccurate


def answer(comparison: "Comparison") -> list[str]:
    """Which fit is the best, by how much, and which fits are indistinguishable from it."""
    table, cells = comparison.table, len(comparison.by_cell)
    best, evidence = table.index[0], minus(table["evidence"].iloc[0], 2)
    if len(table) == 1:
        return [f"{best} has a log evidence of {evidence} nats a cell. It is the only fit."]
    alike = table[table["verdict"] == "indistinguishable"]
    apart = table[table["verdict"] == "told apart"]
    sentences = [f"{best} explains the held-out cells best, with {evidence} nats a cell."]
    if alike.empty:
        sentences.append("It is told apart from every other fit.")
    else:
        names = _shortened(f"{name} ({_difference(row)})" for name, row in alike.iterrows())
        sentences.append(f"On these cells it is indistinguishable from {names}.")
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
    """How far off the numbers may be."""
    table, by, clusters = comparison.table, comparison.by, comparison.clusters
    sentences = [_certified(table["certificate"])]
    if (monte_carlo := table["monte_carlo"].max()) > 0:
        sentences.append(
            f"Monte Carlo error ({comparison.particles:,} posterior samples a cell) is at most {monte_carlo:.2g} nats "
            "a cell of a standard error."
        )
    if by is None or clusters is None:
        sentences.append("Standard errors are over cells, paired, as if cells were independent of each other.")
    else:
        few = " With so few clusters the standard errors are inaccurate." if clusters < MIN_GROUPS else ""
        sentences.append(f"Standard errors are over {clusters} clusters of cells ({by}), paired.{few}")
    if len(table) > 1 or comparison.fits[table.index[0]].seeds[1:]:
        sentences.append(_seeds(comparison))
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


def _averaged(comparison: "Comparison") -> str:
    """Whether an average is over seeds too."""
    numbers = {len(fit.seeds) for fit in comparison.fits.values()}
    if numbers == {1}:
        return ""
    return f", and over {'up to ' if len(numbers) > 1 else ''}the {max(numbers)} seeds of a fit"


def _seeds(comparison: "Comparison") -> str:
    """How much evidences vary from seed to seed, as far as it is known."""
    seeds = pd.Series({name: len(comparison.fits[name].seeds) for name in comparison.table.index})
    if (seeds == 1).all():
        return "Every model was fitted with one seed: the standard errors do not include the variation between seeds."
    inaccurate = ", which is inaccurate with so few seeds" if seeds[seeds > 1].min() < MIN_GROUPS else ""
    text = (
        f"Evidences are means over {'up to ' if seeds.nunique() > 1 else ''}{seeds.max()} seeds. They vary between "
        f"seeds by up to {comparison.table['refits'].max():.2g} nats a cell (standard deviation); standard errors "
        f"include the error of the mean over seeds{inaccurate}."
    )
    once = seeds.index[seeds == 1]
    return f"{text} Fitted with one seed, and so without this error: {_shortened(once)}." if once.size else text


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
