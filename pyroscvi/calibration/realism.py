"""How real generated counts are: generated cells beside real ones.

    print(realism(real, fit.generate(n=1000)))

The classifier two-sample test is the strictest: a classifier learns to separate real and generated cells, and is judged
on cells that it has not seen. An area of 0.5 means that it cannot, and 1 that it always can [Lopez-Paz & Oquab, 2017,
arXiv:1610.06545].
"""

import numpy as np
import pandas as pd

from pyroscvi.calibration.predictive import statistics

FOLDS = 5
COMPONENTS = 20  # of the classifier's input, beside single genes


def realism(real: np.ndarray, made: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Statistics of real [n, g] and generated counts [m, g]: their means, and how well they agree over genes or pairs.

    One row for each statistic: ``real``, ``generated``, their means, and ``agreement``, the correlation of their values
    over genes or pairs of genes (Spearman); statistics of cells have none. The last row is the area under the curve of
    the classifier.
    """
    if min(len(real), len(made)) < 2 * FOLDS:
        raise ValueError(f"a comparison of cells takes {2 * FOLDS} of each at least, not {len(real)} and {len(made)}")
    real, made = np.asarray(real, dtype=np.float64), np.asarray(made, dtype=np.float64)
    rows = {}
    for name, statistic in statistics(real).items():
        one, other = statistic(real), statistic(made)
        agreement = np.nan
        if len(one) == len(other) and "cell" not in name and "library" not in name:
            agreement = pd.Series(one).corr(pd.Series(other), method="spearman")
        rows[name] = {"real": one.mean(), "generated": other.mean(), "agreement": agreement}
    rows["classifier area"] = {"real": np.nan, "generated": classifier_area(real, made, seed), "agreement": np.nan}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="statistic")


def classifier_area(real: np.ndarray, made: np.ndarray, seed: int = 0) -> float:
    """Area under the curve of boosted trees that separate generated from real cells, on cells held out of them."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = np.log1p(np.concatenate([real, made]))
    parts = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(x)
    totals = np.column_stack([x.sum(1), (x > 0).sum(1)])
    genes = x[:, np.sort(np.argsort(-x.var(0), kind="stable")[:100])]
    is_made = np.repeat([0, 1], [len(real), len(made)])
    trees = HistGradientBoostingClassifier(max_iter=50, random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    features = np.column_stack([parts, totals, genes])
    p = cross_val_predict(trees, features, is_made, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_made, p))
