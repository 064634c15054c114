"""The difference of two models: its error over cells, clusters and seeds, its interval and its verdict."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from pyroscvi.comparison.paired import LEVEL, Paired, paired, standard_error, verdict
from pyroscvi.comparison.refits import Refitted
from pyroscvi.evidence.certificate import Certificate
from pyroscvi.evidence.table import Evidences


def refitted(log_evidence):
    """Fits with these log evidences [seeds, n], known without Monte Carlo error."""
    return Refitted([Evidences(pd.DataFrame({"log_evidence": row, "monte_carlo_se": 0.0})) for row in log_evidence])


def test_more_seeds_make_the_error_smaller():
    """For seeds of known spread, the standard error is the standard deviation of differences over many comparisons."""
    rng = np.random.default_rng(0)
    n, between, cells = 200, 0.3, 1.0

    def drawn(seeds):
        return refitted(rng.normal(0, between, (seeds, 1)) + rng.normal(0, cells, (seeds, n)))

    for seeds in (3, 12):
        rows = [paired(drawn(seeds), drawn(seeds)) for _ in range(600)]
        truth = np.std([row.difference for row in rows])
        assert truth == pytest.approx((2 * (between**2 + cells**2 / n) / seeds) ** 0.5, rel=0.1)
        error = np.sqrt(np.mean([row.standard_error**2 for row in rows]))
        assert error == pytest.approx(truth, rel=0.12)  # what seeds and cells make together is in both parts
        # Two standard errors of a normal distribution leave out 4.6%, and with three seeds they would leave out more.
        outside = np.mean([abs(row.difference) > row.interval for row in rows])
        assert 0.02 < outside < 0.065
        if seeds == 3:
            assert np.mean([abs(row.difference) > 2 * row.standard_error for row in rows]) > 0.07


def test_another_set_of_seeds_hardly_ever_reverses_a_verdict():
    """Two equal models whose seeds differ by more than their cells: what two sets of three seeds say of them."""
    rng = np.random.default_rng(1)
    cells = rng.normal(0, 0.5, (2, 100))  # the same cells whatever the seeds

    def says():
        one, other = (
            refitted(row + rng.normal(0, spread, (3, 1))) for row, spread in zip(cells, (3.0, 1.0), strict=True)
        )
        difference = paired(one, other)
        sign = np.sign(difference.difference)
        cells_alone = abs(difference.difference) > 2 * difference.over_cells
        return sign * (verdict(difference, 100) == "told apart"), sign * cells_alone

    verdicts, without_seeds = np.array([[says(), says()] for _ in range(200)]).transpose(2, 0, 1)
    assert (verdicts != 0).mean() < 0.08
    assert (verdicts.prod(1) < 0).mean() <= 0.01
    assert (without_seeds.prod(1) < 0).mean() > 0.3  # errors over cells alone


def test_the_interval_is_that_of_welch_and_satterthwaite():
    """Against scipy's test of two samples with unequal variances, where cells add no error of their own."""
    a, b = [1.0, 2.0, 4.0], [0.0, 0.5, -1.0, 0.3]
    one, other = (refitted(np.array([seeds, seeds]).T) for seeds in (a, b))
    exact = ttest_ind(a, b, equal_var=False).confidence_interval(1 - LEVEL)
    difference = paired(one, other)
    assert difference.difference - difference.interval == pytest.approx(exact.low)
    assert difference.difference + difference.interval == pytest.approx(exact.high)


def test_the_weakest_certificate_of_the_seeds_is_shown():
    def table(*words, gap=None):
        certificate = None if gap is None else Certificate(gap, 0.0, gap, 64, "importance")
        return Evidences(pd.DataFrame({"log_evidence": 0.0, "certificate": words}), certificate)

    narrow, wide = (table("exact", f"certified (gap {gap})", gap=gap) for gap in (0.01, 0.09))
    loose = table("uncertified (gap 0.08)", "exact", gap=0.08)
    assert Refitted([wide, narrow]).certificate == "certified (gap 0.09)"
    assert Refitted([wide, loose, narrow]).certificate == "uncertified (gap 0.08)"
    assert Refitted([table("exact"), table("exact")]).certificate == "exact"
    assert Refitted([table("uncertified"), table("uncertified")]).certificate == "uncertified"


def test_an_error_over_clusters_contains_a_donor_effect():
    """First with half of the variance between six donors, then with differences that do not depend on the donor."""
    rng = np.random.default_rng(0)
    donor = np.arange(600) % 6
    shared = rng.normal(size=6)[donor] + rng.normal(size=600)
    over_cells, over_donors = standard_error(shared), standard_error(shared, donor)
    assert over_donors > 3 * over_cells
    truth = np.std([rng.normal(size=6)[donor].mean() + rng.normal(size=600).mean() for _ in range(400)])
    assert 0.4 < over_donors / truth < 1.6
    alone = rng.normal(size=600)
    assert standard_error(alone, donor) == pytest.approx(standard_error(alone), rel=0.8)


def test_an_error_over_one_cell_or_cluster_is_nan():
    assert np.isnan(standard_error(np.array([3.0])))
    assert np.isnan(standard_error(np.arange(4.0), np.zeros(4, dtype=int)))


def test_verdicts_of_differences():
    assert verdict(Paired(0.04, interval=0.039), 100) == "told apart"
    assert verdict(Paired(-0.04, interval=0.039), 100) == "told apart"
    assert verdict(Paired(0.0399, interval=0.002), 100) == "indistinguishable"  # 3.99 nats in total
    assert verdict(Paired(0.04, interval=0.041), 100) == "indistinguishable"  # inside its interval
    assert verdict(Paired(1.0, interval=np.nan), 100) == "indistinguishable"  # its error is unknown
