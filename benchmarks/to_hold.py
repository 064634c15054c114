"""Every figure that the numbers of this software are to hold, measured: one table, a line a figure.

    python benchmarks/to_hold.py [--only likelihoods evidence] [--quick] [--out results]

    likelihoods    log p and its slopes against 50 digits, whole cells, limits, sums, samples
    evidence       the ladder at what it reports a cell by, on every problem whose evidence is known; limits; scvi-tools
    comparisons    counts of a known likelihood, under three that are fitted
    calibration    ranks of every page, and of guides that are known to be wrong
    mixtures       clusters that were put there, and cells without any

Figures are told as they are found, and the table at the end; with ``--out`` it is written as well. The exit status is 1
where one of them does not hold. ``--quick`` goes through every section at a small size, which says that everything
runs; the aims are those of the full run. Each section has a command of its own that tells more: ``evidence.py``,
``recoveries.py``, ``calibration.py``, ``collapse.py``, and ``parity.py`` for scvi-tools.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import product
from math import isnan, log
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from calibration import PAGES, measured
from collapse import ENOUGH, ahead, fitted
from common import markdown, write
from evidence import PROBLEMS, scored
from recoveries import GUIDE, PAGE, judgements, made

import pyroscvi as ps
from pyroscvi.calibration.ranks import Ranks
from pyroscvi.evidence import log_evidence
from pyroscvi.inference.seeds import seeded
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, PerGene, Poisson

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference import likelihoods as exact

REPORT = "auto, to report"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Figure(NamedTuple):
    """What is measured, what it is to be, what it is, and whether that holds (None where it was not measured)."""

    figure: str
    aim: str
    measured: str
    holds: bool | None


class Run(NamedTuple):
    """A full run or a quick one, and where fits are found again."""

    quick: bool = False
    out: Path = Path("results")


def worst(figure: str, aim: float, errors: dict[str, float], unit: str = "") -> Figure:
    """The greatest of errors that are all to be below the aim, and whose it is; NaN is the worst of all."""
    of = max(errors, key=lambda name: float("inf") if isnan(errors[name]) else errors[name])
    holds = all(error < aim for error in errors.values())
    return Figure(figure, f"below {aim:g}{unit}", f"{errors[of]:.2g}{unit} ({of})", holds)


def share(figure: str, kept: int, of: int, least: str = "all", told: str = "") -> Figure:
    """How many of how many, where ``least`` is a share such as "57 of 60", or all."""
    enough, among = (1, 1) if least == "all" else map(int, least.split(" of "))
    return Figure(figure, least, f"{kept} of {of}{told}", kept * among >= enough * of)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Likelihoods


def of_likelihoods(run: Run) -> Iterator[Figure]:
    """They take seconds, so that there is no quicker way; seeds are those of the tests."""
    for (name, dtype), (value, slope) in zip(DTYPES.items(), ((5e-6, 1e-5), (1e-13, 1e-12)), strict=True):
        off = {of: exact.reference_errors(of, dtype) for of in exact.COUNTS}
        values = {of: errors.pop("value") for of, errors in off.items()}
        yield worst(f"log p in 50 digits: error / (1 + its size), {name}", value, values)
        slopes = {of: max(errors.values(), key=lambda error: (isnan(error), error)) for of, errors in off.items()}
        yield worst(f"its slopes in 50 digits, {name}", slope, slopes)
    yield whole_cells()
    found, looked_at = summed(exact.nans(*of) for of in product(exact.COUNTS, DTYPES.values()))
    yield Figure("NaN on a valid input, in values and slopes", "0", f"{found} of {looked_at:,}", found == 0)
    apart, looked_at = summed(with_seed(exact.unlike_poisson, dtype) for dtype in DTYPES.values())
    yield Figure("theta = infinity: values and slopes unlike Poisson's", "0", f"{apart} of {looked_at:,}", apart == 0)
    mass = {
        f"{of}, mu = {mu:g}, theta = {theta:g}": exact.mass_and_moments(of, mu, theta)[0]
        for of, (mu, theta) in product(exact.COUNTS, exact.MOMENTS)
    }
    yield worst("each pmf summed, less 1", 1e-10, mass)
    p = {
        f"{of}, mu = {mu:g}": with_seed(exact.sampling_p, of, mu, seed=seed)
        for seed, (of, mu) in enumerate(product(exact.COUNTS, exact.MEANS))
    }
    least = min(p, key=p.__getitem__)
    yield Figure(
        "samples: least p of chi-square tests against the pmf",
        "above 0.001",
        f"{p[least]:.2g} ({least}), of {len(p)}: {1 / (len(p) + 1):.2g} is to be expected",
        all(value > 1e-3 for value in p.values()),
    )
    passed = [
        with_seed(exact.gradients_agree, *of, raise_exception=False) for of in product(exact.COUNTS, (False, True))
    ]
    yield share("gradcheck passes", sum(passed), len(passed))


def with_seed(measure: Callable, *given, seed: int = 0, **options):
    """A measurement that draws from this seed."""
    with seeded(seed):
        return measure(*given, **options)


def summed(rows: Iterable[tuple]) -> tuple[int, int]:
    """How many of how many, from rows that begin with these."""
    found, looked_at, *_ = (sum(column) for column in zip(*rows, strict=True))
    return found, looked_at


def whole_cells() -> Figure:
    found = {
        f"theta = {theta:g}, {size:,} counts": with_seed(exact.cell_error, theta, size)
        for theta, size in product(exact.THETAS, exact.SIZES)
    }
    of = max(found, key=lambda name: found[name][0] / found[name][1])
    error, within = found[of]
    small = sum(error < 1e-3 for error, _ in found.values())
    return Figure(
        f"a cell of 2,000 genes, float32, theta from {min(exact.THETAS):g} to {max(exact.THETAS):g}",
        "below 0.001 nats, or three roundings of the answer",
        f"{small} of {len(found)} below 0.001; {error:.2g} where {within:.2g} may be ({of})",
        all(error < within for error, within in found.values()),
    )


# Evidence


def of_evidence(run: Run) -> Iterator[Figure]:
    chosen = ["nb-normal-d2", "zinb-mixture-d2", "gamma-poisson"] if run.quick else list(PROBLEMS)
    n, again = (12, 4) if run.quick else (32, 8)
    tables, means, cells, shows = {}, {}, {}, {}
    for name in chosen:
        tables[name] = scored(name, [REPORT], n)[REPORT]
        in_pieces = scored(name, [REPORT], again, batch_size=3, chunk=999)[REPORT]["log_evidence"].to_numpy()
        errors = tables[name]["error"].to_numpy()  # pandas would pass over a NaN
        means[name], cells[name] = abs(errors.mean()), np.abs(errors).max()
        shows[name] = np.abs(in_pieces - tables[name]["log_evidence"].to_numpy()[:again]).max()
        tell(f"{name}: mean error {errors.mean():.4f}, worst {cells[name]:.3f}, in pieces {shows[name]:.1g}")
    yield worst(f"mean error on every problem, {len(chosen)} of them, {n} cells each", 0.005, means, " nats")
    yield worst("the same: error of every cell", 0.05, cells, " nats")
    yield Figure("problems whose evidence is known", "24 or more", str(len(PROBLEMS)), len(PROBLEMS) >= 24)
    yield coverage(pd.concat(tables.values()))
    yield worst("NB with theta = 1e6 less Poisson, every cell", 0.01, nearly_poisson(run.quick), " nats")
    yield worst("other minibatches, chunks and neighbours, float64: difference", 1e-9, shows, " nats")
    yield beside_scvi_tools(run.quick)


def coverage(table: pd.DataFrame) -> Figure:
    inside = (table["error"].abs() < 2 * table["monte_carlo_se"]).mean()
    enough = len(table) > 475  # of which one hundredth is a standard error
    return Figure(
        "coverage of two Monte Carlo standard errors",
        "93 to 97 in 100",
        f"{100 * inside:.1f} in 100, of {len(table)} cells" + ("" if enough else ", too few to tell"),
        0.93 <= inside <= 0.97 if enough else None,
    )


def nearly_poisson(quick: bool) -> dict[str, float]:
    """By how much the two differ under one decoder, at most, on cells that Poisson made and on cells that NB made."""
    found = {}
    for name in ("Poisson", "NB"):
        train, unseen = made(name, 150 if quick else 800, seed=0).split(0.25, seed=0)
        options = {"epochs": 10 if quick else 100, "batch_size": 256, "lr": 2e-2, "device": "cpu", "progress": False}
        fit = ps.fit(
            SCVI(PAGE.latent, decoder=PAGE.decoder, size=PAGE.size, likelihood=Poisson()), GUIDE, train, **options
        )
        dispersed = NB(dispersion=PerGene(start=log(1e6)))
        nb = SCVI(PAGE.latent, decoder=PAGE.decoder, size=PAGE.size, likelihood=dispersed).sized(train.dims).eval()
        nb.decoder = fit.model.decoder
        one, other = (log_evidence((model, fit.guide), unseen, 1000) for model in (nb, fit.model))
        found[f"cells of {name}"] = float(np.abs(one - other).max())
    return found


def beside_scvi_tools(quick: bool) -> Figure:
    """Cell by cell, where weights of its guide have a light tail: elsewhere the average that it reports is too low."""
    figure = "NB with a normal latent: cells as scvi-tools has them, where tails are light"
    aim = "within 5 Monte Carlo errors"
    if find_spec("scvi") is None:
        return Figure(figure, aim, "not measured (scvi-tools is not installed)", None)
    import parity

    small = ["--epochs", "100", "--held-out", "24", "--draws", "500"] if quick else []
    asked = parity.parser().parse_args(["--genes", "50", "--latent", "2", *small])
    found = parity.row("SCVI, NB", *parity.halves(asked), asked)
    farthest, mean, error = (found[of] for of in ("farthest, in errors", "difference in these", "Monte Carlo error"))
    cells = f"{found[f'cells with k-hat below {parity.LIGHT}']} of {asked.held_out} cells"
    told = f"{farthest:.1f} at most, mean difference {mean:.3f} ± {error:.3f} nats, {cells}"
    return Figure(figure, aim, told, farthest < 5)


# Comparisons


def of_comparisons(run: Run) -> Iterator[Figure]:
    size = (
        {"runs": 1, "cells": 300, "scored": 150, "epochs": 40}
        if run.quick
        else {"runs": 20, "cells": 600, "scored": 200}
    )
    places: dict[str, list[object]] = {}
    for row in judgements(**size, folder=None if run.quick else run.out / "recoveries"):
        places.setdefault(str(row["generator"]), []).append(row["place"])
        tell(f"{row['run']}: {row['generator']}: {row['place']}")
    kept = {name: sum(place != "lost" for place in found) for name, found in places.items()}
    told = ", ".join(f"{name} {count}" for name, count in kept.items())
    total = sum(map(len, places.values()))
    yield share("the generator comes first or is tied", sum(kept.values()), total, "57 of 60", f" ({told})")


# Calibration


def of_calibration(run: Run) -> Iterator[Figure]:
    pages, guides = (
        (["ppca", "scvi"], ["mean_field"]) if run.quick else (list(PAGES), ["mean_field", "full_covariance"])
    )
    size = {"simulations": 150, "candidates": 1000, "epochs": 15} if run.quick else {}
    corrected, of_guide = {}, {}
    for name, found, _ in measured(pages, guides, **size):
        corrected[name], of_guide[name] = found.corrected, found.guide
        tell(f"{name}: least p {least_p(found.guide):.2g}, corrected {least_p(found.corrected):.2g}")
    lowest = min(corrected, key=lambda name: least_p(corrected[name]))
    told = f", least p {least_p(corrected[lowest]):.2g} ({lowest})"
    passed = sum(ranks.passes for ranks in corrected.values())
    yield share("ranks of importance-corrected draws pass, every page", passed, len(corrected), told=told)
    for name, aim in (("exact", "passes"), ("best mean field", "fails"), ("the prior", "fails")):
        ranks = of_guide[f"ppca, {name}"]
        verdict = "passes" if ranks.passes else "fails"
        yield Figure(f"ranks of a control: {name}", aim, f"{verdict}, least p {least_p(ranks):.2g}", verdict == aim)


def least_p(ranks: Ranks) -> float:
    return float(ranks.table["corrected p"].min())


# Mixtures


def of_mixtures(run: Run) -> Iterator[Figure]:
    count, cells, alone = (1, 500, 1) if run.quick else (20, 1000, 3)
    seeds = range(20, 20 + count)  # not those by which it was decided when components settle
    ways = ["SCVI, Mixture(5)", "GMVAE(kinds=5)"]
    components: dict[str, list[float]] = {way: [] for way in ways}
    for row in fitted(seeds, ways, cells, epochs=60):
        components[row["way"]].append(row["components"])
        tell(f"seed {row['seed']}: {row['way']}: {row['components']:.2f} components")
    for way, found in components.items():
        kept = sum(effective >= ENOUGH for effective in found)
        told = f", least {min(found):.2f}"
        yield share(f"five clusters, {way}: {ENOUGH} effective components", kept, len(found), "19 of 20", told)
    size = {"epochs": 30, "refits": 2} if run.quick else {"epochs": 60}
    found = {f"seed {seed}": ahead(cells, cells // 3, seed, **size)["ahead"] for seed in seeds[:alone]}
    yield worst("one cluster: five components ahead, in standard errors", 2, found)


SECTIONS: dict[str, Callable[[Run], Iterator[Figure]]] = {
    "likelihoods": of_likelihoods,
    "evidence": of_evidence,
    "comparisons": of_comparisons,
    "calibration": of_calibration,
    "mixtures": of_mixtures,
}
SAID = {True: "yes", False: "**no**", None: ""}


def main(arguments: list[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--only", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    ask.add_argument("--quick", action="store_true", help="small sizes, a minute or two; the aims are of the full run")
    ask.add_argument("--out", type=Path, help="a folder for the table, and for fits that are found again")
    asked = ask.parse_args(arguments)
    torch.set_num_threads(1)
    run = Run(asked.quick, asked.out or Run().out)
    figures, seconds = [], {}
    for section in asked.only:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for figure in SECTIONS[section](run):
                figures.append(figure)
                tell(f"{section}: {figure.figure}: {figure.measured} ({figure.aim}) {SAID[figure.holds]}")
        seconds[section] = time.process_time() - start
    return shown(figures, seconds, asked)


def shown(figures: list[Figure], seconds: dict[str, float], asked: argparse.Namespace) -> int:
    """Print the table and write it where that was asked for; 1 if a figure does not hold."""
    table = pd.DataFrame(figures).assign(holds=lambda t: t["holds"].map(SAID)).set_index("figure")
    size = "a quick run at small sizes: the aims are those of the full run" if asked.quick else "the full run"
    failed = [figure.figure for figure in figures if figure.holds is not None and not figure.holds]
    left = sum(figure.holds is None for figure in figures)
    print(f"To hold, {datetime.now(UTC):%Y-%m-%d}, {size}\n\n{markdown(table)}\n")
    print("Seconds of processor time:", ", ".join(f"{name} {t:.0f}" for name, t in seconds.items()))
    print(f"{len(figures) - len(failed) - left} of {len(figures)} hold; {left} not measured; {len(failed)} do not hold")
    for name in failed:
        print(f"  does not hold: {name}")
    if asked.out is not None:
        write(asked.out, "to_hold", table, {"run": size, "seconds": seconds, "only": asked.only})
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
