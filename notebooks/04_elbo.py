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
# # 4. The ELBO, derived and drawn
#
# Training a model with latents needs $\log p(x)$, an integral that is rarely known. Variational inference replaces it
# by a lower bound that is easy to estimate, the **ELBO** (evidence lower bound). This chapter derives the bound, draws
# it for a model whose $\log p(x)$ *is* known, and trains on it. Then it leaves out one term, and the result is wrong.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy.special import digamma, gammaln
from torch.distributions import constraints

from pyroscvi.data.datasets import pbmc68k_reduced

pyro.set_rng_seed(4)

# %% [markdown]
# ## Two derivations
#
# Let $z$ be the latent of a cell, $x$ its counts, $p(x, z) = p(x \mid z)\,p(z)$ the model, and $q(z)$ *any* density:
# the **guide**. Multiply and divide by $q$ under the integral. The result is an average over $q$:
#
# $$\log p(x) = \log \int p(x, z)\,dz = \log \mathbb{E}_{q}\!\left[\frac{p(x, z)}{q(z)}\right]
#   \;\ge\; \mathbb{E}_{q}\!\left[\log \frac{p(x, z)}{q(z)}\right] = \text{ELBO}.$$
#
# The inequality is Jensen's: the logarithm is concave, so the logarithm of an average is at least the average of the
# logarithms. How much is lost? Write $p(x, z) = p(z \mid x)\,p(x)$ inside the ELBO:
#
# $$\text{ELBO} = \log p(x) - \mathbb{E}_q\!\left[\log \frac{q(z)}{p(z \mid x)}\right]
#   = \log p(x) - \text{KL}\big(q(z)\,\|\,p(z \mid x)\big).$$
#
# The Kullback-Leibler divergence KL is never negative, and zero only if both densities are equal. So the ELBO does two
# jobs. Maximised over the guide, it brings $q$ to the posterior. Maximised over the parameters of the model, it raises
# $\log p(x)$ or lowers the divergence.
#
# ## A model whose evidence is known
#
# The rate $z$ of a gene in a cell is $z \sim \text{Gamma}(\theta, \theta/\mu)$, and its count is
# $x \sim \text{Poisson}(z)$.
# Chapter 2 integrated $z$ out: $p(x)$ is the negative binomial. The posterior is known, too: multiply prior and
# likelihood, and $p(z \mid x) = \text{Gamma}(x + \theta,\; 1 + \theta/\mu)$.
#
# Take $q = \text{Gamma}(a, b)$, with shape $a$ and rate $b$. Let $\psi$ be the derivative of $\log\Gamma$. Then
# $\mathbb{E}_q[z] = a/b$ and $\mathbb{E}_q[\log z] = \psi(a) - \log b$, so every term of the ELBO has a formula.

# %%
x, mu, theta = 7.0, 3.0, 1.7


def elbo(a, b):
    """The ELBO of one count under the guide Gamma(a, b), exactly."""
    z, log_z = a / b, digamma(a) - np.log(b)
    log_likelihood = x * log_z - z - gammaln(x + 1)
    log_prior = theta * np.log(theta / mu) - gammaln(theta) + (theta - 1) * log_z - theta / mu * z
    entropy = gammaln(a) - np.log(b) + a - (a - 1) * digamma(a)  # this is -E log q
    return log_likelihood + log_prior + entropy


def kl_to_posterior(a, b):
    """KL(q || posterior), both Gamma distributions, from torch."""
    q, posterior = dist.Gamma(torch.tensor(a), torch.tensor(b)), dist.Gamma(x + theta, 1 + theta / mu)
    return torch.distributions.kl_divergence(q, posterior).item()


log_evidence = dist.GammaPoisson(theta, theta / mu).log_prob(torch.tensor(x)).item()
for a, b in ((1.7, 0.6), (5.0, 1.0), (8.7, 1.0 + theta / mu)):
    both = elbo(a, b), kl_to_posterior(a, b)
    print(f"q = Gamma({a}, {b:.2f}): ELBO {both[0]:.4f}, KL {both[1]:.4f}, sum {sum(both):.4f}")
    assert abs(sum(both) - log_evidence) < 1e-4
print(f"log p(x) = {log_evidence:.4f}")

# %% [markdown]
# The sum is $\log p(x)$ for every guide, and the KL of the last guide, the posterior, is zero. The picture shows the
# ELBO of all Gamma guides, by their mean and their width. The black curve on the right is a cut through the best width:
# it touches $\log p(x)$ at one point and lies below it everywhere else.

# %%
means, widths = np.linspace(1.5, 12, 120), np.linspace(0.5, 5, 100)
grid_mean, grid_width = np.meshgrid(means, widths)
surface = elbo((grid_mean / grid_width) ** 2, grid_mean / grid_width**2)
best_a, best_b = x + theta, 1 + theta / mu
assert surface.max() <= log_evidence + 1e-12

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
image = axes[0].contourf(means, widths, surface, levels=np.linspace(log_evidence - 4, log_evidence, 17), extend="min")
axes[0].plot(best_a / best_b, best_a**0.5 / best_b, "r*", ms=12, label="the posterior")
axes[0].set(xlabel="mean of q", ylabel="standard deviation of q", title="ELBO of every Gamma guide (nats)")
axes[0].legend()
figure.colorbar(image, ax=axes[0])
width = best_a**0.5 / best_b
axes[1].plot(means, elbo((means / width) ** 2, means / width**2), "k", label="ELBO")
axes[1].axhline(log_evidence, color="C3", label=r"$\log p(x)$")
axes[1].fill_between(means, elbo((means / width) ** 2, means / width**2), log_evidence, alpha=0.15, label="KL")
axes[1].set(xlabel="mean of q", ylabel="nats", ylim=(log_evidence - 4, log_evidence + 0.5), title="A cut")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## The same in Pyro, with real counts
#
# In Pyro a model and a guide are two functions with sample sites of the same names. `SVI` climbs the ELBO, which it
# estimates with draws from the guide. Here $\mu$ and $\theta$ are learned as well, from the counts of the gene CD37 in
# the blood cells of the package. The guide reads the count of a cell: $q = \text{Gamma}(x + a, b)$, where $a$ and $b$ are
# learned. Its KL to the prior has a formula, which `TraceMeanField_ELBO` uses.

# %%
adata = pbmc68k_reduced()
counts = torch.from_numpy(adata[::3, "CD37"].X.toarray()).float().squeeze()  # every third cell, to save time


def model(counts):
    mu = pyro.param("mu", torch.tensor(5.0), constraint=constraints.positive)
    theta = pyro.param("theta", torch.tensor(2.0), constraint=constraints.positive)
    with pyro.plate("cells", len(counts)):
        z = pyro.sample("z", dist.Gamma(theta, theta / mu))
        pyro.sample("x", dist.Poisson(z), obs=counts)


def guide(counts):
    a = pyro.param("a", torch.tensor(1.0), constraint=constraints.positive)
    b = pyro.param("b", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("cells", len(counts)):
        pyro.sample("z", dist.Gamma(counts + a, b))


def fit(guide, elbo, steps=220):
    """Maximise the ELBO. Returns mu and theta."""
    pyro.clear_param_store()
    decay = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.985})
    svi = SVI(model, guide, decay, elbo)
    for _ in range(steps):
        svi.step(counts)
        decay.step()
    return pyro.param("mu").item(), pyro.param("theta").item()


def log_likelihood(mu, theta):
    """The exact log p(x) of all cells: negative binomial."""
    return dist.GammaPoisson(theta, theta / mu).log_prob(counts).sum().item()


mu_hat, theta_hat = fit(guide, TraceMeanField_ELBO())
bounds = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
gap = log_likelihood(mu_hat, theta_hat) + bounds.loss(model, guide, counts)
grid = np.geomspace(0.5, 20, 400)
best_theta = grid[np.argmax([log_likelihood(counts.mean().item(), t) for t in grid])]
print(f"SVI: mu {mu_hat:.2f}, theta {theta_hat:.3f}; maximum likelihood: {counts.mean():.2f}, {best_theta:.3f}")
print(f"log p(x) - ELBO: {gap / len(counts):.4f} nats a cell")
assert abs(mu_hat / counts.mean().item() - 1) < 0.1
assert abs(theta_hat / best_theta - 1) < 0.2
assert -0.01 < gap / len(counts) < 0.03

# %% [markdown]
# The guide contains the posterior, so the gap closes, and the maximum of the ELBO is the maximum of the likelihood.
#
# ## Breaking it: without the entropy
#
# The ELBO has the term $-\mathbb{E}_q[\log q(z)]$, the **entropy** of the guide. It grows with the width of $q$. What
# if we forget it, and just fit the $z$ that explains the data best? Then nothing stops $q$ from becoming a single
# point. Here the guide is such a point: a `Delta`, whose $\log q$ counts as zero. The model's parameters then
# maximise $\log p(x, z)$ at the best $z$, not $\log p(x)$. A larger $\theta$ makes the density $p(z)$ at its peak
# higher and higher, and no width of $q$ pays for it.


# %%
def point_guide(counts):
    z = pyro.param("z_hat", counts + 0.5, constraint=constraints.positive)
    with pyro.plate("cells", len(counts)):
        pyro.sample("z", dist.Delta(z))


mu_point, theta_point = fit(point_guide, Trace_ELBO())
try:
    assert abs(theta_point / best_theta - 1) < 0.2, f"theta is {theta_point:.0f}, and should be {best_theta:.2f}"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed
lost = log_likelihood(mu_hat, theta_hat) - log_likelihood(mu_point, theta_point)
print(f"log p(x) lost: {lost / len(counts):.2f} nats a cell")
assert lost > 4

# %% [markdown]
# A point forgets that $z$ is uncertain. Its parameters are fitted to *one* guess of the latents as if it were true: all
# cells get nearly the same rate, and $\theta$ only stopped growing because training ended. More cells do not help, for
# every new cell brings a new latent.
#
# ## Exercises
#
# 1. Write the ELBO as $\mathbb{E}_q[\log p(x \mid z)] - \text{KL}(q(z)\,\|\,p(z))$. What is each term in words?
# 2. Replace the guide by a log-normal, $\log z \sim N(m, s^2)$. Is the gap still zero?
#
# ### Solutions
#
# 1. How well states from the guide explain the cell, minus how far the guide has moved from the prior: the price, in
#    nats, of the information that it took from the cell. The next cell checks the identity for one guide.
# 2. No: the posterior is a Gamma, and no log-normal equals it. The gap is the KL of the best log-normal, which has
#    $s^2 = 1/a$ and mean $a/b$ for the posterior $\text{Gamma}(a, b)$. It is close to $1/(12a)$: 0.01 nats for the count
#    $x = 7$, less for larger counts, and never zero. The next cell checks this, too.

# %%
q, prior = dist.Gamma(torch.tensor(5.0), torch.tensor(1.0)), dist.Gamma(torch.tensor(theta), torch.tensor(theta / mu))
reconstruction = x * (digamma(5.0) - 0.0) - 5.0 - gammaln(x + 1)
assert abs(reconstruction - torch.distributions.kl_divergence(q, prior).item() - elbo(5.0, 1.0)) < 1e-4

a, b = x + theta, 1 + theta / mu
m, s2 = np.log(a / b) - 0.5 / a, 1 / a
log_normal = -m - 0.5 * np.log(2 * np.pi * np.e * s2) - (a * np.log(b) - gammaln(a) + (a - 1) * m - b * a / b)
assert abs(log_normal * 12 * a - 1) < 0.01  # its KL to the posterior, in units of 1 / (12 a)
