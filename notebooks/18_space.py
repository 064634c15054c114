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
# # 18. Space: fields, graphs, equivariance
#
# Cells of a tissue have places, and cells that are close are often alike. A model can say this with a **field**: a
# smooth random function of the place. This chapter derives the field, estimates how strong and how wide it is, and
# replaces all cells by a few neighbours, so that the computation stays cheap. Then it shows what an encoder may read of
# places: nothing that changes when the tissue is turned.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints

pyro.set_rng_seed(18)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The model
#
# Cell $n$ is at the place $s_n$. Its state $z_n$ (one number, for now) has two parts,
#
# $$z_n = u(s_n) + e_n, \qquad \text{Cov}(u(s), u(s')) = a\, c(\|s - s'\| / r), \qquad e_n \sim N(0, 1-a).$$
#
# The field $u$ is a **Gaussian process**: its values at any places are jointly Gaussian. The correlation
# $c(d) = (1 + \sqrt3 d)\, e^{-\sqrt3 d}$ (Matern, smoothness 3/2) is 1 at distance 0 and falls to 0. The **strength**
# $a$ is the share of the variance that belongs to the field. The **lengthscale** $r$ is the distance over which the
# field changes. The cell's own part is $e_n$. Both parts are Gaussian, so the field can be integrated out:
#
# $$z \sim N(0, K), \qquad K = a\, C + (1 - a)\, I, \qquad C_{nm} = c(\|s_n - s_m\| / r).$$
#
# Every $z_n$ alone is $N(0, 1)$, whatever $a$ and $r$ are. The simulation has 200 cells, whose field is known. There
# are ten independent states (ten columns of $z$), so that estimates are precise.


# %%
def matern(d):
    return (1 + 3**0.5 * d) * (-(3**0.5) * d).exp()


def covariance(s, a, r):
    """K of cells at the places s [n, 2]."""
    return a * matern(torch.cdist(s, s) / r) + (1 - a) * torch.eye(len(s))


n, a_true, r_true = 200, 0.7, 0.15
s = torch.rand(n, 2)
C = matern(torch.cdist(s, s) / r_true)
u = a_true**0.5 * torch.linalg.cholesky(C + 1e-9 * torch.eye(n)) @ torch.randn(n, 10)
z = u + (1 - a_true) ** 0.5 * torch.randn(n, 10)


def tissue(s):
    """The ten states z at the places s; strength and lengthscale are parameters."""
    a = pyro.param("a", torch.tensor(0.5), constraint=constraints.unit_interval)
    r = pyro.param("r", torch.tensor(0.3), constraint=constraints.positive)
    with pyro.plate("states", 10):
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(n), covariance(s, a, r)), obs=z.T)


def estimate(s, steps=30):
    """Maximum likelihood: there is no latent, so the guide is empty. Returns a and r."""
    pyro.clear_param_store()
    svi = SVI(tissue, lambda s: None, pyro.optim.Adam({"lr": 0.15, "betas": (0.8, 0.9)}), Trace_ELBO())
    for _ in range(steps):
        svi.step(s)
    return pyro.param("a").item(), pyro.param("r").item()


a, r = estimate(s)

# %% [markdown]
# How precise are these numbers? The standard errors of a maximum likelihood estimate are the square roots of the
# diagonal of the inverse **Hessian**, the matrix of second derivatives of minus the log-likelihood.


# %%
def minus_log_p(both):
    K = covariance(s, *both)
    return -dist.MultivariateNormal(torch.zeros(n), K).log_prob(z.T).sum()


hessian = torch.autograd.functional.hessian(minus_log_p, torch.tensor([a, r]))
error = hessian.inverse().diag().sqrt()
print(f"strength    {a:.3f} +- {error[0]:.3f}, truth {a_true}")
print(f"lengthscale {r:.3f} +- {error[1]:.3f}, truth {r_true}")
assert abs(a - a_true) < 5 * error[0] < 0.15
assert abs(r - r_true) < 5 * error[1] < 0.1

# %% [markdown]
# ## The field, estimated
#
# Given $z$, the field is Gaussian again. Its mean and covariance are
#
# $$\mathbb{E}[u \mid z] = a C K^{-1} z, \qquad \text{Cov}[u \mid z] = a C - a C K^{-1} a C.$$
#
# The mean is a weighted sum over all cells, with weights that follow from $a$ and $r$. Nobody chose a number of
# neighbours. The covariance predicts the error: the square root of the mean of its diagonal.

# %%
aC = a * matern(torch.cdist(s, s) / r)
smooth = aC @ torch.linalg.solve(covariance(s, a, r), z)
predicted = (aC - aC @ torch.linalg.solve(covariance(s, a, r), aC)).diag().mean().sqrt()
distances = torch.cdist(s, s)


def rmse(guess):
    return (guess - u).square().mean().sqrt().item()


errors = {"z itself": rmse(z), "E[u | z]": rmse(smooth)}
for k in (3, 6, 12, 25, 50):
    errors[f"mean of {k} cells"] = rmse(z[distances.argsort(1)[:, :k]].mean(1))
for name, value in errors.items():
    print(f"{name:17s} error {value:.3f}")
print(f"E[u | z] expects an error of {predicted:.3f}")
assert errors["E[u | z]"] == min(errors.values())
assert abs(errors["E[u | z]"] / predicted - 1) < 0.1

figure, axes = plt.subplots(1, 4, figsize=(12, 3.1), layout="constrained", sharex=True, sharey=True)
shown = {
    "field u (truth)": u,
    "states z": z,
    "mean of 50 cells": z[distances.argsort(1)[:, :50]].mean(1),
    "E[u | z]": smooth,
}
for axis, (name, value) in zip(axes, shown.items(), strict=True):
    dots = axis.scatter(*s.T, c=value[:, 0], s=18, cmap="coolwarm", vmin=-2, vmax=2)
    axis.set(title=name, aspect="equal", xticks=[], yticks=[])
figure.colorbar(dots, ax=axes, shrink=0.9)
plt.show()

# %% [markdown]
# ## Neighbours are enough
#
# The density of $z$ needs a matrix with a row for every cell: 100,000 cells would take 80 gigabytes. But
# $p(z) = \prod_n p(z_n \mid z_1, \dots, z_{n-1})$, in any order, and a cell depends mostly on cells nearby. **Vecchia's
# approximation** conditions on the $m$ nearest of the cells before $n$ only [Vecchia, 1988]. This is still a proper
# density. Its cells are a **directed graph**, in which each has at most $m$ parents. The cost is proportional to the
# number of cells.


# %%
def vecchia(s, z, a, r, m):
    """log p(z) of all columns when every cell is given the m nearest cells before it."""
    K, total = covariance(s, a, r), 0.0
    for i in range(len(s)):
        near = distances[i, :i].argsort()[:m]
        weights = torch.linalg.solve(K[near][:, near], K[near, i])
        mean, variance = weights @ z[near], 1 - weights @ K[near, i]
        total += dist.Normal(mean, variance.sqrt()).log_prob(z[i]).sum()
    return total.item()


exact = -minus_log_p(torch.tensor([a, r])).item()
independent = dist.Normal(0.0, 1.0).log_prob(z).sum().item()
missed = {m: (exact - vecchia(s, z, a, r, m)) / (exact - independent) for m in (1, 5, 15)}
print(f"what the field explains: {(exact - independent) / n:.2f} nats a cell, ten states")
for m, share in missed.items():
    print(f"{m:2d} neighbours miss {share:.1%} of it")
assert missed[15] < 0.02 < missed[1]

# %% [markdown]
# ## Breaking it: the wrong places
#
# If the file with coordinates is sorted in another way than the counts, nothing raises an error. But the fit shows it:
# the cells near a cell are no longer like it, and the strength goes to zero.

# %%
a_shuffled, r_shuffled = estimate(s[torch.randperm(n)])
try:
    assert a_shuffled > 0.5, f"with shuffled places the strength is {a_shuffled:.2f}"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# ## What an encoder may read
#
# The axes of the microscope mean nothing. If the tissue is turned by an angle, the posterior of a cell must not
# change. A function of the cell and its neighbours that stays the same is **invariant**. Distances are invariant,
# coordinates are not. Between them are **equivariant** vectors, which turn with the tissue, such as
#
# $$v_n = \frac{1}{|N(n)|} \sum_{m \in N(n)} z_m\, (s_m - s_n),$$
#
# where $N(n)$ are the neighbours of $n$. The *length* of $v_n$ is invariant again, and it is informative: it is large
# at the border of a domain, where neighbours on one side are high and on the other side low.

# %%
neighbours = distances.argsort(1)[:, 1:9]


def read(s):
    """Three things that an encoder could read of the neighbours of a cell."""
    apart = s[neighbours] - s.unsqueeze(1)  # [n, 8, 2]
    near = z[neighbours, :1]
    v = (near * apart).mean(1)
    weights = (-apart.norm(dim=-1, keepdim=True) / r).softmax(1)
    return {"weighted mean of z": (weights * near).sum(1), "v": v, "length of v": v.norm(dim=1), "coordinates": s}


angle = torch.tensor(0.8)
turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
before, after = read(s), read(s @ turn.T + 3.0)  # turned and shifted
for name in before:
    change = (after[name] - before[name]).abs().max().item()
    print(f"{name:19s} changes by {change:.1e} when the tissue is turned")
for name in ("weighted mean of z", "length of v"):
    torch.testing.assert_close(after[name], before[name])
torch.testing.assert_close(after["v"], before["v"] @ turn.T)  # equivariant: it turns with the tissue
try:
    torch.testing.assert_close(after["coordinates"], before["coordinates"])
except AssertionError as error:
    print("AssertionError:", str(error).splitlines()[0])

# %% [markdown]
# ## In the zoo, with counts
#
# `Field()` is the prior of this chapter, with one strength and one lengthscale for each latent dimension; it uses
# Vecchia's approximation. States are not observed but inferred from counts. `simulated(sections=1)` makes a tissue of
# three bands, the **domains**: in each band 85% of the cells are of its own type, and the others are of any type.

# %%
import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField, SpatialGNN
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Field, Linear

torch.set_default_dtype(torch.float32)
adata = simulated(cells=300, genes=20, types=3, sections=1, batches=1, size=200, seed=1)
fields = ps.Fields(spatial="spatial", predecessors=10)
cells = fields.read(adata)
declared = SCVI(latent=2, prior=Field(), decoder=Linear(), likelihood=NB())
fit = ps.fit(declared, MeanField(), cells, epochs=28, batch_size=300, lr=6e-2, seed=0, progress=False)
print("strengths", fit.model.prior.strengths.detach().numpy().round(2))


def explained(states):
    """The share of the variance of the states that lies between domains, not within them."""
    within = sum(
        states[adata.obs["domain"] == d].var(0) * (adata.obs["domain"] == d).mean()
        for d in np.unique(adata.obs["domain"])
    )
    return 1 - within.sum() / states.var(0).sum()


share = {"z": explained(fit.latent(cells)), "smooth field": explained(fit.smooth_field(cells))}
print("variance that lies between domains:", {name: round(float(value), 2) for name, value in share.items()})
assert share["smooth field"] > share["z"] + 0.1

# %% [markdown]
# The smooth field leaves out the part $e_n$ of each cell. So it shows domains, where the states show types.
#
# `SpatialGNN()` is another use of space: the *guide* reads neighbours, and the model stays as it was. Turned tissue,
# same posterior:

# %%
adata.obsm["turned"] = adata.obsm["spatial"] @ turn.float().numpy().T
guide_fit = ps.fit(SCVI(latent=2), SpatialGNN(), cells, epochs=1, seed=0, progress=False)
turned = ps.Fields(spatial="turned", predecessors=10).read(adata)
np.testing.assert_allclose(guide_fit.latent(turned), guide_fit.latent(cells), atol=1e-4)

# %% [markdown]
# ## Exercises
#
# 1. Show that $a C K^{-1} z$ tends to $z$ for $a \to 1$, and to zero for $a \to 0$.
# 2. Two sections of tissue lie in one file, with coordinates that both start at (0, 0). What goes wrong with a graph
#    of nearest neighbours, and what is the remedy?
# 3. The mean of 6 neighbours smooths as well, without any model. What does the model give in addition?
#
# ### Solutions
#
# 1. For $a = 1$, $K = C$ and $C C^{-1} z = z$. For $a \to 0$, $K \to I$ and the factor $a$ remains. The next cell
#    checks both.
# 2. Cells of different sections become neighbours, since they seem to lie on top of each other.
#    `Fields(spatial=..., section=...)` makes a graph of each section by itself.
# 3. Its width follows from the data, its error is predicted, the strength says *whether* neighbours are alike, and the
#    evidence can be compared with that of a model without space.

# %%
for strength, limit in ((1 - 1e-9, z), (1e-9, torch.zeros_like(z))):
    K = strength * C + (1 - strength) * torch.eye(n)
    torch.testing.assert_close(strength * C @ torch.linalg.solve(K.double(), z), limit, atol=1e-3, rtol=0)
