"""Abundance: which types of cells become more or less frequent between conditions, and how sure that is.

    fit.abundance(adata, "condition", donor="donor", reference="ctrl")

The unit is the donor. Of its N_d cells, n_d are of a type:

    n_d ~ Binomial(N_d, sigmoid(m_c + e_d)),   e_d ~ Normal(0, s^2),   b = m_group - m_reference

e_d is how far the donor departs from its condition c. If two donors or more are in both conditions, each is compared
with itself, and s is the standard deviation of their changes. The likelihood of b is computed on a grid, with m and e
integrated out. The priors of b and s are mixtures whose weights are estimated from all types [Stephens, 2017; the
reference is in ``shrinkage``], with prior weight on no change.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import gaussian_filter1d
from scipy.special import log_expit, ndtr

from pyroscvi.analysis.annotate import annotate
from pyroscvi.analysis.groups import REST, By, groups_of, wanted
from pyroscvi.analysis.shrinkage import expected_false_discoveries
from pyroscvi.data.cells import Cells
from pyroscvi.names import listed
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

STEP, REACH, FINER = 0.05, 12.0, 5  # of the grid of logits; each point is a mean over so many finer ones
LOGITS = np.arange(-REACH, REACH + STEP / 2, STEP)
CHANGES = np.arange(-2 * REACH, 2 * REACH + STEP / 2, STEP)
EDGES = np.append(CHANGES - STEP / 2, CHANGES[-1] + STEP / 2)
BETWEEN = 0.1 * np.sqrt(2) ** np.arange(10)  # s: donors vary by a tenth at least
EFFECTS = np.array([0.1, 0.4, 1.0, 2.5])  # standard deviations of b; the first is as good as no change
NULL, SPREAD = 1.0, 1.0  # prior observations of no change, and of each s


@alone
def abundance(
    fit: Fitted, cells: Cells | AnnData, groupby: By, groups: str | Sequence[str] | None = None,
    reference: str = REST, *, donor: By, types: By | None = None, against: str | None = None, delta: float = 0.25,
    fdr: float = 0.05, level: float = 0.9, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Types of cells whose share changes between groups of donors, such as conditions; the best evidence first.

    groupby    what makes the groups: a column of obs, a field of the fit, or one value for each cell
    groups     names of the groups to compare with the reference; None takes every group
    reference  the name of a group, or "rest": all other cells
    donor      column, field or values: the donor of each cell
    types      column, field or values: the type of each cell. None sums the probabilities of the types of the fit
    against    a type that is taken as constant. Shares add up to one: if one type grows, the others shrink. None
               compares each type with all other cells
    delta      a change of the log2 odds up to this size is none
    fdr        expected share of false discoveries among the types that are called ``changed``
    level      probability of the interval from ``low`` to ``high``

    One row for each comparison and type: group, reference, type, and

    log2_odds_ratio  posterior mean of log2 of the ratio of odds, group to reference, with its interval low, high
    p_change         posterior probability of a change beyond ``delta``
    expected_fdr     expected share of false discoveries if this type and all before it are called; changed: at most fdr
    share_group      mean share over donors, and ``share_reference``
    donors           number of donors; of pairs if each is compared with itself

    Raises ValueError where one donor in each group shows nothing of the variation between donors.
    """
    if delta < 0 or not 0 < level < 1 or not 0 < fdr < 1:
        raise ValueError("delta must not be negative, and level and fdr lie between 0 and 1")
    data, cells = cells, fit.read(cells)
    group, unit = groups_of(data, cells, groupby, "groupby"), groups_of(data, cells, donor, "donor")
    if types is None:
        p = annotate(fit, cells, unknown=0.0, seed=seed).probabilities
        member, names = p.to_numpy(), list(p)
    else:
        kind = groups_of(data, cells, types, "types")
        member, names = (kind.codes[:, None] == np.arange(len(kind.names))).astype(float), list(kind.names)
    if against is not None and against not in names:
        raise ValueError(f"there is no type {against!r} to compare with; there are {listed(names, 30)}")
    is_known = (group.codes >= 0) & (unit.codes >= 0) & (member.sum(1) > 0)
    tables = []
    for one, other in wanted(group, groups, reference):
        sides = (group.codes == one, group.codes == other if other is not None else group.codes != one)
        counts = [_by_donor(member[side & is_known], unit.codes[side & is_known], len(unit.names)) for side in sides]
        what = {"group": group.names[one], "reference": REST if other is None else group.names[other]}
        if against is None:
            tables.append(_compared(what, names, counts, [n.sum(1, keepdims=True) for n in counts], delta, fdr, level))
            continue
        column = names.index(against)
        pairs = [np.delete(n, column, 1) for n in counts]
        totals = [rest + n[:, [column]] for rest, n in zip(pairs, counts, strict=True)]
        tables.append(_compared(what, [name for name in names if name != against], pairs, totals, delta, fdr, level))
    if not tables:
        raise ValueError(f"there is no group to compare with {reference!r}: groups are {listed(group.names)}")
    return pd.concat(tables, ignore_index=True)


def _by_donor(member: np.ndarray, donor: np.ndarray, donors: int) -> np.ndarray:
    """Number of cells of every type of each donor [d, k]."""
    return (np.arange(donors)[:, None] == donor) @ member


def _compared(
    what: dict[str, str], names: Sequence[str], counts: list[np.ndarray], totals: list[np.ndarray], delta: float,
    fdr: float, level: float,
) -> pd.DataFrame:  # fmt: skip
    """The table of one comparison, from counts [d, k] and totals [d, 1 or k] of donors in the group and reference."""
    of_change, rows = _likelihood(counts, totals, " against ".join(what.values()))
    of_change /= of_change.max((1, 2), keepdims=True)
    p = _posterior(of_change)
    cumulative = np.column_stack([np.zeros(len(p)), p.cumsum(1)])
    d = delta * np.log(2)
    beyond = np.array([1 - np.interp(d, EDGES, one) + np.interp(-d, EDGES, one) for one in cumulative]).clip(0, 1)
    low, high = ([np.interp(q, one, EDGES) for one in cumulative] for q in ((1 - level) / 2, (1 + level) / 2))
    expected = expected_false_discoveries(beyond)
    shares = [
        (n[row] / np.maximum(total[row], 1e-9)).mean(0) for n, total, row in zip(counts, totals, rows, strict=True)
    ]
    table = pd.DataFrame(
        {
            **what,
            "type": list(names),
            "log2_odds_ratio": p @ CHANGES / np.log(2),
            "low": np.array(low) / np.log(2),
            "high": np.array(high) / np.log(2),
            "p_change": beyond,
            "expected_fdr": expected,
            "changed": (expected <= fdr) & (beyond > 0.5),
            "share_group": shares[0],
            "share_reference": shares[1],
            "donors": int((rows[0] | rows[1]).sum()),
        }
    )
    return table.sort_values("p_change", ascending=False, kind="stable")


def _likelihood(counts: list[np.ndarray], totals: list[np.ndarray], what: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The likelihood of the change b under every s [k, s, b], and which donors it is of, in group and reference."""
    rows = [total.sum(1) > 0 for total in totals]
    both = rows[0] & rows[1]
    if both.sum() > 1:
        one, other = (_of_donors(n[both], total[both]) for n, total in zip(counts, totals, strict=True))
        return _in_common(_correlated(one, other)), [both, both]
    if rows[0].sum() + rows[1].sum() < 3 or not (rows[0].any() and rows[1].any()):
        raise ValueError(f"{what}: one donor in each group at most, so nothing shows how much donors vary")
    sides = [_in_common(_of_donors(n[row], total[row])) for n, total, row in zip(counts, totals, rows, strict=True)]
    return _correlated(*sides), rows


def _of_donors(n: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The binomial likelihood of every donor at each logit of the share [k, d, m]."""
    fine = (np.arange(FINER) - (FINER - 1) / 2) * STEP / FINER
    logit = LOGITS[:, None] + fine
    n, rest = (value.T[..., None, None] for value in (n, total - n))
    log_p = n * log_expit(logit) + rest * log_expit(-logit)
    return np.exp(log_p - log_p.max((2, 3), keepdims=True)).mean(3)


def _in_common(of_donors: np.ndarray) -> np.ndarray:
    """The likelihood of the logit or change of all donors, under every s [k, s, points]; e is integrated out."""
    log_p = np.stack(
        [np.log(gaussian_filter1d(of_donors, s / STEP, mode="nearest", truncate=8) + 1e-300).sum(1) for s in BETWEEN],
        1,
    )
    return np.exp(log_p - log_p.max((1, 2), keepdims=True))


def _correlated(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The likelihood of the difference, from those of two logits: the sum over m of one(m + b) other(m)."""
    pairs = zip(one.reshape(-1, len(LOGITS)), other.reshape(-1, len(LOGITS)), strict=True)
    rows = [np.correlate(a, b, "full") for a, b in pairs]
    return np.reshape(rows, (*one.shape[:2], -1))


def _posterior(likelihood: np.ndarray) -> np.ndarray:
    """The posterior of the change of every type [k, b], with weights of both priors that all types agree on."""
    prior = np.diff(ndtr(EDGES / EFFECTS[:, None]), axis=1)
    by_prior = likelihood @ prior.T  # [k, s, effect]
    between, effect = np.full(len(BETWEEN), 1 / len(BETWEEN)), np.full(len(EFFECTS), 1 / len(EFFECTS))
    for _ in range(200):
        r = between[:, None] * effect * by_prior
        r = (r / r.sum((1, 2), keepdims=True)).sum(0)
        between = r.sum(1) + SPREAD
        effect = r.sum(0) + np.r_[NULL, np.zeros(len(EFFECTS) - 1)]
        between, effect = between / between.sum(), effect / effect.sum()
    p = np.einsum("s,ksb->kb", between, likelihood) * (effect @ prior)
    return p / p.sum(1, keepdims=True)
