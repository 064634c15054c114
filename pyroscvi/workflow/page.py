"""An analysis as one page of HTML: the results, how sure they are, and how the data were read."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from pyroscvi import __version__
from pyroscvi.advice import either
from pyroscvi.analysis.clusters import CLUSTER
from pyroscvi.analysis.differential import SHOWN
from pyroscvi.analysis.unit_rates import RATE_UNIT
from pyroscvi.report import html, plots
from pyroscvi.report.differential import changes as draw_changes
from pyroscvi.report.document import bullets, document, figure, paragraphs, rows, safe
from pyroscvi.report.embedding import coloured, tissue
from pyroscvi.report.markers import best_markers, heatmap, in_order
from pyroscvi.report.numbers import number
from pyroscvi.workflow.levels import of_components

if TYPE_CHECKING:
    from pyroscvi.workflow.analyse import Analysis

MAX_ROWS = 60
STABLE = 0.8  # adjusted Rand index from which clusters are called the same for every seed
HEADERS = {"log2_fold_change": "log2 change", "p_change": "p of a change", "expected_fdr": "expected FDR"}


def page(analysis: "Analysis", title: str = "Analysis of these cells") -> str:
    """The page."""
    n = analysis.adata.n_obs
    parts = [
        f"<h1>{safe(title)}</h1>",
        f'<p class="aside">{n:,} cells, {len(analysis.fit.genes):,} genes; pyroscvi {__version__}</p>',
        f'<div class="answer">{paragraphs(answer(analysis))}</div>',
        *_cells(analysis),
        *_markers(analysis),
        *_changes(analysis),
        "<h2>How the data were read</h2>" + bullets(analysis.inspection.notes),
        *_model(analysis),
        *_components(analysis),
        "<h2>Warnings</h2>" + bullets(analysis.warnings) if analysis.warnings else "",
        "<h2>Files</h2>" + (FILES if analysis.changes is not None else FILES.replace(", changes.csv", "")),
    ]
    return document(title, parts)


FILES = """<dl>
<dt>analysed.h5ad</dt><dd>latents in <code>obsm["X_pyroscvi"]</code>, UMAP in <code>obsm["X_umap"]</code>, clusters in
<code>obs["pyroscvi_cluster"]</code>, the graph of neighbours where scanpy looks for it</dd>
<dt>script.py</dt><dd>the same steps in Python, to edit and to run</dd>
<dt>markers.csv, changes.csv</dt><dd>every gene in every comparison, with intervals and error rates</dd>
<dt>fit.safetensors, genes.txt</dt><dd>the fit, <code>ps.load(...)</code>, and its genes</dd>
<dt>fits/</dt><dd>the fits that were compared, which the same command uses again</dd></dl>"""


def answer(analysis: "Analysis") -> list[str]:
    """The results in a few sentences, each with how sure it is."""
    sizes = analysis.adata.obs[CLUSTER].value_counts()
    sentences = [
        f"{len(sizes)} clusters of {sizes.min():,} to {sizes.max():,} cells."
        if len(sizes) > 1
        else "All cells are one cluster."
    ]
    if alike := analysis.stability:
        mean, spread = np.mean(alike), np.std(alike, ddof=1) if len(alike) > 1 else np.nan
        known = f" ± {spread:.2f} between pairs of seeds" if np.isfinite(spread) else ""
        verdict = (
            "They hardly depend on the seed" if mean >= STABLE else "They depend on the seed: trust the large ones"
        )
        sentences.append(
            f"{verdict} (adjusted Rand index of two fits {mean:.2f}{known}; 1 would be the same clusters)."
        )
    else:
        sentences.append("How much they depend on the seed is not known: there was no time for a second fit.")
    for name, one in analysis.agreements.items():
        sentences.append(
            f"They agree with {name} with an adjusted Rand index of {one.rand_index:.2f} ± {one.standard_error:.2f} "
            "(standard error over cells)."
        )
    if len(analysis.markers):
        higher = best_markers(analysis.markers, 10**6).groupby("group")["gene"].size()
        fewest, most = higher.min() if len(higher) == len(sizes) else 0, higher.max() if len(higher) else 0
        sentences.append(
            f"{fewest:,} to {most:,} genes are higher in a cluster than in all others, with an expected share of false "
            "discoveries of 5%."
        )
    if analysis.fit.converged is False:
        sentences.append("The fit has not converged: give it more minutes.")
    return [" ".join(sentences)]


def _cells(analysis: "Analysis") -> Iterator[str]:
    adata, inspection = analysis.adata, analysis.inspection
    columns = {"label": inspection.label, "batch": inspection.fields["batch"], "condition": inspection.condition}
    groups = {
        "cluster": adata.obs[CLUSTER],
        **{f"{role}: {name}": adata.obs[name] for role, name in columns.items() if name is not None},
        "log10 counts of a cell": np.log10(np.maximum(analysis.cells.library.cpu().numpy().ravel(), 1)),
    }
    yield "<h2>Cells</h2>" + figure(
        coloured(adata.obsm["X_umap"], groups),
        "UMAP of the latent space: near cells are alike; distances between groups, and their sizes, have no meaning.",
    )
    keys = (inspection.fields.get("spatial"), "spatial", "X_spatial")
    place = next((key for key in keys if key in adata.obsm), None)
    if place is not None:
        section = inspection.fields.get("section")
        drawn = tissue(adata.obsm[place], adata.obs[CLUSTER], None if section is None else adata.obs[section])
        yield figure(drawn, "Clusters on the tissue.")
    if inspection.label is not None:
        shares = pd.crosstab(adata.obs[CLUSTER], adata.obs[inspection.label], normalize="index")
        sizes = adata.obs[CLUSTER].value_counts()[shares.index]
        table = pd.DataFrame({"cluster": shares.index.astype(str), "cells": sizes,
                              f"most frequent {inspection.label}": shares.idxmax(axis=1).astype(str),
                              "share": shares.max(axis=1)})  # fmt: skip
        yield f"<h3>Clusters and {safe(inspection.label)}</h3>" + rows(
            table, {"share": "{:.0%}".format, "cells": "{:,}".format}
        )


def _markers(analysis: "Analysis") -> Iterator[str]:
    if not len(analysis.markers):
        return
    best = best_markers(analysis.markers)
    yield "<h2>Marker genes</h2>"
    if len(best):
        yield figure(
            heatmap(analysis.markers), "The best marker genes of every cluster, and how they change elsewhere."
        )
    yield paragraphs([_tested_how(analysis.markers) + (
        " The clusters were found in the same cells, so that some difference between them is certain: intervals say "
        "how large it is, and not whether the cluster exists."
    )])  # fmt: skip
    yield _table(best.head(MAX_ROWS), {"group": "cluster"}, "rate elsewhere")


def _changes(analysis: "Analysis") -> Iterator[str]:
    table, condition, adata = analysis.changes, analysis.inspection.condition, analysis.adata
    if table is None or not len(table):
        return
    reference = str(table["reference"].iloc[0])
    yield f"<h2>Changes with {safe(condition)}</h2>" + paragraphs(
        [f"Each level is compared with {reference}, within each cluster. {_tested_how(table)}{_apart(table, adata)}"]
    )
    table = table.sort_values("within", key=in_order, kind="stable")
    called = table[table["changed"]].groupby(["within", "group"], sort=False).head(3)
    drawn = draw_changes(table.assign(within="cluster " + table["within"].astype(str)))
    yield figure(drawn, "Every gene: its change, and how many standard errors that is from zero.")
    yield _table(called.head(MAX_ROWS), {"within": "cluster", "group": str(condition)}, f"rate in {reference}")


def _apart(table: pd.DataFrame, adata: AnnData) -> str:
    """A sentence about clusters that have cells of one level only."""
    tested, every = table["within"].nunique(), adata.obs[CLUSTER].nunique()
    if tested == every:
        return ""
    remedy = either("fit.differential(..., within=...)", "pyroscvi de --within")
    return f" Only {tested} of {every} clusters have cells of two levels. Compare within types instead: {remedy}."


def _components(analysis: "Analysis") -> Iterator[str]:
    """The components of a mixture prior, where one was chosen."""
    if "Mixture(" in repr(analysis.choice.model):
        groups = {"cluster": analysis.adata.obs[CLUSTER]}
        yield from of_components(analysis.fit, analysis.cells, analysis.adata.obsm["X_umap"], groups)


def _tested_how(table: pd.DataFrame) -> str:
    donors = int(table["donors"].max())
    unit = f"Donors are the unit, up to {donors} in a comparison." if donors else (
        "No donors were named, so cells are the unit: intervals hold for more cells of the same donors, and are "
        "too narrow for other donors."
    )  # fmt: skip
    return (
        f"{int(table['changed'].sum()):,} of {len(table):,} tests are called changes, with an expected share of false "
        f"discoveries of 5%. Intervals, from low to high, contain the log2 change with a probability of 90%. {unit} "
        f"Rates are counts of the gene in {RATE_UNIT:,} counts of a cell."
    )


def _table(table: pd.DataFrame, first: dict[str, str], other: str) -> str:
    """Rows of tests; ``first`` has headers of the columns before the gene, and ``other`` is that of the last column."""
    headers = {**first, **HEADERS, "rate_group": "rate", "rate_reference": other}
    formats = {headers.get(name, name): partial(number, name) for name in SHOWN[1:]}
    return rows(table[[*first, *SHOWN]].rename(columns=headers), formats)


def _model(analysis: "Analysis") -> Iterator[str]:
    choice, fit = analysis.choice, analysis.fit
    yield "<h2>How the model was chosen</h2>" + bullets([*choice.notes, analysis.took])
    for stage, result in choice.comparisons.items():
        yield f"<h3>{safe(stage.capitalize())}</h3>" + html.summary(result)
        if len(result.table) > 1:
            yield figure(result.plot(), "Differences to the best fit, with their 95% intervals.")
    yield "<h2>The fit</h2>" + f"<p><code>{safe(choice.model)}</code><br><code>{safe(choice.guide)}</code></p>"
    drawn = plots.history({"fit": fit.history}).figure
    yield figure(drawn, f"{fit.record['epochs']} epochs in {fit.record['seconds']:.0f} seconds.")  # type: ignore[arg-type]
