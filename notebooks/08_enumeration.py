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
# # 8. Enumeration: mixtures, summed exactly
#
# A cell belongs to one of $K$ kinds, and nobody told us which. The kind is a discrete latent: there is no small step
# from kind 1 to kind 2, so pathwise gradients do not exist (chapter 5). But $K$ is small, so the sum over all kinds can
# be written out. Pyro does this for you, if you ask. This chapter shows what is summed, and what happens if one forgets
# to ask.

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch.distributions import constraints

pyro.set_rng_seed(8)

# %% [markdown]
# ## The sum
#
# $k \sim \text{Categorical}(w)$ is the kind, $x_g \sim \text{Poisson}(\lambda_{kg})$ the count of gene $g$. Then
#
# $$p(x) = \sum_{k=1}^{K} w_k \prod_g \text{Poisson}(x_g; \lambda_{kg}), \qquad
#   P(k \mid x) = \frac{w_k \prod_g \text{Poisson}(x_g; \lambda_{kg})}{p(x)} .$$
#
# The second formula is Bayes' rule. No latent is left once $k$ is summed, so the ELBO *is* $\log p(x)$, and the guide
# has nothing to do. The simulated cells have three kinds, with weights 0.5, 0.3 and 0.2.

# %%
K, n, g = 3, 400, 8
true_w = torch.tensor([0.5, 0.3, 0.2])
true_rates = dist.Gamma(2.0, 0.5).sample((K, g))
k_true = dist.Categorical(true_w).sample((n,))
x = torch.poisson(true_rates[k_true])

far = [0]  # three cells, each far from those before it: equal rates would stay equal for ever
for _ in range(K - 1):
    far.append(torch.cdist(x, x[far]).min(1).values.argmax().item())


def mixture(x):
    w = pyro.param("w", torch.ones(K) / K, constraint=constraints.simplex)
    rates = pyro.param("rates", x[far] + 0.5, constraint=constraints.positive)
    with pyro.plate("cells", len(x)):
        k = pyro.sample("k", dist.Categorical(w))
        pyro.sample("x", dist.Poisson(rates[k]).to_event(1), obs=x)


def no_guide(x):
    """All latents are summed out."""


def log_joint(x, w, rates):
    """log p(x, k) for every cell and kind [n, K]."""
    return w.log() + dist.Poisson(rates).to_event(1).log_prob(x.unsqueeze(1))


# %% [markdown]
# `config_enumerate` marks every discrete site. `TraceEnum_ELBO` then gives $k$ all its values at once, in a new
# dimension on the left: $k$ has shape $[K, 1]$, the log-probability of $x$ has shape $[K, n]$. Its loss is minus
# $\log p(x)$, exactly:

# %%
enumerated = config_enumerate(mixture)
elbo = TraceEnum_ELBO(max_plate_nesting=1)
loss = elbo.loss(enumerated, no_guide, x)
by_hand = log_joint(x, pyro.param("w"), pyro.param("rates")).logsumexp(1).sum().item()
print(f"TraceEnum_ELBO {-loss:.4f}, sum by hand {by_hand:.4f}")
assert abs(-loss / by_hand - 1) < 1e-5


def train(model, elbo, guide=no_guide, steps=100, lr=0.1):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": lr}), elbo)
    for _ in range(steps):
        svi.step(x)
    return pyro.param("w").detach(), pyro.param("rates").detach()


def matched(rates):
    """The order in which learned kinds are closest to the true ones: kinds have no names."""
    return torch.cdist(true_rates, rates).argmin(1)


w, rates = train(enumerated, elbo)
order = matched(rates)
probability = log_joint(x, w, rates).softmax(1)  # Bayes' rule
accuracy = (probability[:, order].argmax(1) == k_true).float().mean().item()
best = (log_joint(x, true_w, true_rates).argmax(1) == k_true).float().mean().item()  # nobody can do better
print("weights", w[order].numpy().round(3), "truth", true_w.numpy())
print(f"{accuracy:.1%} of the cells are in their kind; with the true weights and rates {best:.1%} would be")
assert sorted(order.tolist()) == [0, 1, 2]
assert (w[order] - torch.bincount(k_true) / n).abs().max() < 0.03
standard_error = (true_rates / torch.bincount(k_true).unsqueeze(1)).sqrt()  # of a mean of Poisson counts
assert ((rates[order] - true_rates) / standard_error).abs().max() < 5
assert accuracy > best - 0.03

# %% [markdown]
# ## Breaking it: forgetting to enumerate
#
# With plain `Trace_ELBO` and no guide for $k$, Pyro *draws* $k$ from its prior, one kind for each cell. The loss then
# estimates
#
# $$\sum_k w_k \log p(x \mid k) \;\le\; \log \sum_k w_k\, p(x \mid k) .$$
#
# The average of the logarithms, not the logarithm of the average. Its maximum is reached when all kinds are equal:
# a cell must be explained by whichever kind chance has drawn. No error is raised. (A warning says that the guide has
# no such site; here it is silenced, as people do.)

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    w_drawn, rates_drawn = train(mixture, Trace_ELBO(), steps=200, lr=0.06)
apart = {
    "enumerated": torch.pdist(rates).min().item(),
    "drawn": torch.pdist(rates_drawn).min().item(),
    "truth": torch.pdist(true_rates).min().item(),
}
print("smallest distance between two kinds:", {name: round(value, 2) for name, value in apart.items()})
assert abs(apart["enumerated"] / apart["truth"] - 1) < 0.3
try:
    assert abs(apart["drawn"] / apart["truth"] - 1) < 0.3, "the kinds have become one: all have the average profile"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained", sharey=True)
shown = {"truth": true_rates, "enumerated": rates[order], "drawn": rates_drawn}
for axis, (name, profile) in zip(axes, shown.items(), strict=True):
    for k in range(K):
        axis.plot(profile[k], "o-", ms=4, label=f"kind {k + 1}")
    axis.set(title=name, xlabel="gene")
axes[0].set_ylabel("rate")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## In the zoo, on real cells
#
# A page marks the site itself, `infer={"enumerate": "parallel"}`, so it cannot be forgotten. `Mixture` is the model of
# this chapter with negative binomial counts. Its evidence is exact, and `fit.probabilities(cells, "k")` is Bayes' rule.
# 700 blood cells, 60 variable genes:

# %%
import pyroscvi as ps
from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced
from pyroscvi.guides import MeanField
from pyroscvi.models import Mixture

adata = pbmc68k_reduced()
cells = ps.Fields(genes=highly_variable(adata, 60)).read(adata)
train_cells, held_out = cells.split(0.3, seed=0)
evidence = {}
for kinds in (1, 6):
    fit = ps.fit(
        Mixture(kinds=kinds), MeanField(), train_cells, epochs=20, batch_size=245, lr=2e-2, seed=0, progress=False
    )
    evidence[kinds] = fit.log_evidence(held_out).mean()
    print(f"{kinds} kinds: log p(x | l) {evidence[kinds]:.2f} nats a cell")
assert evidence[6] > evidence[1] + 10

# %% [markdown]
# ## Exercises
#
# 1. Why do the rates not start equal?
# 2. Two independent discrete latents with 10 values each, in one cell: how many terms has the sum? And with 20 binary
#    latents?
#
# ### Solutions
#
# 1. If all kinds are equal, their gradients are equal, and they stay equal for ever. It is a stationary point like that
#    of chapter 6.
# 2. 100 terms: easy. $2^{20}$ is a million for each cell: too many. Models with many discrete latents need structure,
#    such as the tree of the page `LatentTree`, whose sum is computed gene by gene.

# %%
equal = torch.full((K, g), 3.0, requires_grad=True)
(gradient,) = torch.autograd.grad(log_joint(x, torch.ones(K) / K, equal).logsumexp(1).sum(), equal)
assert torch.allclose(gradient[0], gradient[1]) and torch.allclose(gradient[0], gradient[2])
