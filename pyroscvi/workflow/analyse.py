"""``analyse``: choose a model, fit it, cluster the cells, find marker genes, and write everything into a folder.

result = ps.analyse(ps.read("cells.h5ad"), minutes=10, out="analysis")
result.adata.obs["pyroscvi_cluster"], result.markers, result.fit
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi import __version__
from pyroscvi.analysis.clusters import CLUSTER, Agreement, agreement, clusters, neighbours_of, stability
from pyroscvi.analysis.differential import differential
from pyroscvi.analysis.representation import KEY, representation
from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import highly_variable
from pyroscvi.data.fields import Fields
from pyroscvi.data.process import process_kept
from pyroscvi.fitting.files import write_whole
from pyroscvi.fitting.fit import default_epochs, fit
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.symptoms import symptoms
from pyroscvi.guides import MeanField, SpatialGNN
from pyroscvi.workflow.choosing import Choice, Clock, choose
from pyroscvi.workflow.inspection import Inspection, inspect

MAX_TESTED = 10_000  # cells from which marker genes are found
MIN_EPOCHS = 5
AFTERWARDS = 0.5  # of the time that is left after the choice, for the fit; clusters, tests and the report follow
CONTROLS = ("control", "ctrl", "ctl", "untreated", "unstimulated", "wt", "healthy", "normal", "mock", "dmso", "vehicle")


@dataclass(frozen=True, eq=False)
class Analysis:
    """The result of ``analyse``.

    adata        the cells with ``obsm["X_pyroscvi"]``, ``obsm["X_umap"]``, ``obs["pyroscvi_cluster"]``, the graph of
                 neighbours, and ``layers["denoised"]`` on request (NaN for genes that were not used)
    fit, cells   the fit, and the cells as it reads them
    inspection   which columns and matrices were recognised as what
    choice       how the model was chosen
    markers      genes that are higher in a cluster than in all others: ``Fit.differential``
    changes      genes that differ between conditions within clusters; None without a condition
    agreements   {name of a column: how alike its levels and the clusters are}
    stability    adjusted Rand indices of the clusters of every two seeds; empty if there was no time for two
    warnings     sentences
    took         how much of the time was used, and why not all of it
    settings     the arguments of ``analyse`` that a script needs to repeat it
    """

    adata: AnnData
    fit: Fit
    cells: Cells
    inspection: Inspection
    choice: Choice
    markers: pd.DataFrame
    changes: pd.DataFrame | None
    agreements: dict[str, Agreement]
    stability: list[float]
    warnings: tuple[str, ...]
    took: str
    settings: dict[str, Any] = field(default_factory=dict)

    def report(self, file: str | Path) -> Path:
        """Write one page of HTML with words, tables and pictures in it."""
        from pyroscvi.workflow.page import page

        text = page(self)
        return write_whole(Path(file), partial(Path.write_text, data=text, encoding="utf-8"))

    def write(self, folder: str | Path) -> Path:
        """Write report.html, analysed.h5ad, fit.safetensors, markers.csv, changes.csv, genes.txt and script.py."""
        from pyroscvi.workflow.script import script

        folder = Path(folder)
        write_whole(folder / "analysed.h5ad", self.adata.write_h5ad)
        self.fit.save(folder / "fit.safetensors")
        for name, table in {"markers": self.markers, "changes": self.changes}.items():
            if table is not None:
                write_whole(folder / f"{name}.csv", partial(table.to_csv, index=False))
        for name, text in {"genes.txt": "\n".join(self.fit.genes) + "\n", "script.py": script(self)}.items():
            write_whole(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))
        self.report(folder / "report.html")
        return folder

    def __repr__(self) -> str:
        n = self.adata.obs[CLUSTER].nunique()
        return f"Analysis({n} clusters of {self.adata.n_obs:,} cells; {self.fit!r})"


def analyse(
    adata: AnnData,
    *,
    minutes: float = 10.0,
    out: str | Path | None = None,
    counts: str | None = None,
    batch: str | None = None,
    donor: str | None = None,
    label: str | None = None,
    condition: str | None = None,
    spatial: str | None = None,
    genes: int = 2000,
    resolution: float = 1.0,
    denoised: bool = False,
    data: str | Path | None = None,
    seed: int = 0,
    tell: Callable[[str], Any] | None = None,
    **training: Any,
) -> Analysis:
    """Choose a model by held-out evidence, fit it, cluster the cells and find marker genes, within some minutes.

    minutes     what all of it may take, about; the choice of a model has two thirds of it
    out         a folder for a report, an h5ad, the fit, tables, and a script of the same steps; fits that are there
                already are used again
    counts      a layer, or "X"; by default the first matrix that holds whole numbers only
    batch       column of obs to correct for; donor: the unit of tests; label: to compare clusters with; condition: to
                test for within clusters. By default what is called like them
    spatial     key of obsm: cells are then read together with their neighbours
    genes       number of variable genes to use, if there are more
    resolution  of the clusters: larger values give more
    denoised    add the posterior mean rates to ``layers["denoised"]``
    data        the file of the cells, for the script
    tell        called with a line at every step; None is silent
    training    settings of ``fit``, such as ``epochs``
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, not {minutes}")
    clock, say = Clock(60 * minutes), tell or (lambda line: None)
    folder = None if out is None else Path(out) / "fits"
    training = {"progress": tell is not None, **training}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        asked = {"counts": counts, "batch": batch, "donor": donor, "label": label, "condition": condition}
        inspection = inspect(adata, **asked, spatial=spatial)
        for line in inspection.notes:
            say(line)
        adata, cells = _read(inspection, genes)
        say(f"{cells.counts.shape[1]:,} genes are used.")
        guide = MeanField() if cells.graph is None else SpatialGNN()
        choice = choose(cells, guide, clock, seed=seed, folder=folder, tell=tell, **training)
        for line in choice.notes:
            say(line)
        fitted = _fitted(choice, cells, clock, seed, folder, say)
        say("clusters, pictures and marker genes")
        _placed(adata, fitted, cells, resolution, seed, denoised)
        alike = _stability(choice, fitted, cells, resolution, seed)
        tested, obs = cells, adata.obs
        if len(cells) > MAX_TESTED:
            rows = np.sort(np.random.default_rng(seed).choice(len(cells), MAX_TESTED, replace=False))
            tested, obs = cells.subset(rows), adata.obs.iloc[rows]
        markers = _tested(fitted, tested, obs, CLUSTER, inspection.donor, seed)
        changes = None
        if inspection.condition is not None:
            reference = _control(obs[inspection.condition])
            changes = _tested(fitted, tested, obs, inspection.condition, inspection.donor, seed, reference, CLUSTER)
        columns = [name for name in (inspection.label,) if name is not None]
        agreements = {name: agreement(adata.obs[CLUSTER], adata.obs[name]) for name in columns}
    texts = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    warned = tuple(dict.fromkeys([*texts, *symptoms(fitted, np.asarray(adata.obsm[KEY]))]))
    for line in warned:
        say(f"warning: {line}")
    adata.uns["pyroscvi"] = {"version": __version__, "model": repr(choice.model), "guide": repr(choice.guide)}
    settings = {"data": data, "seed": seed, "resolution": resolution, "denoised": denoised}
    took = used(clock, any("no time" in note for note in choice.notes))
    say(took)
    found = (markers, changes, agreements, alike, warned, took, settings)
    result = Analysis(adata, fitted, cells, inspection, choice, *found)
    if out is not None:
        result.write(out)
    return result


def used(clock: Clock, left_out: bool) -> str:
    """A sentence: how much of the time was used, and why much less or more of it.

    left_out   whether there was no time for some candidates

    >>> used(Clock(60), left_out=True)
    'This took 0.0 of 1 minutes: another candidate would have taken longer than what was left.'
    """
    asked, spent = clock.seconds / 60, clock.spent / 60
    why = ""
    if spent > 1.2 * asked:
        why = ": the last fit and the tests took longer than measurements before them predicted"
    elif spent < 0.8 * asked:
        why = ": another candidate would have taken longer than what was left" if left_out else (
            ": there was nothing more to compare"
        )  # fmt: skip
    return f"This took {spent:.1f} of {asked:g} minutes{why}."


def _read(inspection: Inspection, genes: int) -> tuple[AnnData, Cells]:
    """The cells that have counts, at their most variable genes; and the same cells as an AnnData of their own."""
    chosen = None
    if inspection.adata.n_vars > genes:
        chosen = highly_variable(inspection.adata, genes, inspection.fields["counts"], inspection.fields["batch"])
    cells = Fields(**inspection.fields, genes=chosen).read(inspection.adata, empty="drop")
    adata = inspection.adata
    adata.obs_names = adata.obs_names.astype(str)
    if len(cells) < adata.n_obs:
        adata = adata[np.isin(adata.obs_names, np.asarray(cells.names))]
    return adata.copy(), cells


def _fitted(choice: Choice, cells: Cells, clock: Clock, seed: int, folder: Path | None, say: Callable) -> Fit:
    """The chosen model, fitted to all cells; with fewer epochs than usual where there is no time for more."""
    from pyroscvi.comparison.sweep import sweep

    settings = dict(choice.how)
    epochs = settings.pop("epochs", None) or default_epochs(len(cells))
    if choice.pace is not None:
        epochs = max(min(epochs, int(AFTERWARDS * clock.left() / (choice.pace * len(cells)))), MIN_EPOCHS)
    say(f"fitting {choice.model!r} to all {len(cells):,} cells, {epochs} epochs")
    if folder is None:
        return fit(choice.model, choice.guide, cells, epochs=epochs, seed=seed, **settings)
    pair = {"chosen": (choice.model, choice.guide)}
    return sweep(pair, cells, folder=folder, seeds=[seed], epochs=epochs, **settings)["chosen"]


def _placed(adata: AnnData, fitted: Fit, cells: Cells, resolution: float, seed: int, denoised: bool) -> None:
    """Latents, neighbours, clusters and UMAP, in the places where scanpy looks for them."""
    import scanpy

    adata.obsm[KEY] = representation(fitted, cells)
    neighbours_of(adata, KEY, seed)
    clusters(adata, resolution, seed, CLUSTER)
    with process_kept():
        scanpy.tl.umap(adata, random_state=seed)
    if denoised:
        rates = np.full(adata.shape, np.nan, dtype=np.float32)
        columns = pd.Index(adata.var_names.astype(str)).get_indexer(list(fitted.genes))
        rates[:, columns] = fitted.denoise(cells)
        adata.layers["denoised"] = rates


def _stability(choice: Choice, fitted: Fit, cells: Cells, resolution: float, seed: int) -> list[float]:
    """How alike the clusters of the fits of two seeds are, on the same cells, for every two seeds."""
    fits = [fitted, *choice.fits]
    if len(fits) < 3:
        return []
    few = cells if len(cells) <= MAX_TESTED else cells.subset(slice(0, MAX_TESTED))
    return stability([representation(one, few) for one in fits], resolution, seed)


def _tested(
    fitted: Fit, cells: Cells, obs: pd.DataFrame, by: str, donor: str | None, seed: int, reference: str = "rest",
    within: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Genes that differ between groups of cells; without donors where those do not allow it, with a warning."""
    groups = obs[by].astype(str)
    if groups.nunique() < 2:
        return pd.DataFrame()
    inside = None if within is None else obs[within].astype(str)
    options: dict[str, Any] = {"reference": reference, "within": inside, "seed": seed, "progress": False}
    try:
        return differential(fitted, cells, groups, donor=None if donor is None else obs[donor].astype(str), **options)
    except ValueError as error:
        if donor is None:
            raise
        warnings.warn(f"{error}. Cells were tested as if they were independent of each other", stacklevel=2)
        return differential(fitted, cells, groups, **options)


def _control(values: pd.Series) -> str:
    """The level that is called like a control, or else the first."""
    levels = list(values.astype("category").cat.remove_unused_categories().cat.categories.astype(str))
    return next((level for level in levels if level.lower() in CONTROLS), levels[0])
