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
# # 13. What evidence is
#
# A model with a latent state gives the probability of the counts of a cell *for a given state*, $p(x \mid z)$. Their
# probability under the model is the average over all states, weighted by the prior:
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz .$$
#
# This number is the **evidence** of a cell. Its logarithm, averaged over cells that were held out of the fit, shows
# which of two models predicts new cells better, and `compare` prints it. In general the integral has no closed form.
# This chapter estimates it for a model where it *has* one, so that we can see the error of every estimate.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Normal

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.proposals import GuideDraws
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import PPCA
from pyroscvi.parts import ReadCell

rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## A model whose evidence is known
#
# Probabilistic PCA of log counts $y = \log(1+x)$: the state is $z \sim N(0, I)$, and $y \sim N(Wz + c, \sigma^2 I)$. A
# sum of Gaussians is Gaussian, so $y$ has the density $N(c,\; WW^\top + \sigma^2 I)$. This is the evidence, a density
# of $y$. The posterior $p(z \mid y)$ is Gaussian too. The 100 cells below are samples from such a model, with 40 genes
# and four latents. The loadings of the four latents are similar, so that the posterior is strongly correlated.

# %%
n, g, d, sigma = 100, 40, 4, 0.5
W = 0.4 * (torch.randn(g, 1, generator=rng) + 0.4 * torch.randn(g, d, generator=rng))
z_true = torch.randn(n, d, generator=rng)
y = 4.0 + z_true @ W.T + sigma * torch.randn(n, g, generator=rng)
cells = Cells(y.expm1())

model = PPCA(latent=d).sized(cells.dims)
model.load_state_dict(
    {**model.state_dict(), "W": W, "c": torch.full((g,), 4.0), "log_sigma": torch.tensor(sigma).log()}
)
model.requires_grad_(False)  # the model that generated the cells; this chapter only needs guides
exact = model.log_evidence(cells.x).numpy()
print(f"exact evidence: {exact.mean():.3f} nats a cell")

# %% [markdown]
# ## Averaging over the prior
#
# The integral is an average over the prior. So we can sample $S$ states from the prior and average $p(y \mid z)$. The
# average is right in expectation. But for almost every state from the prior, this cell has a tiny probability, and a
# few rare states dominate the average. The *logarithm* of the average is too low, because the logarithm is concave.
# With four latents a thousand samples are not enough, and every further latent takes more.


# %%
def log_joint(z):
    """log p(y, z) of every cell, for states z [..., n, d]."""
    return Normal(z @ W.T + 4.0, sigma).log_prob(y).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)


def log_mean(log_w):
    """The logarithm of the average weight of every cell [n], for log weights [S, n]."""
    return (log_w.logsumexp(0) - np.log(len(log_w))).numpy()


z = torch.randn(1000, n, d, generator=rng)
log_p = log_joint(z) - Normal(0.0, 1.0).log_prob(z).sum(-1)
naive = {s: np.mean(log_mean(log_p[:s]) - exact) for s in (10, 100, 1000)}
for s, error in naive.items():
    print(f"{s:6d} samples from the prior: {error:+8.3f} nats a cell from exact")
assert naive[10] < -5 < naive[1000] < -0.05

# %% [markdown]
# ## Importance sampling
#
# A guide $q(z \mid x)$ approximates the posterior of the state of a cell. Sample states $z_s$ from it, and divide by
# the density with which it samples them. This gives the **weights**
#
# $$w_s = \frac{p(x \mid z_s)\,p(z_s)}{q(z_s \mid x)} .$$
#
# Their average is right in expectation, for every guide:
#
# $$\mathbb{E}_{q}[w] = \int p(x \mid z)\, p(z)\, dz = p(x) .$$
#
# This is importance sampling. If $q$ *is* the posterior, every weight equals $p(x)$: one sample is enough and there is
# no error. With one sample, the average of $\log w$ is the ELBO (chapter 4). The logarithm of the average of $S$
# weights is a tighter bound.
#
# We compare two guides: one with a full covariance, and one whose latents are independent (chapter 9). For this model
# the best guide of each family is known, and we write it into the weights of the guide's network. The precision of the
# posterior is $P = I + W^\top W/\sigma^2$. Both guides have the exact mean, $P^{-1} W^\top (y-c)/\sigma^2$. The full
# covariance is $P^{-1}$. The best independent guide has variances $1/P_{jj}$, which are never larger than those of the
# posterior.

# %%
precision = torch.eye(d) + W.T @ W / sigma**2
L = torch.linalg.cholesky(precision.inverse())
spread = {"mean field": precision.diag() ** -0.5, "full covariance": L.diag()}
to_mean = precision.inverse() @ W.T / sigma**2
linear = ReadCell(widths=(), dropout=0.0)  # no hidden layer: the posterior mean is linear in log(1 + x)
pairs = {}
for name, guide in (("mean field", MeanField(encoder=linear)), ("full covariance", FullCovariance(encoder=linear))):
    guide = guide.sized(model, cells).eval()
    last = guide.heads["z"].out if name == "full covariance" else guide.heads["z"]
    with torch.no_grad():
        last.weight.zero_()
        last.weight[:d] = to_mean
        last.bias[:d] = -to_mean @ torch.full((g,), 4.0)
        last.bias[d : 2 * d] = (spread[name] - 1e-4).expm1().log()  # the inverse of softplus
        if name == "full covariance":
            unit = L / L.diag().unsqueeze(1)
            last.bias[2 * d :] = unit[guide.heads["z"].rows, guide.heads["z"].columns]
    pairs[name] = (model, guide)

error = {}
for name, pair in pairs.items():
    for s in (1, 10, 100, 1000):
        estimate = ps.log_evidence(pair, cells, particles=s, seed=0, estimator=Importance(GuideDraws()))
        error[name, s] = np.mean(estimate - exact)
        print(f"{name:16s} S = {s:5d}: {error[name, s]:+8.4f} nats a cell from exact")
assert abs(error["full covariance", 1]) < 1e-3  # one sample is enough
assert error["mean field", 1] < -1 < error["mean field", 1000] < -0.01

# %% [markdown]
# Here the full-covariance guide is the posterior, and its estimate is exact with a single sample. The mean-field guide
# has no correlations. It has the width of the short axis of the posterior, and is too narrow along the long axis. So a
# few of its weights are very large, and 1,000 samples are not enough.
#
# ## Annealing
#
# The step from the guide to the posterior is too large. So take many small steps. Between both lie the densities
#
# $$f_b(z) = q(z)^{1-b}\; p(y, z)^b, \qquad 0 = b_0 < b_1 < \dots < b_T = 1 .$$
#
# Start with a draw $z_0$ of the guide. At every step $t$, multiply its weight by
# $f_{b_{t+1}}(z_t) / f_{b_t}(z_t)$, and move $z_t$ by some steps of a Markov chain that leaves $f_{b_{t+1}}$ as it is.
# The average of the final weights is $p(y)$ again, for *any* number of steps [Neal, 2001], and the weights are more
# even with more steps. The chain here is Metropolis': propose a small random change, and accept it with probability
# $\min(1, f_b(\text{new})/f_b(\text{old}))$.

# %%
mean, width = (y - 4.0) @ to_mean.T, spread["mean field"]


def log_ratio(z):
    """log p(y, z) - log q(z) of every cell, for the mean field q."""
    return log_joint(z) - Normal(mean, width).log_prob(z).sum(-1)


def walk(z, b, steps=3):
    """Some steps of Metropolis that leave f_b as it is."""
    for _ in range(steps):
        new = z + width * torch.randn(z.shape, generator=rng)
        log_f, log_f_new = (Normal(mean, width).log_prob(u).sum(-1) + b * log_ratio(u) for u in (z, new))
        accepted = torch.rand(log_f.shape, generator=rng).log() < log_f_new - log_f
        z = torch.where(accepted.unsqueeze(-1), new, z)
    return z


def anneal(z, bs):
    """The log weight of every chain, which starts at z and goes along the numbers b."""
    log_w = 0.0
    for b, following in pairwise(bs):
        log_w = log_w + (following - b) * log_ratio(z)
        z = walk(z, following)
    return log_w


chains = 10
lower, upper = {}, {}
for steps in (1, 3, 10, 30, 100):
    up = np.linspace(0, 1, steps + 1)
    start = mean + width * torch.randn(chains, n, d, generator=rng)
    lower[steps] = np.mean(log_mean(anneal(start, up)) - exact)
    upper[steps] = np.mean(-log_mean(anneal(z_true.expand(chains, n, d), up[::-1])) - exact)
    print(f"{steps:4d} steps: lower bound {lower[steps]:+.3f}, upper bound {upper[steps]:+.3f} nats a cell from exact")
assert lower[1] < -0.3 and abs(lower[100]) < 0.1
assert all(lower[steps] < upper[steps] for steps in lower)

# %% [markdown]
# ## The sandwich
#
# What is the upper bound? These cells were *simulated*, so for each of them we know a draw of its posterior: the state
# that it was made from (chapter 15). Start there and walk the same path backwards, from $b = 1$ to $b = 0$. The average
# of the weights is then $1/p(y)$. The logarithm is concave, so minus the logarithm of this average is too *high* on
# average. The truth is between the two, and no formula for $p(y)$ is needed to see how far they are apart
# [Grosse et al., 2015]. This is what `compare` calls a **certificate**.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
posterior_samples = mean[0] + torch.randn(2000, d, generator=rng) @ L.T
q_samples = mean[0] + width * torch.randn(2000, d, generator=rng)
axes[0].plot(*posterior_samples[:, :2].T, ".", ms=3, color="0.7", label="posterior, exact")
axes[0].plot(*q_samples[:, :2].T, ".", ms=3, color="C0", label="mean field")
axes[0].set(xlabel="$z_1$", ylabel="$z_2$", title="One cell, two of its four latents")
axes[0].legend(frameon=False, markerscale=4)
for name in pairs:
    axes[1].semilogx([1, 10, 100, 1000], [error[name, s] for s in (1, 10, 100, 1000)], "o-", label=name)
axes[1].set(xlabel="samples S", ylabel="nats a cell from exact", title="Importance sampling")
for name, bound in (("upper bound", upper), ("lower bound", lower)):
    axes[2].semilogx(list(bound), list(bound.values()), "o-", label=name)
axes[2].set(xlabel="steps of annealing", title="Mean field, annealed: the sandwich")
for axis in axes[1:]:
    axis.axhline(0, color="k", lw=0.8)
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Breaking it: a mode that was missed
#
# Is an estimate good if its weights are even? One latent, $z \sim N(0, 1)$, and one number, $y \sim N(z^2, 0.5^2)$,
# with $y = 4$. The posterior has two modes, near 2 and -2. The guide knows only the first. Its weights are nearly
# equal, and the estimate hardly changes with the seed. But half of the integral is missing: $\log \frac12$ nats.


# %%
def log_weight(z):
    """log p(y, z) - log q(z) for y = 4, with a guide at one of the two modes."""
    log_p = Normal(0.0, 1.0).log_prob(z) + Normal(z**2, 0.5).log_prob(torch.tensor(4.0))
    return log_p - Normal(1.95, 0.14).log_prob(z)


grid = torch.linspace(-4, 4, 4001)
log_p = Normal(0.0, 1.0).log_prob(grid) + Normal(grid**2, 0.5).log_prob(torch.tensor(4.0))
truth = (log_p.logsumexp(0) + np.log(8 / 4000)).item()
w = log_weight(1.95 + 0.14 * torch.randn(1000, generator=rng)).exp()
estimate, standard_error = w.mean().log().item(), (w.std() / w.mean() / 1000**0.5).item()
try:
    assert abs(estimate - truth) < 0.1, f"the estimate is {estimate:.2f} ± {standard_error:.2f}, the truth {truth:.2f}"
except AssertionError as failure:
    print("AssertionError:", failure)
    failed = True
assert failed and standard_error < 0.05

posterior_draws = grid[torch.multinomial(log_p.softmax(0), 1000, replacement=True, generator=rng)]
gap = (log_weight(posterior_draws).mean() - estimate).item()
print(f"the sandwich: its upper bound is {gap:.0f} nats above the estimate")
assert gap > 10

# %% [markdown]
# Only the sandwich shows it: half of the posterior draws are at the other mode, where the guide has no density. So a
# small standard error is no proof. A certificate tests for just this.
#
# ## In the zoo
#
# `fit.log_evidence(cells)` takes the cheapest estimator that is good enough for each cell, from importance sampling to
# annealing. `compare` adds the certificate, and prints what each number is a probability of (chapter 14).
#
# ## Exercises
#
# 1. Show that $\mathbb{E}_q[\log w] = \log p(x) - \text{KL}(q \,\|\, p)$, and that the average of $\log w$ over draws
#    of the *posterior* $p$ is $\log p(x) + \text{KL}(p \,\|\, q)$.
# 2. Why does the naive average over the prior get worse with more latents, and with more genes?
#
# ### Solutions
#
# 1. $\log w = \log p(x) + \log p(z \mid x) - \log q(z)$. Average over $q$ or over $p$: what remains beside $\log p(x)$
#    is minus the KL of $q$ from $p$, or the KL of $p$ from $q$. So one step of annealing, with one chain, has a gap of
#    the sum of both. For Gaussians with the same mean both have formulas (next cell).
# 2. The posterior becomes a smaller part of the prior: with more genes it is narrower, and with more latents it is
#    narrow in more directions. The share of draws from the prior that fall into it becomes tiny.

# %%
forward, backward = (log_ratio(start).mean() - exact.mean()).item(), (log_ratio(z_true).mean() - exact.mean()).item()
q, p = (torch.distributions.MultivariateNormal(torch.zeros(d), C) for C in (width.diag() ** 2, precision.inverse()))
kl = torch.distributions.kl_divergence
print(f"guide: {forward:.3f}, by formula {-kl(q, p):.3f}; posterior: {backward:.3f}, by formula {kl(p, q):.3f}")
assert abs(forward + kl(q, p)) < 0.1 and abs(backward / kl(p, q) - 1) < 0.5
