"""A zoo of probabilistic programs, in Pyro, for single-cell and spatial counts.

A first session:

    import pyroscvi as ps
    from pyroscvi.models import SCVI
    from pyroscvi.guides import MeanField
    from pyroscvi.parts import NB

    cells = ps.Fields(counts="counts", batch="donor").read(adata)
    train, held_out = cells.split(0.1, by="batch", seed=0)
    fits = ps.sweep({"nb": (SCVI(likelihood=NB()), MeanField()), "zinb": (SCVI(), MeanField())}, train)
    print(ps.compare(fits, held_out))
    fits["nb"].latent(cells)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Torch alone takes seconds to import: names are looked up when they are first used (PEP 562).
_HOME = {
    "Cells": "data.cells", "Comparison": "comparison.result", "Fields": "data.fields", "Fit": "fitting.result",
    "analyse": "workflow.analyse", "calibrate": "calibration.simulation_based", "certify": "evidence.certificate",
    "coarse": "data.coarse", "combined": "data.coarse", "compare": "comparison.compare",
    "compare_genes": "comparison.genes", "create": "catalogue", "data_evidence": "evidence.data_evidence",
    "fit": "fitting.fit", "from_scvi": "interop", "grid": "comparison.sweep", "list_guides": "catalogue",
    "list_models": "catalogue", "load": "fitting.checkpoints", "log_evidence": "evidence.table",
    "predictive_check": "calibration.predictive", "read": "data.reading",
    "separated": "data.coarse", "signatures": "analysis.signatures", "sweep": "comparison.sweep",
}  # fmt: skip

__all__ = [
    "Cells", "Comparison", "Fields", "Fit", "analyse", "calibrate", "certify", "coarse", "combined", "compare",
    "compare_genes", "create", "data", "data_evidence", "distributions", "fit", "from_scvi", "grid", "guides",
    "handlers", "list_guides", "list_models", "load", "log_evidence", "models", "parts", "predictive_check", "read",
    "separated", "signatures", "sweep",
]  # fmt: skip

if TYPE_CHECKING:
    from pyroscvi import data, distributions, guides, handlers, models, parts
    from pyroscvi.analysis.signatures import signatures
    from pyroscvi.calibration.predictive import predictive_check
    from pyroscvi.calibration.simulation_based import calibrate
    from pyroscvi.catalogue import create, list_guides, list_models
    from pyroscvi.comparison.compare import compare
    from pyroscvi.comparison.genes import compare_genes
    from pyroscvi.comparison.result import Comparison
    from pyroscvi.comparison.sweep import grid, sweep
    from pyroscvi.data.cells import Cells
    from pyroscvi.data.coarse import coarse, combined, separated
    from pyroscvi.data.fields import Fields
    from pyroscvi.data.reading import read
    from pyroscvi.evidence.certificate import certify
    from pyroscvi.evidence.data_evidence import data_evidence
    from pyroscvi.evidence.table import log_evidence
    from pyroscvi.fitting.checkpoints import load
    from pyroscvi.fitting.fit import fit
    from pyroscvi.fitting.result import Fit
    from pyroscvi.interop import from_scvi
    from pyroscvi.workflow.analyse import analyse


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"pyroscvi.{_HOME[name]}"), name)
    if name in __all__:
        return import_module(f"pyroscvi.{name}")
    raise AttributeError(f"module 'pyroscvi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
