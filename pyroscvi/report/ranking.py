"""A comparison as ArviZ knows one: the table of ``az.compare``, for ``az.plot_compare`` and whatever else reads it.

    az.plot_compare(ranking(ps.compare(fits, held_out)))

ArviZ makes this table by PSIS-LOO from likelihoods that are conditional on parameters. Given the latents of a cell that
is no estimate of anything here (``report.inference_data``), and what is compared was held out in truth: under the names
of ArviZ stand sums over cells of held-out log evidence.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm

from pyroscvi.report.arviz_versions import first_generation

if TYPE_CHECKING:
    from pyroscvi.comparison.result import Comparison


def ranking(comparison: "Comparison") -> pd.DataFrame:
    """The columns of ``az.compare`` in the installed ArviZ, from a table of ``compare``.

    rank       0 is the best
    elpd       held-out log evidence, in nats over all cells, the mean over seeds (elpd_loo in ArviZ 0.x)
    p          NaN: no effective number of parameters is estimated (p_loo in 0.x)
    elpd_diff  this fit less the best, and so not positive (in 0.x the best less this fit, and so not negative)
    weight     of stacking
    se         standard error of elpd, over cells
    dse        standard error of elpd_diff, over cells or clusters, and over seeds where there are several
    warning    0.x: does any cell have importance weights with a heavy tail?
    scale      0.x: "log"
    p_worse    1.x: probability of being worse than the best, if elpd_diff is normally distributed; NaN for the best
    diag_diff  1.x: why p_worse may be wrong: "undecided" (one seed, or not converged: not a value of ArviZ's own),
               "N < 100" cells, or "|elpd_diff| < 4"; empty where none holds
    diag_elpd  1.x: share of the cells whose importance weights have a heavy tail; empty where there are none
    """
    table = comparison.table
    log_p = np.column_stack([comparison.by_cell["log_evidence", name] for name in table.index])
    n = len(log_p)
    difference, dse = (log_p - log_p[:, :1]).sum(0), n * table["standard_error"].to_numpy()
    heavy = table["heavy_tailed"].to_numpy()
    ranked = pd.DataFrame(
        {
            "rank": np.arange(len(table)),
            "elpd": log_p.sum(0),
            "p": np.nan,
            "elpd_diff": difference,
            "weight": table["weight"].to_numpy(),
            "se": np.sqrt(n * log_p.var(0, ddof=1)) if n > 1 else np.nan,
            "dse": dse,
        },
        index=pd.Index([str(name) for name in table.index]),
    )
    if first_generation():
        ranked["elpd_diff"] = 0.0 - difference  # not -0.0 for the best
        return ranked.rename(columns={"elpd": "elpd_loo", "p": "p_loo"}).assign(warning=heavy > 0, scale="log")
    unsure = "N < 100" if n < 100 else "|elpd_diff| < 4"
    diagnosis = np.where((difference != 0) & ((n < 100) | (np.abs(difference) < 4)), unsure, "")
    return ranked.assign(
        p_worse=np.where(difference == 0, np.nan, norm.cdf(0, difference, dse + 1e-12)),
        diag_diff=np.where(table["verdict"] == "undecided", "undecided", diagnosis),
        diag_elpd=[f"{share:.0%} k-hat > 0.7" if share > 0 else "" for share in heavy],
    )
