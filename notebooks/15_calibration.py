# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15. Calibration by simulation
#
# A posterior says "the rate lies between 2 and 5 with probability 90%". Is it true in 90% of such cases? For real data
# nobody knows the rate. But the *model* can simulate cells whose latents are known. This chapter derives the test,
# passes it with an exact posterior, and builds three wrong posteriors. One of them passes all tests but one.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import chi2, nbinom, poisson

rng = np.random.default_rng(15)

# %% [markdown]
# ## Why ranks are uniform
#
# Draw a latent from the prior, $z \sim p(z)$, then counts $x \sim p(x \mid z)$. The pair $(z, x)$ is a draw of the
# joint
# distribution. So, given $x$, the latent $z$ is a draw of the *posterior* $p(z \mid x)$. Now draw $L$ more from it,
# $z_1, \dots, z_L \sim p(z \mid x)$. All $L + 1$ numbers come from the same distribution. So the **rank** of $z$, the
# number of $z_i$ below it, takes each value $0, \dots, L$ with probability $1/(L+1)$. The same is true for the rank of
# $f(z, x)$ among $f(z_i, x)$, for *every* function $f$ [Cook et al., 2006; Talts et al., 2018].
#
# If $q$ takes the place of the posterior and ranks are not uniform, then $q$ is wrong. The shape tells how. Too many
# small and large ranks: $q$ is too narrow. Too few: too wide. A slope: shifted.
#
# ## An exact posterior
#
# The rates of five genes in a cell are $z_g \sim \text{Gamma}(\theta, \theta/\mu)$ and the counts
# $x_g \sim \text{Poisson}(z_g)$. The posterior is $\text{Gamma}(x_g + \theta,\; 1 + \theta/\mu)$ (chapter 4). We
# test four
# guides: the posterior itself; one with half its standard deviation; one shifted; and the *prior*, which ignores the
# cell.

# %%
theta, mu, genes, L, simulations = 2.0, 4.0, 5, 19, 3000


def gamma_draws(mean, variance):
    """L draws of Gamma distributions with these means and variances [L, simulations, genes]."""
    return rng.gamma(mean**2 / variance, variance / mean, (L, *np.shape(mean)))


z = rng.gamma(theta, mu / theta, (simulations, genes))
x = rng.poisson(z)
mean, variance = (x + theta) / (1 + theta / mu), (x + theta) / (1 + theta / mu) ** 2
guides = {
    "exact": gamma_draws(mean, variance),
    "too narrow": gamma_draws(mean, variance / 4),
    "shifted": gamma_draws(1.15 * mean, variance),
    "the prior": rng.gamma(theta, mu / theta, (L, simulations, genes)),
}


def rank(truth, draws):
    """The rank of the truth among its draws: 0 to L."""
    return (draws < truth).sum(0)


def p_value(ranks):
    """Of the chi-square test that ranks are uniform."""
    seen = np.bincount(ranks, minlength=L + 1)
    expected = len(ranks) / (L + 1)
    return chi2.sf(((seen - expected) ** 2 / expected).sum(), L)


def log_likelihood(z):
    """log p(x | z) of every cell."""
    return poisson.logpmf(x, z).sum(-1)


ranks = {
    name: {"z_1": rank(z[:, 0], draws[..., 0]), "log p(x | z)": rank(log_likelihood(z), log_likelihood(draws))}
    for name, draws in guides.items()
}
p = {name: {quantity: p_value(r) for quantity, r in both.items()} for name, both in ranks.items()}
for name in guides:
    low, high = guides[name][..., 0].min(0), guides[name][..., 0].max(0)  # 18 of the 20 ranks lie between: 90%
    covered = np.mean((z[:, 0] > low) & (z[:, 0] < high))
    found = ", ".join(f"{quantity}: p = {value:.1e}" for quantity, value in p[name].items())
    print(f"{name:10s} {found}; 90% intervals cover {covered:.0%}")
assert min(p["exact"].values()) > 1e-3
assert p["too narrow"]["z_1"] < 1e-6 and p["shifted"]["z_1"] < 1e-6

# %% [markdown]
# ## Breaking it: the guide that ignores its data
#
# The prior passes the test of $z_1$: if $q$ is the prior, then $z$ and the $z_i$ come from one distribution again. It
# knows nothing of the cell, and the ranks of its latents are perfectly uniform. So are those of all functions of
# $z$ alone.

# %%
assert p["the prior"]["z_1"] > 1e-3
try:
    assert p["the prior"]["log p(x | z)"] > 1e-3, "the true z explains the cell better than draws of the prior do"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

figure, axes = plt.subplots(2, 4, figsize=(11, 4.2), layout="constrained", sharex=True, sharey="row")
band = simulations / (L + 1) + np.array([-3, 3]) * (simulations / (L + 1)) ** 0.5
for column, name in enumerate(guides):
    for row, (quantity, r) in enumerate(ranks[name].items()):
        axes[row, column].bar(
            np.arange(L + 1),
            np.bincount(r, minlength=L + 1),
            width=0.9,
            color="C0" if p[name][quantity] > 1e-3 else "C3",
        )
        axes[row, column].axhspan(*band, color="0.8", zorder=0)
    axes[0, column].set_title(name)
    axes[1, column].set_xlabel("rank")
axes[0, 0].set_ylabel("$z_1$")
axes[1, 0].set_ylabel(r"$\log p(x \mid z)$")
plt.show()

# %% [markdown]
# Columns are guides and rows are quantities; a red panel fails. The grey band is where 3 standard deviations of chance
# lie. **The likelihood must be among the tested quantities**: it is a function of $z$ *and* $x$, and catches a
# guide that
# does not look at $x$. `calibrate` always tests it.
#
# ## What calibration does not test
#
# The cells were simulated from the model. If the model is wrong about real cells, the test does not see it. The
# opposite
# check simulates cells from the fitted model and compares them with the *real* ones, by a statistic such as the
# number of zeros: a **predictive check**. Here, negative binomial counts, and a Poisson model.

# %%
real = nbinom.rvs(0.5, 0.5 / (0.5 + mu), size=400, random_state=rng)
replicated = rng.poisson(real.mean(), (500, 400))
zeros = (replicated == 0).mean(1)
print(
    f"zeros: {np.mean(real == 0):.2f} of the counts; the fitted Poisson predicts {zeros.min():.2f} to {zeros.max():.2f}"
)
assert np.mean(real == 0) > zeros.max() + 0.1

# %% [markdown]
# ## In the zoo
#
# `fit.calibrate(cells)` tests every latent, products of latents, and the likelihood, with the fitted decoder: for the
# guide, and for draws that importance resampling has corrected. Corrected draws pass,
# whatever the guide is.

# %%
import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import FullCovariance
from pyroscvi.models import PPCA

cells = ps.Fields().read(simulated(cells=200, genes=20, seed=1))
fit = ps.fit(PPCA(latent=2), FullCovariance(), cells, epochs=15, lr=2e-2, seed=0, progress=False)
result = fit.calibrate(cells, simulations=300, candidates=200, products=1)
print(result.corrected.table.round(3).to_string())
assert result.corrected.passes

# %% [markdown]
# ## Exercises
#
# 1. A guide is too wide by a factor of two. What do its ranks look like? Check it.
# 2. You test 50 quantities at the level 5%. How many fail by chance? What is the remedy?
#
# ### Solutions
#
# 1. They pile up in the middle: the truth is rarely among the extreme draws.
# 2. 2.5 on average. Divide the level by the number of tests (Bonferroni), or use Holm's method, as `calibrate` does.

# %%
wide = rank(z[:, 0], gamma_draws(mean, 4 * variance)[..., 0])
middle = np.mean((wide >= 5) & (wide < 15))
print(f"too wide: {middle:.0%} of the ranks lie in the middle half")
assert middle > 0.6
