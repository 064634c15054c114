"""A comparison in words: what was found, what was asked, and how far it can be trusted."""

from collections.abc import Sequence

import pandas as pd

from pyroscvi.comparison.compare import FEW, ONCE

__all__ = ["answer", "asked", "listed", "minus", "trusted"]

MANY = 4  # names in a sentence


def answer(table: pd.DataFrame) -> list[str]:
    """Which fit is the best, by how much, and which cannot be told from it."""
    best = table.index[0]
    cells = len(table.attrs["cells"])
    said = [f"{best} explains the held-out cells best, with {minus(table['evidence'].iloc[0], 2)} nats a cell."]
    if len(table) == 1:
        return [f"{best} has a log evidence of {minus(table['evidence'].iloc[0], 2)} nats a cell. There is no other."]
    alike = table[table["verdict"] == "indistinguishable"]
    apart = table[table["verdict"] == "told apart"]
    if alike.empty:
        said = [f"{said[0][:-1]}, and is told apart from every other fit."]
    else:
        shown = [f"{name} ({_difference(row)})" for name, row in alike.head(MANY).iterrows()]
        rest = [f"{len(alike) - MANY} more"] if len(alike) > MANY else []
        said.append(f"These cells do not tell it apart from {listed([*shown, *rest])}.")
    if not apart.empty:
        name, row = apart.index[0], apart.iloc[0]
        ratio = abs(row["difference"]) / row["standard_error"] if row["standard_error"] > 0 else float("inf")
        errors = f"{ratio:.1f} standard errors" if ratio < 100 else "more than a hundred standard errors"
        said.append(
            f"The nearest fit that is told apart is {name}: {_difference(row)} nats a cell behind, which is "
            f"{abs(row['difference']) * cells:,.0f} nats over the {cells:,} cells and {errors}."
        )
    if len(apart) > 1:
        others = list(map(str, apart.index[1:]))
        more = [f"{len(others) - MANY} more"] if len(others) > MANY else []
        said.append(f"Also told apart: {listed([*others[:MANY], *more])}.")
    return said


def asked(table: pd.DataFrame, held_out: str | None = None) -> list[str]:
    """What the numbers are probabilities of."""
    estimand = table["estimand"].iloc[0]
    how = f" ({held_out})" if held_out else ""
    said = [
        f"The numbers are log {estimand}: how probable each fitted model makes the counts of all "
        f"{table.attrs['genes']:,} genes of a cell at once, with the cell's latents integrated out. They are averages "
        f"over the same {len(table.attrs['cells']):,} cells for every fit, held out of all of them{how}"
        f"{_averaged(table)}. A difference "
        "of d nats a cell says that the better model makes a typical cell exp(d) times as probable."
    ]
    if "| l" in estimand:
        said.append(
            "They are conditional on the observed total of the cell, which its counts add up to, and so are no "
            "probabilities of counts: this favours likelihoods with little dispersion. A latent size (LatentSize) or a "
            "size factor gives a comparison that is free of it."
        )
    return said


def trusted(table: pd.DataFrame) -> list[str]:
    """How far off the numbers may be."""
    said = [_certified(table["certificate"])]
    if (draws := table["monte_carlo"].max()) > 0:
        said.append(
            f"Of a standard error, random draws ({table.attrs['particles']:,} a cell) account for {draws:.2g} nats a "
            "cell at most."
        )
    by, many = table.attrs["by"], table.attrs["clusters"]
    if by is None:
        said.append("Standard errors are over cells, paired, as if cells were independent of each other.")
    else:
        few = " With so few, the errors are not well known themselves." if many < FEW else ""
        said.append(f"Standard errors are over {many} clusters of cells ({by}), paired.{few}")
    said.append(_seeds(table))
    if (heavy := table["heavy_tailed"].max()) > 0:
        said.append(
            f"For {heavy:.0%} of the cells of {table['heavy_tailed'].idxmax()} importance weights have a heavy tail, "
            "and their evidence is too low by an unknown amount."
        )
    if (unripe := table.index[table["kl_weight"] < 1]).size:
        said.append(
            f"The KL weight of {listed(list(map(str, unripe)))} ended below 1: its fit is not of its own bound."
        )
    return said


def _certified(certificates: pd.Series) -> str:
    """One sentence on all of them."""
    words = certificates.astype(str)
    loose = words.str.startswith("uncertified")
    if (words == "exact").all():
        return "All evidences are exact."
    if not loose.any():
        return (
            "All evidences are certified: on cells simulated from each fit, whose evidence can be bounded from both "
            "sides, the bounds are no more than a tenth of a nat apart."
        )
    if (words == "uncertified").any():
        return "Evidences are uncertified: nobody has measured, on simulated cells, how far off they may be."
    return (
        f"The evidence of {listed(list(map(str, certificates.index[loose])))} is uncertified: on cells simulated from "
        "the fit, bounds from both sides are farther apart than a tenth of a nat."
    )


def _averaged(table: pd.DataFrame) -> str:
    """What an average is over beside cells."""
    seeds = set(table.attrs["seeds"].values())
    if seeds == {1}:
        return ""
    return f", and over {'up to ' if len(seeds) > 1 else ''}{max(seeds)} seeds that each was fitted with"


def _seeds(table: pd.DataFrame) -> str:
    """What another seed would have given, as far as it is known."""
    seeds = pd.Series(table.attrs["seeds"])
    if (seeds == 1).all():
        return ONCE
    few = ", which with so few of them is not well known itself" if seeds[seeds > 1].min() < FEW else ""
    said = (
        f"From seed to seed an evidence varies by up to {table['refits'].max():.2g} nats a cell (standard deviation); "
        f"standard errors hold what a mean over the seeds varies by{few}."
    )
    if (once := seeds.index[seeds == 1]).size:
        said += f" Fitted once, and without such an error: {listed(list(map(str, once[:MANY])))}"
        said += f" and {once.size - MANY} more." if once.size > MANY else "."
    return said


def _difference(row: pd.Series) -> str:
    return f"{abs(row['difference']):.2f} ± {row['standard_error']:.2f}"


def minus(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; those that have commas of their own are kept apart by semicolons.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    by = "; " if any("," in name for name in names) else ", "
    return f"{by.join(names[:-1])}{';' * (by == '; ')} and {names[-1]}" if len(names) > 1 else names[0]
