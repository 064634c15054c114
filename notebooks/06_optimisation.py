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
# # 6. Optimisation: warm-up, free bits, and collapse seen happening
#
# A model with a latent state may learn not to use it. Some latents of the guide then equal the prior for every cell:
# they have **collapsed**. Sometimes this is right, because the data hold no more structure. Sometimes training just got
# stuck. This chapter uses a model for which the right answer has a formula, and watches training find it, or not.

# %%
import matplotlib.pyplot as plt
import torch

torch.manual_seed(6)

# %% [markdown]
# ## A linear model, and what each latent is worth
#
# The data $y$ of a cell are $y \sim N(Wz, \sigma^2 I)$ with $z \sim N(0, I)$: probabilistic PCA. The guide is
# $q(z \mid y) = N(Vy, \text{diag}(s^2))$. $V$ is its encoder. Training maximises
#
# $$\mathcal{L}_\beta = \mathbb{E}_q[\log p(y \mid z)] - \beta\,\text{KL}\big(q(z\mid y)\,\|\,N(0, I)\big),$$
#
# where $\beta = 1$ is the ELBO. Let $\lambda_j$ be the variance of the data along their $j$-th principal axis. One
# latent along this axis explains a variance $w_j^2$. For fixed $\sigma^2$, the maximum is known
# [Tipping & Bishop, 1999; Lucas et al., 2019]:
#
# $$w_j^2 = \max(\lambda_j - \beta\sigma^2,\; 0).$$
#
# So a latent whose variance is below $\beta\sigma^2$ **should** collapse: what it explains is less than the noise. The
# simulated data have five axes.

# %%
variances = torch.tensor([4.0, 3.0, 2.0, 1.4, 0.6])  # lambda_j
g, sigma2 = 20, 1.0
principal = torch.linalg.qr(torch.randn(g, 5)).Q
S = principal * variances @ principal.T  # the covariance of the data: the loss of this model depends on nothing else


def train(beta, steps=500, free=0.0, start=1e-3, lr=0.1, latents=5):
    """Gradient descent on -L_beta; beta is a function of the progress, 0 to 1. Returns KLs over time, and W."""
    generator = torch.Generator().manual_seed(0)
    W = (start * torch.randn(g, latents, generator=generator)).requires_grad_()
    V = (start * torch.randn(latents, g, generator=generator)).requires_grad_()
    log_s = torch.zeros(latents, requires_grad=True)
    optimiser = torch.optim.SGD([W, V, log_s], lr=lr)
    path = []
    for step in range(steps):
        s2, left = (2 * log_s).exp(), torch.eye(g) - W @ V
        kl = 0.5 * ((V @ S * V).sum(1) + s2 - s2.log() - 1)  # of every latent, averaged over cells
        residual = (left @ S * left).sum() + (W.square() * s2).sum()  # |y - Wz|^2, averaged over cells and over q
        loss = residual / (2 * sigma2) + beta(step / steps) * kl.clamp(min=free).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        path.append(kl.detach())
    return torch.stack(path), W.detach()


def explained(W):
    """The variance of each latent, largest first: squared singular values of W."""
    return torch.linalg.svdvals(W) ** 2


# %%
for beta in (1.0, 2.5):
    _, W = train(lambda _, beta=beta: beta, steps=300, start=0.3)
    expected = (variances - beta * sigma2).clamp(min=0)
    print(
        f"beta {beta}: w_j^2",
        [f"{value:.2f}" for value in explained(W)],
        "formula",
        [f"{value:.2f}" for value in expected],
    )
    torch.testing.assert_close(explained(W), expected, atol=0.1, rtol=0.05)

# %% [markdown]
# With $\beta = 1$, four latents survive and the fifth collapses, as it should: its variance is 0.6, below the
# noise. With
# $\beta = 2.5$ (a "beta-VAE") only the two strongest are left. **A collapsed latent is not always a failure.** It
# is one
# if $\lambda_j > \sigma^2$.
#
# ## Stuck at the start
#
# $W = 0$, $V = 0$ is a stationary point: if the decoder ignores $z$, the encoder has no reason to inform it, and the
# other way round. How fast does training leave it? Close to zero, the loss of one latent along axis $j$ is, to second
# order, with encoder $v$ and decoder $w$,
#
# $$\text{loss} \approx \tfrac{1}{2\sigma^2}\big(w^2 - 2\lambda_j w v\big) + \tfrac{\beta}{2} \lambda_j v^2 .$$
#
# This is a saddle if $\lambda_j > \beta\sigma^2$. Its downward slope is steep for small $\beta$. With $\beta = 1$ and
# $\lambda_j$ just above $\sigma^2$ it is almost flat, and training stays there for a long time. **Warm-up** lets
# $\beta$
# grow from 0 to 1 during the first part of the run, so that latents leave the saddle before the penalty arrives.

# %%
schedules = {
    "constant": lambda progress: 1.0,
    "warm-up": lambda progress: min(progress / 0.3, 1.0),
}
paths = {name: train(beta) for name, beta in schedules.items()}
strong = variances > sigma2
when = {}
for name, (path, _) in paths.items():
    reached = ((path > 0.05).sum(1) >= 4).nonzero()
    when[name] = reached[0].item() if len(reached) else len(path)
    print(f"{name:9s}: four latents are active after {when[name]} steps of {len(path)}")
assert when["warm-up"] < 0.7 * when["constant"]

# %% [markdown]
# ## Breaking it: a run that is too short
#
# Who stops after 100 steps, without warm-up, finds latents that "collapsed", and may conclude that the data have fewer
# dimensions than they have. The assertion compares with the truth.

# %%
short, _ = train(schedules["constant"], steps=100)
active = (short[-1] > 0.05).sum().item()
try:
    assert active == strong.sum(), f"{active} latents are active; the data have {strong.sum()} above the noise"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# ## Free bits
#
# Another remedy pays a fixed allowance: each latent may use a KL of $\kappa$ nats for free, so that
# $\max(\text{KL}_j, \kappa)$ takes the place of $\text{KL}_j$. No latent collapses. But a latent that *should*
# collapse now carries noise: $\kappa$ nats of it. Free bits are no longer a bound of $\log p$ with the right maximum.

# %%
kappa = 0.2
free_path, free_W = train(schedules["constant"], free=kappa)
print("KL of each latent:", [f"{kl:.2f}" for kl in free_path[-1].sort(descending=True).values])
assert (free_path[-1] > 0.5 * kappa).all()  # all five are used
assert (
    explained(free_W)[-1] > 100 * explained(paths["constant"][1])[-1]
)  # also the one that should not be: the formula says 0

figure, plots = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained", sharey=True)
shown = {"β = 1 from the start": paths["constant"][0], "warm-up": paths["warm-up"][0], "free bits": free_path}
for axis, (name, path) in zip(plots, shown.items(), strict=True):
    axis.plot(path)
    axis.set(xlabel="step", title=name, ylim=(0, 1.5))
plots[0].set_ylabel("KL of each latent (nats)")
plt.show()

# %% [markdown]
# Each line is one latent. On the left they leave zero one after the other, the weakest last, and one never. With
# warm-up (middle) they rise early and too high, while $\beta$ is small. Then the penalty sends the superfluous one back
# to zero. Free bits (right) keep it,
# at its allowance, around which the penalty is switched on and off.
#
# ## In the zoo
#
# `fit` warms up during the first tenth of a run (`warmup=`); `FreeBits` is an objective. The history shows the weight.
# `compare` prints the number of *active units*, the latents whose posterior mean varies between cells.

# %%
import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB

cells = ps.Fields().read(simulated(cells=256, genes=30, types=3, seed=1))
fit = ps.fit(SCVI(latent=5, likelihood=NB()), MeanField(), cells, epochs=20, warmup=0.3, seed=0, progress=False)
print(fit.history["kl_weight"].round(2).tolist()[:8])
active_units = (fit.latent(cells).var(0) > 0.01).sum()
print(f"three types need two dimensions; active units: {active_units} of 5")
assert fit.history["kl_weight"].iloc[0] < 0.5 and fit.history["kl_weight"].iloc[-1] == 1
assert 2 <= active_units <= 5

# %% [markdown]
# ## Exercises
#
# 1. Set $W = V = 0$ exactly (`start=0`). What happens, and why?
# 2. Show that the saddle has a downward direction if and only if $\lambda_j > \beta\sigma^2$.
#
# ### Solutions
#
# 1. Nothing: every gradient of $W$ and $V$ is exactly zero, for ever. Small random numbers are enough to leave.
# 2. The quadratic form in $(w, v)$ has the matrix $\frac{1}{\sigma^2}\begin{pmatrix} 1 & -\lambda \\ -\lambda &
#    \beta\sigma^2\lambda
#    \end{pmatrix}$. Its determinant is proportional to $\beta\sigma^2\lambda - \lambda^2$, which is negative, so that
#    the form takes negative values, if and only if $\lambda > \beta\sigma^2$.

# %%
still, _ = train(schedules["constant"], start=0.0, steps=50)
assert (still == 0).all()
