"""The steps of an analysis as a script, which runs as it is and can be edited."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroscvi.workflow.analyse import Analysis

TEXT = '''"""The steps of `pyroscvi analyse`, to edit and to run: python script.py"""

from pathlib import Path

import numpy as np
import scanpy as sc

import pyroscvi as ps
{imports}

HERE = Path(__file__).parent
CHOOSE = False  # True: fit and compare the candidates anew

# The cells: where counts, batches and coordinates are.
adata = ps.read({data!r}){raw}
genes = (HERE / "genes.txt").read_text().split("\\n")[:-1]
cells = ps.Fields({fields}genes=genes).read(adata, empty="drop")
adata = adata[np.isin(adata.obs_names, cells.names)].copy()

# The model: which of these explains held-out cells best?
if CHOOSE:
    seen, held_out = cells.split(0.1, by={by!r}, seed={seed})
    declared = ps.grid({start}, {guide}, likelihood=[NB(), ZINB(), Poisson()], latent=[5, 10, 20])
    fits = ps.sweep(declared, seen, seeds=3, folder=HERE / "fits")
    print(ps.compare(fits, held_out))

# The fit of the chosen one to all cells.
fit = ps.fit({model}, {guide}, cells, epochs={epochs}, seed={seed}, compile={compile!r})
print(fit, "converged:", fit.converged)

# Latents, clusters and UMAP, where scanpy looks for them.
adata.obsm["X_pyroscvi"] = fit.latent(cells)
sc.pp.neighbors(adata, n_neighbors={neighbours}, use_rep="X_pyroscvi", random_state={seed})
sc.tl.leiden(adata, {resolution}, flavor="igraph", n_iterations=2, directed=False, random_state={seed},
             key_added="pyroscvi_cluster")
sc.tl.umap(adata, random_state={seed})
{denoised}
# Marker genes of every cluster, with the share of false discoveries.
markers = fit.differential(cells, adata.obs["pyroscvi_cluster"]{donor})
print(markers[markers["changed"] & (markers["log2_fold_change"] > 0)].groupby("group", sort=False).head(5))
{condition}
adata.write_h5ad(HERE / "from_script.h5ad")
'''
DENOISED = """
# Posterior mean rates of the genes that were used.
adata = adata[:, genes].copy()
adata.layers["denoised"] = fit.denoise(cells)
"""
CONDITION = """
# Genes that differ between conditions, within clusters.
changes = fit.differential(
    cells, adata.obs[{condition!r}], reference={reference!r}, within=adata.obs["pyroscvi_cluster"]{donor}
)
print(changes[changes["changed"]])
"""


def script(analysis: "Analysis") -> str:
    """Python code of the same steps."""
    inspection, settings, choice = analysis.inspection, analysis.settings, analysis.choice
    donor = f", donor=adata.obs[{inspection.donor!r}]" if inspection.donor and _by_donor(analysis) else ""
    condition = ""
    if analysis.changes is not None and len(analysis.changes):
        reference = analysis.changes["reference"].iloc[0]
        condition = CONDITION.format(condition=inspection.condition, reference=reference, donor=donor)
    fields = "".join(f"{name}={value!r}, " for name, value in inspection.fields.items() if value is not None)
    imports = _imports(f"{choice.model!r} {choice.guide!r} SCVI() LatentSize() NB() ZINB() Poisson()")
    return TEXT.format(imports=imports,
        data=str(settings["data"] or "cells.h5ad"), raw=".raw.to_adata()" if inspection.from_raw else "", fields=fields,
        by=None if analysis.cells.batch is None else "batch", seed=settings["seed"], model=repr(choice.model),
        start="SCVI(size=LatentSize())", guide=repr(choice.guide), epochs=analysis.fit.record["epochs"],
        compile=choice.how["compile"], donor=donor,
        neighbours=_neighbours(analysis.adata.uns["neighbors"]["params"]), resolution=settings["resolution"],
        denoised=DENOISED if settings["denoised"] else "", condition=condition,
    )  # fmt: skip


def _imports(code: str) -> str:
    """The lines that import the models, guides and parts whose names are in this code."""
    from pyroscvi import guides, models, parts

    used = set(re.findall(r"\b([A-Z]\w*)\(", code))
    rooms = {room: sorted(used & set(module.__all__)) for room, module in
             {"guides": guides, "models": models, "parts": parts}.items()}  # fmt: skip
    return "\n".join(f"from pyroscvi.{room} import {', '.join(names)}" for room, names in rooms.items() if names)


def _neighbours(parameters: dict) -> int:
    return int(parameters["n_neighbors"])


def _by_donor(analysis: "Analysis") -> bool:
    tables: Sequence = [table for table in (analysis.markers, analysis.changes) if table is not None and len(table)]
    return all((table["donors"] > 0).all() for table in tables)
