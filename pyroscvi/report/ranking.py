"""A comparison as ArviZ knows one: the table of ``az.compare``, for ``az.plot_compare`` and whatever else reads it.

    az.plot_compare(ranking(ps.compare(fits, held_out)))

ArviZ makes this table by PSIS-LOO from likelihoods that are conditional on parameters. Given the latents of a cell that
is no estimate of anything here (``report.inference_data``), and what is compared was held out in truth: under the names
of ArviZ stand sums over cells of held-out log evidence.
"""

import numpy as np
import pandas as pd

from pyroscvi.report.arviz_versions import first_generation

__all__ = ["ranking"]


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``az.compare`` in the installed ArviZ, from a table of ``compare``.

    rank       0 is the best
    elpd_loo   held-out log evidence, in nats over all cells, the mean over seeds (ArviZ 1.x calls it elpd)
    p_loo      NaN: nothing was left in, and so there is no effective number of parameters
    elpd_diff  the best less this one, and so not negative
    weight     of stacking
    se         of elpd_loo, over cells
    dse        of elpd_diff: the standard error of the comparison, with clusters and refits where there are any
    warning    is there a cell whose importance weights have a heavy tail?
    scale      "log"
    """
    log_p = np.column_stack([table.attrs["log_evidence"][name] for name in table.index])
    n = len(log_p)
    elpd, p = ("elpd_loo", "p_loo") if first_generation() else ("elpd", "p")
    return pd.DataFrame(
        {
            "rank": np.arange(len(table)),
            elpd: log_p.sum(0),
            p: np.nan,
            "elpd_diff": (log_p[:, :1] - log_p).sum(0),
            "weight": table["weight"].to_numpy(),
            "se": np.sqrt(n * log_p.var(0, ddof=1)) if n > 1 else np.nan,
            "dse": n * table["standard_error"].to_numpy(),
            "warning": (table["heavy_tailed"] > 0).to_numpy(),
            "scale": "log",
        },
        index=pd.Index([str(name) for name in table.index]),
    )
