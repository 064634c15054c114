"""The command line with odd arguments and odd files: it works, or says in one line what is wrong."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from anndata import AnnData
from scipy import sparse

import pyroscvi as ps
from pyroscvi.cli import main

from .runner import Outcome, isolated

__all__ = ["command_lines"]

TAIL = "--epochs 1 --latent 2 --out run"
OPTIONS = (
    """
--latent 0|--latent -3|--latent 1e3|--epochs 0|--epochs -1|--lr nan|--lr inf|--lr 0|--lr 1e30|--batch-size 0
--batch-size 1|--batch-size 99999999999999999999|--held-out 1|--held-out 0|--held-out nan|--held-out 1e-9
--hvg 0|--hvg 1|--hvg 999|--seed -1|--seed 18446744073709551616|--seed 1.5|--counts nosuch|--batch nosuch
--batch size|--label size|--covariate cell_type|--size-factor cell_type|--spatial nosuch|--guide spatial_gnn
--section cell_type|--likelihood nb:|--likelihood nb:(|--likelihood __import__|--prior mixture:0
--prior mixture:-1|--prior mixture:abc|--prior vamp:0|--decoder mlp:0|--decoder mlp:8:dropout=2
--decoder mlp:8:norm=nosuch|--condition one_hot:nosuch|--encoder read_cell:0|--model nosuch|--model mean_field
--guide scvi|--model ./nosuch.py|--model cells.h5ad|--model annotated|--model gmvae:kinds=0
--dispersion per_label|--dispersion nosuch|--warmup 2|--warmup nan|--device nosuch|--stop-by nosuch
--category cell_type|--model ./broken.py|--model ./exits.py|--model ./syntax.py
--unlabelled type0 --label cell_type|--belief nosuch|--nosuch|extra|--likelihood nb|--batch batch
--prior mixture:2|--hvg 5|--backed
""".strip()
    .replace("\n", "|")
    .split("|")
)
OTHERS = (
    """
embed nosuch cells.h5ad --out e.h5ad|embed broken cells.h5ad --out e.h5ad|embed . cells.h5ad --out e.h5ad
compare nosuch --data cells.h5ad|compare broken --data cells.h5ad|compare|compare cells.h5ad|calibrate broken
calibrate cells.h5ad|show nosuch|show ../../etc/passwd|show|copy scvi broken.py|copy ../x y.py|list x|nosuch
fit|demo --epochs 0|embed x|compare cells.h5ad --latent 0 --out s
""".strip()
    .replace("\n", "|")
    .split("|")
)
PAGES = {"broken": "raise RuntimeError('from the page')", "exits": "import sys; sys.exit(7)", "syntax": "def ("}


def _count(value: float) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        counts = adata.X.toarray()
        counts[0, 0] = value
        adata.X = sparse.csr_matrix(counts)

    return change


FILES: dict[str, Callable[[AnnData], None]] = {
    "cells": lambda adata: None,
    **{f"with {value}": _count(value) for value in (np.nan, np.inf, -1.0, 0.5, 1e7)},
    "one name": lambda adata: setattr(adata, "obs_names", ["cell"] * adata.n_obs),
    "few": lambda adata: adata._inplace_subset_obs(slice(2)),
    "none": lambda adata: adata._inplace_subset_obs(slice(0)),
}
LINES = [
    *(("cells", f"fit cells.h5ad {TAIL} {option}") for option in OPTIONS),
    *(("cells", line) for line in OTHERS),
    *((name, f"fit cells.h5ad {TAIL} {option}") for name in FILES for option in ("", "--hvg 5", "--backed")),
]


def command_lines(seed: int) -> Outcome:
    """One command line, in a folder and a process of its own."""
    name, line = LINES[seed % len(LINES)]
    return isolated(lambda: _command(name, line), f"{line} ({name})")


def _command(name: str, line: str) -> Outcome:
    what = f"{line} ({name})"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        adata = ps.data.simulated(40, 12)
        FILES[name](adata)
        adata.write_h5ad("cells.h5ad")
        for page, text in PAGES.items():
            Path(f"{page}.py").write_text(text)
        Path("broken").mkdir()
        Path("broken/configuration.json").write_text("[]")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(line.split())
    lines = [row for row in err.getvalue().splitlines() if row.startswith("pyroscvi:") and "warning:" not in row]
    if status == 0:
        return Outcome("accepted wrongly" if name.startswith("with") and "1000" not in name else "right", what)
    inside = "Traceback" in err.getvalue() + out.getvalue() or "PYROSCVI_TRACEBACK" in err.getvalue()
    if inside or (len(lines) != 1 and line != "show"):
        return Outcome("raised from inside", what, err.getvalue()[-300:])
    return Outcome("refused in words", what, lines[0] if lines else "")
