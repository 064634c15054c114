"""Functions that several benchmarks use: read a data set, cluster a latent space, publish a table."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from pyroscvi.data.process import process_kept

__all__ = ["Peak", "agreement", "clusterings", "drawn", "markdown", "publish", "read", "versions", "write"]

PACKAGES = ("pyroscvi", "torch", "pyro-ppl", "scvi-tools", "scanpy", "scikit-learn", "numpy")


@process_kept()  # scanpy gives torch all cores, through numba
def read(path: Path, batch: str | None = None, genes: int = 2000) -> AnnData:
    """All cells of an h5ad, at its most variable genes by Pearson residuals (within batches if ``batch`` is given)."""
    import scanpy as sc  # here, because gpu.py runs where scanpy is not installed

    adata = ad.read_h5ad(path)
    if adata.n_vars > genes:
        sc.experimental.pp.highly_variable_genes(adata, n_top_genes=genes, batch_key=batch)
        adata = adata[:, adata.var["highly_variable"]]
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def drawn(n: int, g: int) -> AnnData:
    """Simulated counts of eight kinds of cells in four batches; nine of ten counts are zero."""
    r = np.random.default_rng(0)
    profile = r.normal(0, 1.9, g) + (r.random((8, g)) < 0.1) * r.normal(0, 1.5, (8, g))
    kind, batch, shift = r.integers(0, 8, n), r.integers(0, 4, n), r.normal(0, 0.25, (4, g))
    waves, blocks = r.normal(size=(3, g)), []
    for rows in np.array_split(np.arange(n), max(n // 2000, 1)):
        wave = r.normal(0, 0.25, (len(rows), 3)) @ waves
        rate = np.exp(profile[kind[rows]] + shift[batch[rows]] + wave)
        mu = rate / rate.sum(1, keepdims=True) * r.lognormal(np.log(0.225 * g), 0.45, (len(rows), 1))
        blocks.append(sparse.csr_matrix(r.poisson(r.gamma(1.3, mu / 1.3)).astype(np.float32)))
    names = [f"cell{i}" for i in range(n)]
    obs = pd.DataFrame({"batch": pd.Categorical([f"b{i}" for i in batch])}, index=names)
    return AnnData(sparse.vstack(blocks, format="csr"), obs)


def clusterings(latent: np.ndarray, kinds: int, seeds: int = 5) -> dict[str, list[np.ndarray]]:
    """k-means with the true number of kinds, and Leiden at resolution 1 on 15 neighbours, with every seed."""
    import scanpy as sc

    points = AnnData(obsm={"latent": latent}, obs=pd.DataFrame(index=map(str, range(len(latent)))))
    threads = torch.get_num_threads()
    sc.pp.neighbors(points, use_rep="latent")
    torch.set_num_threads(threads)  # numba changes it for the whole process
    clusters: dict[str, list[np.ndarray]] = {"k-means": [], "Leiden": []}
    for seed in range(seeds):
        clusters["k-means"].append(KMeans(kinds, n_init=10, random_state=seed).fit_predict(latent))
        sc.tl.leiden(points, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        clusters["Leiden"].append(points.obs["leiden"].to_numpy())
    return clusters


def agreement(latent: np.ndarray, labels: np.ndarray, seeds: int = 5) -> dict[str, float]:
    """ARI and NMI of clusterings of the latent space with the labels: mean and sd over seeds of the clustering."""
    row = {}
    for method, clusters in clusterings(latent, len(np.unique(labels)), seeds).items():
        for name, score in {"ARI": adjusted_rand_score, "NMI": normalized_mutual_info_score}.items():
            values = [score(labels, of_seed) for of_seed in clusters]
            row |= {f"{method} {name}": float(np.mean(values)), f"{method} {name} sd": float(np.std(values))}
    return row


def write(folder: Path, name: str, table: pd.DataFrame, about: dict) -> None:
    """Write ``name.json`` and ``name.md``: the table, the settings in ``about``, the date and the versions."""
    folder.mkdir(parents=True, exist_ok=True)
    about |= {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "python": platform.python_version()}
    about["versions"] = versions()
    rows = json.loads(table.reset_index().to_json(orient="records", double_precision=6))
    (folder / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(f"{markdown(table)}\n\n{measured_with()}\n")


def publish(table: pd.DataFrame, folder: Path | None = None, name: str = "", about: dict | None = None) -> None:
    """Print the table and the versions that it was measured with; write both where a folder is given."""
    print(f"{markdown(table)}\n\n{measured_with()}")
    if folder is not None:
        write(folder, name, table, dict(about or {}))


def versions() -> dict[str, str]:
    """Installed versions of the packages that a benchmark depends on."""
    return {package.name: package.version for package in distributions() if package.name in PACKAGES}


def measured_with() -> str:
    """One line with all versions: "Measured with scvi-tools 1.5.0, torch 2.13.0, ... on Python 3.12.3"."""
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions().items()))
    return f"Measured with {listed} on Python {platform.python_version()}"


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, with ``x ± sd`` for every pair of columns ``x`` and ``x sd``; text is not changed."""
    shown = pd.DataFrame(index=table.index)
    for column in table.columns.drop([c for c in table.columns if c.endswith(" sd")]):
        if table[column].map(lambda value: isinstance(value, str)).all():
            shown[column] = table[column]
            continue
        digits = 2 if table[column].abs().max() >= 10 else 3
        digits = 0 if pd.api.types.is_integer_dtype(table[column]) else digits
        text = table[column].map(lambda value, d=digits: "" if pd.isna(value) else f"{value:.{d}f}")
        if f"{column} sd" in table:
            sd = table[f"{column} sd"].map(lambda value, d=digits: "" if pd.isna(value) else f" ± {value:.{d}f}")
            text = text + sd
        shown[column] = text
    header = [table.index.name or "", *shown.columns]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join([str(name), *row]) + " |" for name, row in zip(shown.index, shown.values, strict=True)]
    return "\n".join(lines)


class Peak:
    """Measures how many bytes more this process holds inside the block than before it (on Linux)."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")  # sets the recorded peak to the present memory
        self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _resident("VmHWM") - self.before


def _resident(which: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024
