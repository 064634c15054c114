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
# # 5. Gradients of an average
#
# Training climbs the ELBO, an average over draws of the guide, and the guide itself changes with every step. How does
# one differentiate an average whose distribution depends on the parameter? There are two answers. Both are right on
# average, but one is many times noisier than the other. This chapter measures it.

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO

torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(5)

# %% [markdown]
# ## The problem, and a case with a known answer
#
# Let $q_\phi(z)$ be the guide with parameters $\phi$, and $f(z)$ what is averaged. We want
# $\nabla_\phi\, \mathbb{E}_{q_\phi}[f(z)]$. The model of this chapter is a Poisson log-normal: the log rate of a
# gene is
# $z \sim N(0, 1)$, its count is $x \sim \text{Poisson}(e^z)$. With $q = N(m, s^2)$ and
# $f(z) = \log p(x, z)$, up to a constant $f(z) = x z - e^z - z^2/2$, and
#
# $$\mathbb{E}_q[f] = x m - e^{m + s^2/2} - \tfrac12 (m^2 + s^2), \qquad
#   \frac{\partial}{\partial m} \mathbb{E}_q[f] = x - e^{m+s^2/2} - m .$$

# %%
x, m, s = 3.0, 0.8, 0.4
exact = x - torch.tensor(m + s**2 / 2).exp() - m


def f(z):
    return x * z - z.exp() - z**2 / 2


# %% [markdown]
# ## Score function
#
# Write the average as an integral and differentiate under it. Since $\nabla q = q\, \nabla \log q$,
#
# $$\nabla_\phi \int q_\phi(z) f(z)\,dz = \mathbb{E}_{q_\phi}\!\big[f(z)\, \nabla_\phi \log q_\phi(z)\big].$$
#
# Draw $z$, and average $f(z)\,\nabla \log q(z)$. This needs no derivative of $f$, so it also works for discrete $z$.
# It only knows that some draws were good and others bad, and makes the good ones more probable. For the normal,
# $\partial \log q / \partial m = (z - m)/s^2$. The average of this **score** is zero, so any constant $b$, a
# **baseline**, may be subtracted from $f$: the answer stays right, and the noise may fall.
#
# ## Pathwise
#
# Write a draw as a function of the parameter and of noise that does not depend on it: $z = m + s\,\varepsilon$ with
# $\varepsilon \sim N(0, 1)$. This is the **reparameterisation**. Now the average is over $\varepsilon$, and
#
# $$\frac{\partial}{\partial m} \mathbb{E}_\varepsilon[f(m + s\varepsilon)] = \mathbb{E}_\varepsilon[f'(m +
# s\varepsilon)].$$
#
# The draw itself moves along the slope of $f$.

# %%
draws = 20_000
z = m + s * torch.randn(draws)
score = (z - m) / s**2
each = {
    "score function": f(z) * score,
    "score, baseline": (f(z) - f(z).mean()) * score,  # the mean of f: for 20,000 draws, almost a constant
    "pathwise": x - z.exp() - z,
}
print(f"exact gradient {exact:.4f}")
for name, gradient in each.items():
    error = gradient.std() / draws**0.5
    print(f"{name:16s} {gradient.mean():7.4f} ± {error:.4f}   variance of one draw {gradient.var():8.3f}")
    assert abs(gradient.mean() - exact) < 5 * error
variance = {name: gradient.var().item() for name, gradient in each.items()}
assert variance["pathwise"] < variance["score, baseline"] < variance["score function"]

# %% [markdown]
# All three are right on average. One pathwise draw is worth many draws of the score function. The difference grows with
# the number of latents. With $d$ independent latents, $f$ is a sum over them. The score of one latent is multiplied by
# the *whole* sum, which contains the noise of all others. The pathwise derivative with respect to $m_1$ contains
# $z_1$ only.

# %%
sizes = (1, 2, 5, 10, 20, 50)
curves = {"score, baseline": [], "pathwise": []}
for d in sizes:
    z = m + s * torch.randn(4000, d)
    total = f(z).sum(1)
    curves["score, baseline"].append(((total - total.mean()) * (z[:, 0] - m) / s**2).var().item())
    curves["pathwise"].append((x - z[:, 0].exp() - z[:, 0]).var().item())
growth = {name: curve[-1] / curve[0] for name, curve in curves.items()}
print("variance with 50 latents over variance with one:", {name: round(value, 1) for name, value in growth.items()})
assert growth["score, baseline"] > 5 and 0.7 < growth["pathwise"] < 1.4

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
averages = [each[name].view(-1, 20).mean(1) for name in ("score, baseline", "pathwise")]
axes[0].hist(averages, bins=50, range=(-2.5, 2), histtype="step", density=True, label=["score, baseline", "pathwise"])
axes[0].axvline(exact, color="k", lw=0.8, label="exact")
axes[0].set(xlabel="gradient from 20 draws", ylabel="density", title="One latent")
axes[0].legend(frameon=False, loc="upper left")
for name, curve in curves.items():
    axes[1].loglog(sizes, curve, "o-", label=name)
axes[1].set(xlabel="number of latents", ylabel="variance of one draw", title="More latents")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Distributions that are not a shift and a scale
#
# A Gamma draw is made by rejection: there is no formula $z = g(\phi, \varepsilon)$. But the cumulative distribution
# function $F_\phi(z)$ turns a draw into uniform noise, $u = F_\phi(z)$. Keep $u$ fixed and differentiate,
# $0 = \partial_\phi F + q\,\partial_\phi z$, so that $\partial_\phi z = -\partial_\phi F_\phi(z) / q_\phi(z)$. No
# inverse of $F$
# is needed. This **implicit** reparameterisation is what torch does for Gamma, Beta and Dirichlet draws. We check it
# with $\mathbb{E}[\log z] = \psi(a)$ for a Gamma with shape $a$ and rate 1, whose derivative is the trigamma function.

# %%
a = torch.full((draws,), 1.5, requires_grad=True)
(implicit,) = torch.autograd.grad(dist.Gamma(a, torch.ones(draws)).rsample().log().sum(), a)
trigamma = torch.polygamma(1, torch.tensor(1.5))
print(f"d/da E[log z]: exact {trigamma:.4f}, implicit {implicit.mean():.4f} ± {implicit.std() / draws**0.5:.4f}")
assert abs(implicit.mean() - trigamma) < 5 * implicit.std() / draws**0.5

# %% [markdown]
# ## In Pyro
#
# A distribution knows which of the two it allows. `has_rsample` is true for `Normal` and `Gamma`, and false for
# `Categorical` and `Poisson`. `Trace_ELBO` uses the pathwise gradient where it can and the score function where it
# must.
# We can forbid the former.


# %%
def model():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Poisson(z.exp()), obs=torch.tensor(x))


def guide(pathwise):
    m_hat = pyro.param("m", torch.tensor(m))
    pyro.sample("z", dist.Normal(m_hat, s).has_rsample_(pathwise))


def elbo_gradients(pathwise, repeats=300):
    """The gradient of the ELBO with respect to m, from one draw each."""
    found = []
    for _ in range(repeats):
        pyro.clear_param_store()
        Trace_ELBO().loss_and_grads(lambda: model(), lambda: guide(pathwise))
        found.append(-pyro.param("m").grad)
    return torch.stack(found)


in_pyro = {pathwise: elbo_gradients(pathwise) for pathwise in (True, False)}
for pathwise, gradient in in_pyro.items():
    name = "pathwise" if pathwise else "score function"
    print(f"Pyro, {name:15s} {gradient.mean():6.2f} ± {gradient.std() / 300**0.5:.2f}")
    assert abs(gradient.mean() - exact) < 5 * gradient.std() / 300**0.5
assert in_pyro[False].var() > 4 * in_pyro[True].var()

# %% [markdown]
# ## Breaking it: a draw that is cut off
#
# `sample` returns a number, `rsample` a number *with its path*. Who writes a guide by hand and takes the former gets a
# loss that looks right and a gradient that is not: the dependence through $z$ is lost.

# %%
location = torch.tensor(m, requires_grad=True)
q = torch.distributions.Normal(location, s)
gradients = {}
for name, drawn in (("rsample", q.rsample((draws,))), ("sample", q.sample((draws,)))):
    loss = (f(drawn) - q.log_prob(drawn)).mean()
    (gradients[name],) = torch.autograd.grad(loss, location, retain_graph=True)
    print(f"{name:8s} ELBO {loss.item():.3f}, gradient {gradients[name]:.3f}, exact {exact:.3f}")
assert abs(gradients["rsample"] - exact) < 0.05
try:
    assert abs(gradients["sample"] - exact) < 0.05, f"the gradient is {gradients['sample']:.3f}, not {exact:.3f}"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# The two losses agree within their noise, so the mistake is invisible in the loss. Only the gradient shows it.
# So: check gradients, not losses, whenever you write an objective of your own.
#
# ## Exercises
#
# 1. Compute the variance of the pathwise gradient with a formula. (The variance of $e^z$ is
#    $e^{2m+s^2}(e^{s^2}-1)$; the covariance of $e^z$ and $z$ is $s^2 e^{m+s^2/2}$.)
# 2. Why is the score function not used for the state $z$ of a cell, and why is `enumerate` (chapter 8) used for the
#    component $k$ of a mixture?
#
# ### Solutions
#
# 1. $\text{Var}(x - e^z - z) = e^{2m+s^2}(e^{s^2}-1) + s^2 + 2 s^2 e^{m+s^2/2}$, checked below.
# 2. A state has ten or more numbers, and the noise of the score function grows with their number. A component is
#    discrete, so it has no path. But it has few values, so its average is summed exactly, without any noise.

# %%
mean_z = torch.tensor(m + s**2 / 2).exp()
formula = mean_z**2 * (torch.tensor(s**2).exp() - 1) + s**2 + 2 * s**2 * mean_z
print(f"variance, formula {formula:.3f}, measured {variance['pathwise']:.3f}")
assert abs(variance["pathwise"] / formula - 1) < 0.1
torch.set_default_dtype(torch.float32)
