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
# # 22. VAEs beside flows, diffusion and GANs
#
# Four families of models learn to make new data. They answer different questions. This chapter builds all four for
# data on a line, where every density can be drawn and the truth is known. The second half chooses a decoder for the
# data, and the number of latent dimensions, by evidence and not by rule of thumb.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import nbinom, norm, poisson
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

torch.manual_seed(22)
rng = np.random.default_rng(22)

# %% [markdown]
# ## The data
#
# A gene whose log-expression has two modes: $0.3\, N(-2, 0.5^2) + 0.7\, N(1.5, 0.7^2)$. There are 2,000 cells.

# %%
truth = MixtureSameFamily(
    Categorical(torch.tensor([0.3, 0.7])), Normal(torch.tensor([-2.0, 1.5]), torch.tensor([0.5, 0.7]))
)
x = truth.sample((2000, 1))
grid = torch.linspace(-5, 5, 401).unsqueeze(-1)
step = (grid[1] - grid[0]).item()
p = truth.log_prob(grid).exp().squeeze(-1)


def network(inputs, outputs, width=24):
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )


def train(loss, parameters, steps=300, lr=1e-2, size=256):
    """Minimise the loss of minibatches of x by Adam, while the learning rate falls to zero."""
    adam = torch.optim.Adam(parameters, lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss(x[torch.randint(len(x), (size,))]).backward()
        adam.step()
        decay.step()


def distance(log_q):
    """KL(truth || q) in nats, by a sum over the grid."""
    return (p * (p.log() - log_q).nan_to_num() * step).sum().item()


# %% [markdown]
# ## Flow: what is the density of this cell?
#
# Let $u \sim N(0,1)$ and $u = g(x)$ with an increasing function $g$. Probability is conserved, so
#
# $$\log p(x) = \log N(g(x); 0, 1) + \log g'(x).$$
#
# The density is **exact**, with no bound and no integral. The price: $g$ must be invertible, so the latent has as many
# dimensions as the data, and means nothing by itself. Here $g$ is a sum of increasing curves.

# %%
curves = {
    name: nn.Parameter(value)
    for name, value in (
        ("weight", torch.zeros(12)),
        ("slope", torch.ones(12)),
        ("centre", torch.linspace(-3, 3, 12)),
        ("line", torch.zeros(2)),
    )
}


def flow_log_density(x):
    slope, weight = softplus(curves["slope"]) + 0.1, softplus(curves["weight"])
    t = (slope * (x - curves["centre"])).tanh()
    line = softplus(curves["line"][0])
    u = line * x.squeeze(-1) + curves["line"][1] + (weight * t).sum(-1)
    return Normal(0.0, 1.0).log_prob(u) + (line + (weight * slope * (1 - t**2)).sum(-1)).log()


train(lambda batch: -flow_log_density(batch).mean(), curves.values(), steps=500, lr=1e-1)
with torch.no_grad():
    flow = flow_log_density(grid)
print(f"flow: total probability {flow.exp().sum() * step:.4f}, KL from the truth {distance(flow):.4f} nats")
assert abs(flow.exp().sum() * step - 1) < 0.01
assert distance(flow) < 0.05

# %% [markdown]
# ## VAE: what is the state of this cell?
#
# $z \sim N(0,1)$ and $x \sim N(f(z), s^2)$. The density is an integral over $z$; training uses the ELBO (chapter 4), a
# bound. In return each cell has a posterior $q(z \mid x)$: a state, with its uncertainty. The likelihood may be any
# distribution, also one of counts, and $z$ may have fewer dimensions than the data.

# %%
decoder, encoder, log_s = network(1, 1), network(1, 2), nn.Parameter(torch.tensor(-0.5))


def elbo(x):
    m, raw = encoder(x).chunk(2, -1)
    q = Normal(m, softplus(raw) + 1e-3)
    z = q.rsample()
    likelihood = Normal(decoder(z), log_s.exp()).log_prob(x)
    return (likelihood + Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).squeeze(-1)


train(lambda batch: -elbo(batch).mean(), [*decoder.parameters(), *encoder.parameters(), log_s], steps=500)
with torch.no_grad():
    z = torch.linspace(-5, 5, 1001).unsqueeze(-1)
    joint = Normal(decoder(z).T, log_s.exp()).log_prob(grid) + Normal(0.0, 1.0).log_prob(z).T
    vae = joint.logsumexp(-1) + np.log(0.01)
    bound = (p * torch.stack([elbo(grid) for _ in range(50)]).mean(0) * step).sum()
print(
    f"VAE: KL from the truth {distance(vae):.4f} nats; ELBO {bound:.3f}, log p(x) {(p * vae * step).sum():.3f} a cell"
)
assert bound < (p * vae * step).sum()
assert distance(vae) < 0.2

# %% [markdown]
# ## Diffusion: how does one remove noise?
#
# Add noise to a cell, $x_t = \sqrt{1-t}\, x + \sqrt{t}\, \epsilon$ with $\epsilon \sim N(0,1)$ and $t$ from 0 to 1. A
# network $\hat x(x_t, t)$ learns to guess the cell, by least squares. The best guess is a mean, and has a formula
# [Tweedie; Vincent, 2011]:
#
# $$\mathbb{E}[x \mid x_t] = \frac{1}{\sqrt{1-t}} \Big( x_t + t\, \frac{\partial}{\partial x_t} \log p_t(x_t) \Big),$$
#
# where $p_t$ is the density of $x_t$. The derivative is the **score**: it points to where the density is higher. To
# make a cell, start at pure noise, $t = 1$, and go to $t = 0$ in small steps: guess the cell, and with it the noise,
# and mix both again with a little less noise. For a mixture of Gaussians $p_t$ is again a mixture of Gaussians, so the
# best guess is known.

# %%
denoiser = network(2, 1, width=48)


def learned_guess(x_t, t):
    """The network corrects x_t: by little where there is little noise."""
    t = torch.as_tensor(t).expand_as(x_t)
    return (1 - t).sqrt() * x_t + t.sqrt() * denoiser(torch.cat([x_t, t], -1))


def noised(x, t):
    return (1 - t).sqrt() * x + t.sqrt() * torch.randn_like(x)


def guess_loss(batch):
    t = torch.rand(len(batch), 1)
    return (learned_guess(noised(batch, t), t) - batch).square().mean()


def best_guess(x_t, t):
    """E[x | x_t], from the formula, for one t."""
    keep, means, sds = (1 - t) ** 0.5, torch.tensor([-2.0, 1.5]), torch.tensor([0.5, 0.7])
    variance = (keep * sds) ** 2 + t
    weight = (torch.tensor([0.3, 0.7]).log() + Normal(keep * means, variance.sqrt()).log_prob(x_t)).softmax(-1)
    score = (weight * (keep * means - x_t) / variance).sum(-1, keepdim=True)
    return (x_t + t * score) / keep


def generate(guess, n=4000, steps=40):
    """Cells from noise: at every step guess the cell and the noise, and mix them with a little less noise."""
    x_t = torch.randn(n, 1)
    for t, earlier in pairwise(torch.linspace(0.999, 0, steps + 1).tolist()):
        cell = guess(x_t, t)
        noise = (x_t - (1 - t) ** 0.5 * cell) / t**0.5
        x_t = (1 - earlier) ** 0.5 * cell + earlier**0.5 * noise
    return x_t


train(guess_loss, denoiser.parameters(), steps=700)
with torch.no_grad():
    at = 0.5
    x_t = noised(x, torch.tensor(at))
    error = (learned_guess(x_t, at) - best_guess(x_t, at)).square().mean().sqrt().item()
    made = {"diffusion, best guess": generate(best_guess), "diffusion": generate(learned_guess)}
print(f"diffusion: the learned guess differs from the best one by {error:.3f}; cells have spread {x.std():.1f}")
assert error < 0.2

# %% [markdown]
# ## GAN: can you tell mine from yours?
#
# A **discriminator** $D(x)$ is trained to tell real cells from those of a generator $G(u)$, and $G$ is trained to fool
# it. If $G$ has the density $q$, the best discriminator has the logit [Goodfellow et al., 2014]
#
# $$\text{logit}\, D(x) = \log p(x) - \log q(x).$$
#
# So a discriminator estimates a *ratio* of densities. First with a generator that is known, $q = N(0, 2^2)$; then both
# are trained in turns.

# %%
critic = network(1, 1)


def critic_loss(real, fake):
    answers, wanted = critic(torch.cat([real, fake])), torch.cat([torch.ones(len(real), 1), torch.zeros(len(fake), 1)])
    return binary_cross_entropy_with_logits(answers, wanted)


train(lambda batch: critic_loss(batch, 2 * torch.randn_like(batch)), critic.parameters())
with torch.no_grad():
    ratio = truth.log_prob(x) - Normal(0.0, 2.0).log_prob(x)
    agreement = np.corrcoef(critic(x).squeeze(), ratio.squeeze())[0, 1]
print(f"GAN: logit of the discriminator against the true log ratio, correlation {agreement:.3f}")
assert agreement > 0.9

generator, critic = network(1, 1), network(1, 1)
of_critic = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.9))
of_generator = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
left_in_time = []
for _ in range(400):
    real = x[torch.randint(len(x), (128,))]
    of_critic.zero_grad()
    critic_loss(real, generator(torch.randn(128, 1)).detach()).backward()
    of_critic.step()
    of_generator.zero_grad()
    fake = generator(torch.randn(128, 1))
    softplus(-critic(fake)).mean().backward()
    of_generator.step()
    left_in_time.append((fake < 0).float().mean().item())

# %% [markdown]
# ## Side by side
#
# Which share of the cells that a model makes is in the left mode? The truth is 0.30. The distance is the mean absolute
# difference of sorted cells (the Wasserstein distance). The last panel shows something else: the two networks of the
# GAN chase each other, and there is no loss that falls.

# %%
with torch.no_grad():
    made["GAN"] = generator(torch.randn(4000, 1))
    made["VAE"] = decoder(torch.randn(4000, 1)) + log_s.exp() * torch.randn(4000, 1)
    made["flow"] = grid[torch.multinomial(flow.exp(), 4000, replacement=True)] + step * (torch.rand(4000, 1) - 0.5)
ideal = truth.sample((4000, 1))
far = {name: (cells.sort(0).values - ideal.sort(0).values).abs().mean().item() for name, cells in made.items()}
for name, cells in made.items():
    print(f"{name:22s} left mode {(cells < 0).float().mean():.2f}, distance {far[name]:.3f}")
chance = np.mean([(truth.sample((4000, 1)).sort(0).values - ideal.sort(0).values).abs().mean() for _ in range(10)])
print(f"{'the truth, again':22s} distance {chance:.3f}")
for name in ("diffusion, best guess", "diffusion", "VAE", "flow"):
    assert far[name] < 0.25
    assert abs((made[name] < 0).float().mean() - 0.3) < 0.08

figure, axes = plt.subplots(1, 5, figsize=(14, 2.9), layout="constrained")
for axis, name in zip(axes, ("flow", "VAE", "diffusion", "GAN"), strict=False):
    axis.hist(made[name].squeeze().numpy(), bins=60, range=(-4.5, 4.5), density=True, color="0.8", label="made")
    axis.plot(grid, p, "k", lw=1, label="truth")
    axis.set(title=name, xlabel="x", yticks=[])
for axis, log_q in ((axes[0], flow), (axes[1], vae)):
    axis.plot(grid, log_q.exp(), "C0--", lw=1.2, label="its density")
axes[0].legend(frameon=False, fontsize=8)
axes[4].plot(left_in_time, lw=0.7)
axes[4].axhline(0.3, color="k", ls=":", lw=0.8)
axes[4].set(title="GAN in training", xlabel="turn", ylabel="share in the left mode")
plt.show()

# %% [markdown]
# | | log p(x) of a cell | state of a cell | makes cells by | trained by |
# |---|---|---|---|---|
# | flow | exact | no: $u$ has all dimensions of the data | one inversion | maximum likelihood |
# | VAE | a bound, and an estimate (chapter 13) | a posterior | one draw of $z$, one of the likelihood | the ELBO |
# | diffusion | only by solving a differential equation | no | many steps | least squares |
# | GAN | no | no | one evaluation | a game |
#
# For counts of cells, one asks for states, for uncertainty, and for the probability of counts; so this library has VAEs
# with likelihoods of counts, a flow as a guide (`Flow()`) and as a prior (`FlowPrior()`). Diffusion makes the best
# images; a picture of a cell is not what is missing here. Differences are not of principle: a diffusion model is a VAE
# with many layers of latents, whose guide is fixed.
#
# ## Which decoder for which data
#
# A frequent advice reads: Gaussian for logarithms, negative binomial for bulk, zero-inflated for sparse single-cell
# counts. Does it hold? One gene, 3,000 cells, four kinds of data whose truth is known. Each likelihood is fitted to one
# half, and scored on the other half, as a probability of the *count*. The Gaussian of $y = \log(1+x)$ gives a count the
# probability of the interval from $\log(x + \frac12)$ to $\log(x + \frac32)$, so that all numbers can be compared.

# %%


def nb(x, log_mean, log_theta):
    theta, mean = np.exp(np.clip(log_theta, -10, 10)), np.exp(log_mean)
    return nbinom.logpmf(x, theta, theta / (theta + mean))


def zinb(x, log_mean, log_theta, gate):
    extra = 1 / (1 + np.exp(-np.clip(gate, -15, 15)))
    return np.logaddexp(np.where(x == 0, np.log(extra), -np.inf), np.log1p(-extra) + nb(x, log_mean, log_theta))


def gaussian(x, mean, log_sd):
    high, low = ((np.log(x + edge) - mean) / np.exp(log_sd) for edge in (1.5, 0.5))
    return np.log(np.clip(norm.cdf(high) - np.where(x == 0, 0.0, norm.cdf(low)), 1e-12, None))


DECODERS = {
    "Gaussian of log(1+x)": (gaussian, lambda x: [np.log1p(x).mean(), np.log(np.log1p(x).std())]),
    "Poisson": (lambda x, log_mean: poisson.logpmf(x, np.exp(log_mean)), lambda x: [np.log(x.mean())]),
    "NB": (nb, lambda x: [np.log(x.mean()), 0.0]),
    "ZINB": (zinb, lambda x: [np.log(x.mean()), 0.0, -3.0]),
}


def draw(mean, theta=np.inf, zeros=0.0, n=3000):
    rate = mean if np.isinf(theta) else rng.gamma(theta, mean / theta, n)
    return rng.poisson(rate, n) * (rng.random(n) >= zeros)


DATA = {
    "bulk, mean 2000": draw(2000, theta=10),
    "UMI, mean 0.3 (sparse)": draw(0.3, theta=0.7),
    "UMI, spike-in": draw(0.3),
    "without UMI, 30% lost": draw(20, theta=3, zeros=0.3),
}
score = {}
for data, counts in DATA.items():
    first, second = counts[::2], counts[1::2]
    for name, (log_p, start) in DECODERS.items():
        found = minimize(
            lambda a, log_p=log_p, first=first: -log_p(first, *a).mean(), start(first), method="Nelder-Mead"
        )
        score[data, name] = log_p(second, *found.x)
    best = max(DECODERS, key=lambda name, data=data: score[data, name].mean())
    behind = {name: score[data, name] - score[data, "NB"] for name in DECODERS if name != "NB"}
    words = ", ".join(f"{name} {d.mean():+.3f} +- {d.std() / len(d) ** 0.5:.3f}" for name, d in behind.items())
    print(f"{data:23s} {np.mean(counts == 0):4.0%} zeros; against NB: {words}")


def gain(data, one, other="NB"):
    """The mean difference of log-probability in standard errors."""
    difference = score[data, one] - score[data, other]
    return difference.mean() / (difference.std() / len(difference) ** 0.5 + 1e-12)


assert gain("without UMI, 30% lost", "Gaussian of log(1+x)") < -5
assert gain("bulk, mean 2000", "Poisson") < -5 and gain("UMI, mean 0.3 (sparse)", "Poisson") < -3
assert abs(score["UMI, spike-in", "Poisson"].mean() - score["UMI, spike-in", "NB"].mean()) < 0.003
assert gain("without UMI, 30% lost", "ZINB") > 5

# %% [markdown]
# ## Breaking it: "sparse, so zero-inflated"
#
# The sparse gene has four zeros in five counts. The advice says ZINB:

# %%
failed = False
try:
    number = gain("UMI, mean 0.3 (sparse)", "ZINB")
    assert number > 3, f"zero inflation gains {number:.1f} standard errors on the sparse gene"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# A small mean explains the zeros. What decides is not how many zeros there are, but whether there are more than the
# mean and the dispersion predict (chapter 3). On the sparse gene even the Gaussian is not worse: where nearly all
# counts are 0, 1 and 2, two parameters fit three probabilities. It loses where counts are larger.
#
# ## How many latent dimensions
#
# Another advice: draw the error of the reconstruction against the number of dimensions. In probabilistic PCA,
# $x \sim N(0, WW^\top + s^2 I)$, both the error and the evidence have formulas [Tipping & Bishop, 1999]. The truth has
# 3 dimensions.

# %%
genes, cells, true = 20, 300, 3
W = rng.normal(size=(genes, true))
values = rng.normal(size=(2 * cells, true)) @ W.T + rng.normal(size=(2 * cells, genes))
seen, new = values[:cells], values[cells:]
spectrum, axes_of = np.linalg.eigh(np.cov(seen.T))
spectrum, axes_of = spectrum[::-1], axes_of[:, ::-1]
dimensions = range(1, 11)
errors, evidence = [], []
for k in dimensions:
    noise = spectrum[k:].mean()
    C = axes_of[:, :k] @ np.diag(spectrum[:k] - noise) @ axes_of[:, :k].T + noise * np.eye(genes)
    evidence.append(-0.5 * (np.linalg.slogdet(2 * np.pi * C)[1] + (new @ np.linalg.inv(C) * new).sum(1)).mean())
    errors.append(np.square(new - new @ axes_of[:, :k] @ axes_of[:, :k].T).mean())
print("dimension with the smallest error:", dimensions[int(np.argmin(errors))])
print("dimension with the largest evidence:", dimensions[int(np.argmax(evidence))])
assert dimensions[int(np.argmax(evidence))] == true
assert dimensions[int(np.argmin(errors))] == 10  # more dimensions never hurt the reconstruction

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axis, numbers, title in (
    (axes[0], errors, "Error of the reconstruction"),
    (axes[1], evidence, "log p(x), nats a cell"),
):
    axis.plot(dimensions, numbers, "o-", ms=4)
    axis.axvline(true, color="k", ls=":", lw=0.8)
    axis.set(xlabel="latent dimensions", title=title + ", new cells")
plt.show()

# %% [markdown]
# The error falls for ever, even on new cells: a projection onto more axes is closer to any cell. The evidence pays for
# every dimension that new cells do not support. In the zoo: `ps.sweep` over `latent=2, 5, 10, 20` and likelihoods, then
# `ps.compare`.
#
# ## Exercises
#
# 1. A VAE's cells look blurred if the likelihood has too much noise. Set $s = 1$ and compute the distance again.
# 2. Why does a VAE with a NB likelihood not need the counts to be normalised first?
#
# ### Solutions
#
# 1. See the next cell: each cell gets noise of its own, which the decoder cannot take away. With $s$ learned, as above,
#    the noise is what it must be.
# 2. The size of the cell is in the mean, $l \rho_g$, and a count has the noise of its mean. After normalisation, small
#    and large cells have different noise, and the likelihood does not know it.

# %%
with torch.no_grad():
    blurred = decoder(torch.randn(4000, 1)) + torch.randn(4000, 1)
print(f"distance {far['VAE']:.3f}; with s = 1 {(blurred.sort(0).values - ideal.sort(0).values).abs().mean():.3f}")
assert (blurred.sort(0).values - ideal.sort(0).values).abs().mean() > far["VAE"]
