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
# # 3. What evidence is
#
# A model with a latent state says how likely a cell's counts are *for a given state*, $p(x \mid z)$. To ask how likely
# they are under the model one has to average over the states that the model thinks possible:
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz .$$
#
# That number is the **evidence** of a cell. Its logarithm, averaged over cells that were held out of the fit, says which
# of two models predicts new cells better, and it is what `compare` prints. The integral cannot be done in general. This
# chapter estimates it on a model where it *can* be done, so that every estimate can be seen to be right or wrong.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Normal

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import PPCA

# %% [markdown]
# ## A model whose evidence is known
#
# Probabilistic PCA of log counts: $z \sim N(0, I)$ and $\log(1+x) \sim N(Wz + c, \sigma^2 I)$. A sum of Gaussians is
# Gaussian, so that $p(x)$ is $N(c,\; WW^\top + \sigma^2 I)$ at $\log(1+x)$, and the posterior $p(z \mid x)$ is Gaussian too.
# Cells below are drawn from such a model, with the two latents entangled so that the posterior is strongly correlated.

# %%
rng = torch.Generator().manual_seed(0)
n, g, d = 400, 30, 2
shared = torch.randn(g, 1, generator=rng)
W = 0.25 * (shared + 0.25 * torch.randn(g, d, generator=rng))
z = torch.randn(n, d, generator=rng)
y = 2.0 + z @ W.T + 0.3 * torch.randn(n, g, generator=rng)
cells = Cells(y.expm1().clamp(min=0))
train, held_out = cells.split(0.25, seed=0)

fits = {
    "mean field": ps.fit(PPCA(latent=d), MeanField(), train, epochs=150, lr=1e-2, seed=0, progress=False),
    "full covariance": ps.fit(PPCA(latent=d), FullCovariance(), train, epochs=150, lr=1e-2, seed=0, progress=False),
}
model = fits["full covariance"].model
exact = model.log_evidence(held_out.x).detach().numpy()
print(f"exact evidence of the fitted model: {exact.mean():.3f} nats a cell")

# %% [markdown]
# ## Averaging over the prior does not work
#
# The integral is an average over the prior, and so one may draw states and average. The estimate is unbiased and useless:
# almost every state drawn from the prior explains this cell badly, and the rare good one carries the whole average. In
# logarithms the error is one-sided, because the logarithm of an average of too few terms is too low.

# %%
many = torch.randn(20_000, d, generator=rng)
with torch.no_grad():
    sigma = model.log_sigma.exp()
    log_p = Normal(many @ model.W.T + model.c, sigma).log_prob(held_out.x[:50].log1p().unsqueeze(1)).sum(-1)
naive = {s: (log_p[:, :s].logsumexp(1) - np.log(s)).numpy() for s in (10, 100, 1000, 20_000)}
for s, estimate in naive.items():
    print(f"{s:6d} draws from the prior: {np.mean(estimate - exact[:50]):+8.3f} nats a cell from exact")
assert np.mean(naive[10] - exact[:50]) < -1 < np.mean(naive[20_000] - exact[:50])

# %% [markdown]
# ## Drawing where it matters
#
# A guide has learned where the states of a cell are, $q(z \mid x)$. Draw from it, and divide by how often it draws:
#
# $$p(x) = \mathbb{E}_{q}\!\left[\frac{p(x \mid z)\,p(z)}{q(z \mid x)}\right]
#   \approx \frac1S \sum_s w_s .$$
#
# This is importance sampling. If $q$ *is* the posterior every weight equals $p(x)$, one draw is enough and there is no
# error at all. With $S=1$ the expectation of $\log w$ is the ELBO that the guide was trained on; more draws tighten it.

# %%
rows = []
for name, fit in fits.items():
    truth = fit.model.log_evidence(held_out.x).detach().numpy()
    for s in (1, 10, 100, 1000):
        estimate = ps.log_evidence(fit, held_out, particles=s, seed=0, exact=False)
        rows.append((name, s, np.mean(estimate - truth)))
        print(f"{name:16s} S = {s:5d}: {rows[-1][2]:+8.4f} nats a cell from exact")

error = {(name, s): value for name, s, value in rows}
assert abs(error["full covariance", 1000]) < 0.01
assert error["mean field", 1] < error["full covariance", 1] < 0

# %% [markdown]
# The full-covariance guide is nearly exact, because the posterior here *is* Gaussian with a full covariance. The
# mean-field guide cannot tilt. It fits itself along the short axis of the posterior, too narrow for the long one, and its
# weights have a heavy tail: it needs many more draws for the same answer. Look at both beside the truth for one cell.

# %%
one = held_out.take(torch.tensor([0]))
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for (name, fit), colour in zip(fits.items(), ("C1", "C0"), strict=True):
    with torch.no_grad():
        posterior, q = fit.model.posterior(one.x), fit.guide.posteriors(one)["z"]
        true_draws, q_draws = posterior.sample((2000,))[:, 0], q.sample((2000,))[:, 0]
    if name == "mean field":
        axes[0].plot(*true_draws.T, ".", ms=2, color="0.75", label="posterior, exact")
        axes[0].plot(*q_draws.T, ".", ms=2, color=colour, label="q, mean field")
        axes[0].set(xlabel="$z_1$", ylabel="$z_2$", title="One cell")
        axes[0].legend(frameon=False, markerscale=5)
for name in fits:
    axes[1].semilogx(*zip(*[(s, e) for other, s, e in rows if other == name], strict=True), "o-", label=name)
axes[1].axhline(0, color="k", lw=0.8)
axes[1].set(xlabel="draws S", ylabel="nats a cell from exact", title="Evidence, estimated")
axes[1].legend(frameon=False)
plt.show()

correlation = torch.corrcoef(fits["mean field"].model.posterior(one.x).covariance_matrix[0].detach()[[0, 1]])[0, 1]
with torch.no_grad():
    covariance = fits["full covariance"].model.posterior(one.x).covariance_matrix[0]
print(f"correlation of the exact posterior: {covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt():.2f}")

# %% [markdown]
# ## Evidence of what?
#
# A number is worth comparing only with a number of the same kind. `compare` prints what each evidence is a probability of,
# its *estimand*, and refuses to mix them:
#
# - `p(x)`: the size of a cell is part of the model. A proper density of the counts.
# - `p(x | l)`: the observed total is used as the size. The total is then given *and* predicted, which is no density over
#   the counts: it forgives a model that scatters its total widely.
# - `p(x, label | l)`: the page scores labels too.
#
# The evidence of this chapter is a density of $\log(1+x)$, not a probability of counts, and cannot be compared with that
# of a negative binomial at all. That too is refused:

# %%
from pyroscvi.models import SCVI  # noqa: E402
from pyroscvi.parts import NB  # noqa: E402

counts = Cells(torch.poisson(y.expm1().clamp(min=0), generator=rng))
pair = {
    "nb": ps.fit(SCVI(latent=d, likelihood=NB()), MeanField(), counts, epochs=2, progress=False),
    "ppca": ps.fit(PPCA(latent=d), MeanField(), counts, epochs=2, progress=False),
}
refused = ""
try:
    ps.compare(pair, counts, particles=10)
except ValueError as error:
    refused = str(error)
print(refused)
assert "p(x | l)" in refused

# %% [markdown]
# **Try it.** Give the mean-field guide draws enough to come within 0.01 nats of exact. How many does it take with ten
# latents in place of two?
