"""Do verdicts depend on seeds? Evidence, its scatter, convergence and verdicts on several data sets, six seeds each.

    python benchmarks/verdicts.py ../data --out results
    python benchmarks/verdicts.py ../data --out results --only kang zeisel --report

Every fit is one line of ``verdicts.jsonl`` in the folder, with the evidence of every scored cell. Lines that are there
are not computed again, so a stopped run goes on where it was. Seeds come first: after a stop all data sets have about
as many seeds. At most 1,500 cells and 1,000 genes of every set, a tenth held out, at most 100 of them scored, latent
sizes, the defaults of ``fit``, one thread. ``--report`` prints the tables of what is there.
"""

import argparse
import json
import time
import warnings
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import markdown, measured_with, read

import pyroscvi as ps
from pyroscvi.comparison.paired import paired, verdict
from pyroscvi.comparison.refits import Refitted
from pyroscvi.evidence.table import Evidences
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, ZINB, LatentSize, Mixture, Poisson

CELLS, GENES, SCORED = 1_500, 1_000, 100
DATA = {  # file, and the column of batches
    "embedded": ("pbmc68k_reduced_counts", None),
    "kang": ("kang_ifnb_muscat", "sample_id"),
    "zeisel": ("zeisel_3types_descend", None),
    "pbmc3k": ("pbmc3k_10x", None),
    "worm": ("worm_embryo_packer2019", "batch"),
    "bulk": ("bulk_lcl_3studies", "study"),
    "pbmc10k": ("pbmc10k_5k_totalvi", "batch"),
}
VARIANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "NB": ({}, MeanField()),
    "ZINB": ({"likelihood": ZINB()}, MeanField()),
    "Poisson": ({"likelihood": Poisson()}, MeanField()),
    "mixture of 8": ({"prior": Mixture(8)}, MeanField()),
    "full covariance": ({}, FullCovariance()),
    "5 dimensions": ({"latent": 5}, MeanField()),
}
NESTED = [("Poisson", "NB"), ("NB", "ZINB"), ("NB", "mixture of 8"), ("NB", "full covariance"), ("5 dimensions", "NB")]


def split(folder: Path, name: str) -> tuple[ps.Cells, ps.Cells, ps.Cells]:
    """Cells to fit to, held-out cells, and those of them that are scored."""
    file, batch = DATA[name]
    cells = ps.Fields(batch=batch).read(read(folder / f"{file}.h5ad", batch, GENES))
    if len(cells) > CELLS:
        cells, _ = cells.split(1 - CELLS / len(cells), by="batch" if batch else None, seed=0)
    train, held_out = cells.split(0.25 if len(cells) < 500 else 0.1, by="batch" if batch else None, seed=0)
    return train, held_out, held_out.subset(torch.linspace(0, len(held_out) - 1, min(SCORED, len(held_out))).long())


def measured(name: str, variant: str, seed: int, cells: tuple[ps.Cells, ps.Cells, ps.Cells]) -> dict[str, Any]:
    train, held_out, scored = cells
    slots, guide = VARIANTS[variant]
    model = SCVI(**{"likelihood": NB(), "size": LatentSize(), **slots})
    began = time.process_time()
    fit = ps.fit(model, guide, train, seed=seed, validation=held_out, compile=True, progress=False)
    fitted = time.process_time()
    table = ps.evidence.evidences(ps.evidence.Reader(fit, scored, dtype=None), progress=False).table
    return {
        "data": name, "variant": variant, "seed": seed, "converged": fit.converged,
        "elbo": float(fit.history["elbo_held_out"].iloc[-1]),
        "evidence": table["log_evidence"].round(4).tolist(), "error": table["monte_carlo_se"].round(4).tolist(),
        "fit s": round(fitted - began, 1), "evidence s": round(time.process_time() - fitted, 1),
    }  # fmt: skip


def report(lines: list[dict[str, Any]]) -> None:
    """Print evidence, scatter and convergence of every variant, and verdicts from the seeds 0 to 2 and 3 to 5."""
    rows, verdicts = [], []
    for name, of_data in pd.DataFrame(lines).groupby("data", sort=False):
        scores = {variant: (some["seed"].tolist(), tables(some)) for variant, some in of_data.groupby("variant")}
        for variant, some in of_data.groupby("variant", sort=False):
            some = some.assign(evidence=some["evidence"].map(np.mean))
            larger_than = next((small for small, large in NESTED if large == variant and small in scores), None)
            mean, sd = some[["evidence", "elbo"]].mean(), some[["evidence", "elbo"]].std()
            row = {
                "set": name, "variant": variant, "seeds": len(some),
                "evidence": mean["evidence"], "evidence sd": sd["evidence"], "ELBO": mean["elbo"],
                "ELBO sd": sd["elbo"],
                "not converged": int((~some["converged"]).sum()), "ahead of what it contains": "",
                "fit s": some["fit s"].median(), "evidence s": some["evidence s"].median(),
            }  # fmt: skip
            if larger_than and min(len(some), len(scores[larger_than][0])) > 1:
                ahead = paired(Refitted(scores[variant][1]), Refitted(scores[larger_than][1]))
                row["ahead of what it contains"] = (
                    f"{ahead.difference:.2f} ± {ahead.standard_error:.2f} ({larger_than})"
                )
            rows.append(row)
        for one, other in combinations(scores, 2):
            halves = []
            for seeds in (0, 1, 2), (3, 4, 5):
                both = [[t for seed, t in zip(*scores[v], strict=True) if seed in seeds] for v in (one, other)]
                if min(map(len, both)) == 3:
                    difference = paired(*map(Refitted, both))
                    word = verdict(difference, len(both[0][0].table))
                    halves.append(f"{difference.difference:.2f} ± {difference.interval:.2f}, {word}")
            if len(halves) == 2:
                verdicts.append(
                    {"set": name, "one": one, "other": other, "seeds 0 to 2": halves[0], "3 to 5": halves[1]}
                )
    for table in rows, verdicts:
        if table:
            print(markdown(pd.DataFrame(table).set_index("set")), end="\n\n")
    print(measured_with())


def tables(some: pd.DataFrame) -> list[Evidences]:
    return [
        Evidences(pd.DataFrame({"log_evidence": line.evidence, "monte_carlo_se": line.error}))
        for line in some.itertuples()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data sets are")
    parser.add_argument("--only", nargs="*", choices=list(DATA), default=list(DATA), help="data sets")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--report", action="store_true", help="compute nothing: print the tables")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "verdicts.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(line["data"], line["variant"], line["seed"]) for line in lines}
    cells = {}
    for seed, name, variant in product(range(options.seeds), options.only, options.variants):
        if options.report or (name, variant, seed) in done:
            continue
        if name not in cells:
            cells[name] = split(options.folder, name)
        lines.append(measured(name, variant, seed, cells[name]))
        with file.open("a") as kept:
            kept.write(json.dumps(lines[-1]) + "\n")
        print(name, variant, seed, f"{np.mean(lines[-1]['evidence']):.2f}", f"{lines[-1]['fit s']} s", flush=True)
    report(lines)


if __name__ == "__main__":
    main()
