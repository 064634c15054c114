"""The global random generators and other global state, before and after every public function."""

import hashlib
import os
import pickle
import random
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyro
import sklearn  # noqa: F401  # its import sets KMP_INIT_AT_FORK and KMP_DUPLICATE_LIB_OK for its own OpenMP, on purpose
import torch

import pyroscvi as ps
from pyroscvi.data import highly_variable, simulated
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import ZINB, Mixture, VampPrior

from .runner import Outcome

__all__ = ["global_state"]


@cache
def _subjects() -> tuple[Any, ps.Cells, Any]:
    adata = simulated(80, 12, seed=1)
    cells = ps.Fields(batch="batch", label="cell_type").read(adata)
    return adata, cells, _fit(cells)


def _fit(cells: ps.Cells, guide: Any = None, **options: Any) -> Any:
    return ps.fit(SCVI(latent=2, **options), guide or MeanField(), cells, epochs=1, progress=False)


def _sized(cells: ps.Cells) -> None:
    with torch.random.fork_rng(devices=[]):  # parameters come from torch's generator: the docstring of sized says so
        MeanField().sized(SCVI(latent=2).sized(cells.dims), cells)


def _file(fitted: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(f"{folder}/fit")
        return ps.load(f"{folder}/fit")


CALLS: dict[str, Callable[[Any, ps.Cells, Any], Any]] = {
    "simulated": lambda adata, cells, fitted: simulated(20, 5),
    "highly_variable": lambda adata, cells, fitted: highly_variable(adata, 5),
    "read": lambda adata, cells, fitted: ps.Fields(batch="batch").read(adata),
    "split": lambda adata, cells, fitted: cells.split(0.2, by="batch"),
    "minibatches": lambda adata, cells, fitted: list(cells.minibatches(32)),
    "sized": lambda adata, cells, fitted: _sized(cells),
    "fit": lambda adata, cells, fitted: _fit(cells, likelihood=ZINB()),
    "fit of a mixture": lambda adata, cells, fitted: _fit(cells, FullCovariance(), prior=Mixture(components=2)),
    "fit of a VampPrior": lambda adata, cells, fitted: _fit(cells, prior=VampPrior(components=3)),
    "latent": lambda adata, cells, fitted: fitted.latent(cells, samples=3),
    "denoise": lambda adata, cells, fitted: fitted.denoise(cells),
    "generate": lambda adata, cells, fitted: fitted.generate(cells),
    "describe": lambda adata, cells, fitted: fitted.describe(cells),
    "log_evidence": lambda adata, cells, fitted: fitted.log_evidence(cells, particles=5, progress=False),
    "predictive_check": lambda adata, cells, fitted: fitted.predictive_check(cells),
    "calibrate": lambda adata, cells, fitted: fitted.calibrate(cells, simulations=5, draws=4),
    "save and load": lambda adata, cells, fitted: _file(fitted),
    "compare": lambda adata, cells, fitted: ps.compare({"a": fitted, "b": fitted}, cells, particles=5, progress=False),
    "repr": lambda adata, cells, fitted: (repr(fitted), fitted._repr_html_()),
}


def _state() -> dict[str, Any]:
    return {
        "torch's generator": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "numpy's generator": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "the environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "the parameter store": len(pyro.get_param_store()),
        "numpy's errors": str(np.geterr()),
        "warning filters": len(warnings.filters),
        "validation": torch.distributions.Distribution._validate_args,
    }


def global_state(seed: int) -> Outcome:
    """One public function, which must leave global state as it was."""
    what = list(CALLS)[seed % len(CALLS)]
    subjects = _subjects()
    before = _state()
    CALLS[what](*subjects)
    after = _state()
    changed = [name for name in before if before[name] != after[name]]
    return Outcome("accepted wrongly" if changed else "right", what, f"changed: {changed}" if changed else "")
