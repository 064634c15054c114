"""How good predicted effects are: counterfactual cells beside real cells under the same conditions.

Predictions of the cells of a group under other conditions, from its cells ``against`` them:

    fit             counterfactual cells of the fit
    no change       these cells as they are
    additive        these cells, moved by the mean change of the other groups in log space
    nearest         these cells, moved by the change of the group whose cells ``against`` are most like them
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist
from scipy.special import ndtri

from pyroscvi.analysis.baselines import baselines
from pyroscvi.analysis.effect import effect
from pyroscvi.analysis.generate import generate
from pyroscvi.analysis.groups import By, groups_of
from pyroscvi.analysis.unit_rates import RATE_UNIT
from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

MIN_RATE = 1.0  # per 10,000 counts: genes below it in both conditions have no change that could be measured
COMPONENTS, MAX_CELLS = 20, 1000  # of the energy distance


@alone
def effect_scores(
    fit: Fitted, cells: Cells | AnnData, given: Mapping[str, str], against: Mapping[str, str], by: By, *,
    level: float = 0.9, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Scores of predicted effects on real cells of both conditions, a row for each group and prediction.

    cells   real cells under ``given`` and ``against``, best those that the fit has not seen

    correlation      of predicted and real log2 changes of mean rates, over genes of one count in 10,000 at least
    error            root mean squared difference of these changes
    energy_distance  between predicted and real cells, in 20 principal components of log rates; 0 if they are alike
    coverage         share of genes whose real change lies in the interval of ``effect``, widened by sampling error
    """
    data, cells = cells, fit.read(cells)
    group = groups_of(data, cells, by, "by")
    is_given, is_against = (_under(fit, cells, levels) for levels in (given, against))
    sides = [(is_given & (group.codes == u), is_against & (group.codes == u)) for u in range(len(group.names))]
    both = [u for u, (real, start) in enumerate(sides) if min(real.sum(), start.sum()) > 2]
    if not both:
        raise ValueError(f"no group has cells under both {dict(given)} and {dict(against)}")
    share = _shares(cells.x.cpu().numpy())
    log = np.log1p(share)
    changes = {u: _change(*(share[side] for side in sides[u])) for u in both}
    shift = {u: np.subtract(*(log[side].mean(0) for side in sides[u])) for u in both}
    profile = {u: log[sides[u][1]].mean(0) for u in both}
    rows = []
    for u in both:
        real, start = sides[u]
        source = fit.read(cells.subset(np.flatnonzero(start)))
        table = effect(fit, source, given, against, level=level, seed=seed, progress=False).set_index("gene")
        table = table.loc[list(fit.genes)]
        made = generate(fit, source, given=given, seed=seed)
        true, error = changes[u]
        seen = (share[real].mean(0) > MIN_RATE) | (share[start].mean(0) > MIN_RATE)
        made_log = np.log1p(made / np.maximum(made.sum(1, keepdims=True), 1) * RATE_UNIT)
        predicted = {"fit": (table["log2_fold_change"].to_numpy(), made_log)}
        moved = baselines(shift, profile, u)
        for name, change in baselines({v: changes[v][0] for v in both}, profile, u).items():
            predicted[name] = change, np.maximum(log[start] + moved[name], 0)
        half = (table["high"] - table["low"]).to_numpy() / 2
        widened = np.sqrt(half**2 + (ndtri((1 + level) / 2) * error) ** 2)
        for name, (value, made_log) in predicted.items():
            rows.append(
                {
                    "group": group.names[u],
                    "prediction": name,
                    "correlation": np.corrcoef(value[seen], true[seen])[0, 1] if value[seen].std() > 0 else np.nan,
                    "error": np.sqrt(((value - true)[seen] ** 2).mean()),
                    "energy_distance": _energy_distance(made_log, log[real], seed),
                    "coverage": (np.abs(value - true) <= widened)[seen].mean() if name == "fit" else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _under(fit: Fitted, cells: Cells, levels: Mapping[str, str]) -> np.ndarray:
    """Whether each cell was observed under these levels [n]."""
    result = np.ones(len(cells), bool)
    for field, level in levels.items():
        if field not in cells.categories:
            raise KeyError(f"cells have no field {field!r} to score an effect of; they have {sorted(cells.categories)}")
        result &= cells.categories[field].cpu().numpy() == fit.levels[field].index(str(level))
    return result


def _shares(x: np.ndarray) -> np.ndarray:
    """Counts per 10,000 of the cell [n, g]."""
    return x / np.maximum(x.sum(1, keepdims=True), 1) * RATE_UNIT


def _change(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log2 ratio of mean rates, and its standard error by the delta method; half a count in 10,000 is added to both."""
    means = [rates.mean(0) + 0.5 for rates in (one, other)]
    error = [rates.std(0, ddof=1) / np.sqrt(len(rates)) / mean for rates, mean in zip((one, other), means, strict=True)]
    return np.log2(means[0] / means[1]), np.hypot(*error) / np.log(2)


def _energy_distance(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, in principal components of the real cells y."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    x, y = (cells[rng.permutation(len(cells))[:MAX_CELLS]] for cells in (x, y))
    pca = PCA(min(COMPONENTS, *y.shape), random_state=seed).fit(y)
    x, y = pca.transform(x), pca.transform(y)
    within = [cdist(a, a).sum() / max(len(a) * (len(a) - 1), 1) for a in (x, y)]
    return float(2 * cdist(x, y).mean() - sum(within))
