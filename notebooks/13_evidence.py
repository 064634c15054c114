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

# %% [markdown]
# ## A model whose evidence is known
#
# Probabilistic PCA of log counts: $z \sim N(0, I)$ and $\log(1+x) \sim N(Wz + c, \sigma^2 I)$. A sum of Gaussians is
# Gaussian, so that $p(x)$ is $N(c,\; WW^\top + \sigma^2 I)$ at $\log(1+x)$, and the posterior $p(z \mid x)$ is
# Gaussian too. The cells below are samples from such a model. Its four latents have similar loadings, so that the
# posterior is strongly correlated.

# %%
rng = torch.Generator().manual_seed(0)
n, g, d = 400, 40, 4
shared = torch.randn(g, 1, generator=rng)
W = 0.4 * (shared + 0.4 * torch.randn(g, d, generator=rng))
z = torch.randn(n, d, generator=rng)
y = 4.0 + z @ W.T + 0.5 * torch.randn(n, g, generator=rng)
cells = Cells(y.expm1().clamp(min=0))
train, held_out = cells.split(0.25, seed=0)

model = PPCA(latent=d).sized(cells.dims)
model.load_state_dict({**model.state_dict(), "W": W, "c": torch.full((g,), 4.0), "log_sigma": torch.tensor(0.5).log()})
model.requires_grad_(False)  # the model that generated the cells; this chapter only needs guides
exact = model.log_evidence(held_out.x).numpy()
print(f"exact evidence: {exact.mean():.3f} nats a cell")

# %% [markdown]
# ## Averaging over the prior does not work
#
# The integral is an average over the prior. So we can sample states from the prior and average. The estimate is
# unbiased, but useless: for almost every state from the prior, this cell has a tiny probability, and a few rare states
# dominate the average. Its logarithm is too low on average, because the logarithm is concave.

# %%
prior_samples = torch.randn(20_000, d, generator=rng)
with torch.no_grad():
    sigma = model.log_sigma.exp()
    log_p = Normal(prior_samples @ model.W.T + model.c, sigma).log_prob(held_out.x[:50].log1p().unsqueeze(1)).sum(-1)
naive = {s: (log_p[:, :s].logsumexp(1) - np.log(s)).numpy() for s in (10, 100, 1000, 20_000)}
for s, estimate in naive.items():
    print(f"{s:6d} samples from the prior: {np.mean(estimate - exact[:50]):+8.3f} nats a cell from exact")
assert np.mean(naive[10] - exact[:50]) < -1 < np.mean(naive[20_000] - exact[:50])

# %% [markdown]
# ## Importance sampling
#
# A guide approximates the posterior of the state of a cell, $q(z \mid x)$. Sample states from it, and divide by the
# density with which it samples them:
#
# $$p(x) = \mathbb{E}_{q}\!\left[\frac{p(x \mid z)\,p(z)}{q(z \mid x)}\right]
#   \approx \frac1S \sum_s w_s .$$
#
# This is importance sampling. If $q$ *is* the posterior, every weight equals $p(x)$: one sample is enough and there is
# no error. With $S=1$ the expectation of $\log w$ is the ELBO on which the guide was trained. More samples make the
# bound tighter.

# %% [markdown]
# We compare two guides: one with a full covariance, and one whose latents are independent. Training would come close to
# the best guide of each family. For this model the best guides are known, and we write them into the weights. With
# posterior precision $P = I + W^\top W/\sigma^2$ both have the exact mean, $P^{-1} W^\top (y-c)/\sigma^2$. The full
# covariance is $P^{-1}$. The best independent guide has variances $1/P_{jj}$, which are never larger than those of the
# posterior.

# %%
precision = torch.eye(d) + W.T @ W / 0.25
L = torch.linalg.cholesky(precision.inverse())
spread = {"mean field": precision.diag() ** -0.5, "full covariance": L.diag()}
linear = ReadCell(widths=(), dropout=0.0)  # no hidden layer: the posterior mean is linear in log(1 + x)
guides = {"mean field": MeanField(encoder=linear), "full covariance": FullCovariance(encoder=linear)}
pairs = {}
for name, guide in guides.items():
    guide = guide.sized(model, cells).eval()
    last = guide.heads["z"].out if name == "full covariance" else guide.heads["z"]
    with torch.no_grad():
        last.weight.zero_()
        last.weight[:d] = precision.inverse() @ W.T / 0.25
        last.bias[:d] = -last.weight[:d] @ torch.full((g,), 4.0)
        last.bias[d : 2 * d] = (spread[name] - 1e-4).expm1().log()  # the inverse of softplus
        if name == "full covariance":
            unit = L / L.diag().unsqueeze(1)
            last.bias[2 * d :] = unit[guide.heads["z"].rows, guide.heads["z"].columns]
    pairs[name] = (model, guide)

# %%
rows = []
for name, pair in pairs.items():
    for s in (1, 10, 100, 1000):
        estimate = ps.log_evidence(pair, held_out, particles=s, seed=0, estimator=Importance(GuideDraws()))
        rows.append((name, s, np.mean(estimate - exact)))
        print(f"{name:16s} S = {s:5d}: {rows[-1][2]:+8.4f} nats a cell from exact")

error = {(name, s): value for name, s, value in rows}
assert abs(error["full covariance", 1]) < 1e-3  # one sample is enough
assert error["mean field", 1] < -1 < error["mean field", 1000] < -0.01

# %% [markdown]
# Here the full-covariance guide is the posterior, and its estimate is exact with a single sample. The mean-field guide
# has no correlations. It has the width of the short axis of the posterior, and is too narrow along the long axis. So
# its weights have a heavy tail, and 1,000 samples are not enough. The next figure compares it with the posterior of one
# cell.

# %%
one = held_out.take(torch.tensor([0]))
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
posterior_samples = model.posterior(one.x).sample((2000,))[:, 0]
with torch.no_grad():
    q_samples = pairs["mean field"][1].posteriors(one)["z"].sample((2000,))[:, 0]
axes[0].plot(*posterior_samples[:, :2].T, ".", ms=3, color="0.7", label="posterior, exact")
axes[0].plot(*q_samples[:, :2].T, ".", ms=3, color="C0", label="mean field")
axes[0].set(xlabel="$z_1$", ylabel="$z_2$", title="One cell, two of its four latents")
axes[0].legend(frameon=False, markerscale=4)
for name in pairs:
    axes[1].semilogx(*zip(*[(s, e) for other, s, e in rows if other == name], strict=True), "o-", label=name)
axes[1].axhline(0, color="k", lw=0.8)
axes[1].set(xlabel="samples S", ylabel="nats a cell from exact", title="Evidence, estimated")
axes[1].legend(frameon=False)
plt.show()

covariance = model.posterior(one.x).covariance_matrix[0]
print(f"correlation of the exact posterior: {covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt():.2f}")

# %% [markdown]
# ## Evidence of what?
#
# Two evidences can be compared only if both are probabilities of the same thing. `compare` prints what each evidence is
# a probability of, its *estimand*, and raises an error if they differ:
#
# - `p(x)`: the size of a cell is part of the model. This is a proper density of the counts.
# - `p(x | l)`: the observed total is used as the size. The total is then given *and* predicted, so this is not a
#   density over the counts: a model whose predicted totals vary widely is penalised too little.
# - `p(x, label | l)`: the probability of labels is included.
#
# The evidence in this chapter is a density of $\log(1+x)$, not a probability of counts. It cannot be compared with the
# evidence of a negative binomial; `compare` raises an error here too:

# %%
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

counts = Cells(torch.poisson(y.expm1().clamp(min=0), generator=rng))
pair = {
    "nb": ps.fit(SCVI(latent=d, likelihood=NB()), MeanField(), counts, epochs=2, progress=False),
    "ppca": ps.fit(PPCA(latent=d), MeanField(), counts, epochs=2, progress=False),
}
message = ""
try:
    ps.compare(pair, counts, particles=10)
except ValueError as error:
    message = str(error)
print(message)
assert "p(x | l)" in message

# %% [markdown]
# **Try it.** Train a `MeanField` guide *and* the model together, `ps.fit(PPCA(latent=4), MeanField(), train)`. The
# estimate of its evidence is close to exact. Why? (The likelihood of `PPCA` does not change when $W$ is rotated, but
# the ELBO does.)
