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
# # 19. The same model, in plain Pyro and in the zoo
#
# A page of the zoo is a Pyro program. To see that nothing is hidden, this chapter writes scVI with negative binomial
# counts in plain Pyro, gives it the weights of the page, and compares numbers: the joint density, the loss, every step
# of a training, and the evidence. Then it shows a trap of plain Pyro that the zoo avoids.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import MLP, NB, ReadCell

pyro.set_rng_seed(19)

# %% [markdown]
# ## In plain Pyro
#
# The model of a cell with batch $b$, counts $x$ and total count $l = \sum_g x_g$ is
#
# $$z \sim N(0, I), \qquad \rho = \text{softmax}(f(z, d)), \qquad
#   x_g \sim \text{NB}(\text{mean } l \rho_g,\; \theta_g),$$
#
# where $d$ is the batch as a row of zeros with a single 1, and $f$ a network. The guide is
# $q(z \mid x) = N(\mu(h), \text{diag}\,\sigma(h)^2)$ with $h$ from a second network that reads $\log(1+x)$.


# %%
def hidden(inputs, width):
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU())


class Plain(nn.Module):
    def __init__(self, genes, batches, latent=2, width=16):
        super().__init__()
        self.latent = latent
        self.decoder = nn.Sequential(*hidden(latent + batches, width), nn.Linear(width, genes))
        self.encoder = nn.Sequential(*hidden(genes, width), nn.Linear(width, 2 * latent))
        self.log_theta = nn.Parameter(torch.zeros(genes))

    def model(self, x, d):
        pyro.module("plain", self)
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            log_share = self.decoder(torch.cat([z, d], -1)).log_softmax(-1)
            log_mu = x.sum(-1, keepdim=True).log() + log_share
            counts = dist.NegativeBinomial(self.log_theta.exp(), logits=log_mu - self.log_theta)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, d):
        pyro.module("plain", self)
        with pyro.plate("cells", len(x)):
            mu, raw_sigma = self.encoder(x.log1p()).chunk(2, -1)
            sigma = nn.functional.softplus(raw_sigma) + 1e-4
            pyro.sample("z", dist.Normal(mu, sigma).to_event(1))


# %% [markdown]
# PyTorch's negative binomial counts successes until `total_count` failures. With logits $\log\mu - \log\theta$ its mean
# is $\mu$ and its variance $\mu + \mu^2/\theta$ (chapter 2).
#
# ## In the zoo
#
# The same, declared. A declaration gets its size from the cells: `sized`.

# %%
adata = simulated(cells=200, genes=20, types=3, batches=2, size=200, seed=1)
cells = ps.Fields(batch="batch").read(adata)
declared = SCVI(latent=2, decoder=MLP(widths=16), likelihood=NB())
model = declared.sized(cells.dims)
guide = MeanField(encoder=ReadCell(widths=16, dropout=0.0)).sized(model, cells)
print(model)
print(guide)

x, d = cells.x, nn.functional.one_hot(cells.batch).float()
plain = Plain(genes=20, batches=2)


def copy_weights(plain, model, guide):
    """Set the weights of the plain model to those of the page and its guide."""
    hidden_of = {plain.decoder: model.decoder.layers, plain.encoder: guide.encoder.layers}
    heads = {plain.decoder: model.decoder.heads["rho"], plain.encoder: guide.heads["z"]}
    for network, layers in hidden_of.items():
        network[0].load_state_dict(layers.linear[0].state_dict())
        network[1].load_state_dict(layers.norms[0].norm.state_dict())
        network[3].load_state_dict(heads[network].state_dict())
    with torch.no_grad():
        plain.log_theta.copy_(model.likelihood.dispersion.log_theta)


copy_weights(plain, model, guide)

# %% [markdown]
# ## Equal numbers: the density
#
# `poutine.trace` runs a program and keeps every sample site; `poutine.replay` runs it with given values. Both programs
# get the same $z$, and every site must have the same log-probability, for every cell.


# %%
def densities(model, guide, *data):
    """log q(z | x), log p(z) and log p(x | z) of every cell, for one draw of z with a fixed seed."""
    torch.manual_seed(0)
    q = poutine.trace(guide).get_trace(*data)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*data)
    q.compute_log_prob()
    p.compute_log_prob()
    found = {"log q(z | x)": q.nodes["z"], "log p(z)": p.nodes["z"], "log p(x | z)": p.nodes["x"]}
    return {name: site["log_prob"].detach() for name, site in found.items()}


with torch.no_grad():
    by_hand, of_zoo = densities(plain.model, plain.guide, x, d), densities(model, guide, cells)
for name in by_hand:
    difference = (by_hand[name] - of_zoo[name]).abs().max()
    print(
        f"{name:13s} plain {by_hand[name].sum():11.3f}, zoo {of_zoo[name].sum():11.3f}, largest difference {difference:.1e}"
    )
    torch.testing.assert_close(by_hand[name], of_zoo[name], rtol=1e-4, atol=1e-3)

# %% [markdown]
# ## Equal numbers: every step of a training
#
# Plain `SVI` trains both, from the same weights and with the same random numbers.


# %%
def train(model, guide, *data, steps=30, fresh=True):
    """The loss of every step, in nats a cell."""
    if fresh:
        pyro.clear_param_store()
    torch.manual_seed(1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    return np.array([svi.step(*data) for _ in range(steps)]) / len(x)


losses = {"plain Pyro": train(plain.model, plain.guide, x, d), "zoo": train(model, guide, cells)}
difference = np.abs(losses["plain Pyro"] - losses["zoo"])
print(
    f"loss {losses['zoo'][0]:.2f} at the start, {losses['zoo'][-1]:.2f} at the end; they differ by at most {difference.max():.1e}"
)
assert losses["zoo"][-1] < losses["zoo"][0] - 1
assert difference.max() < 0.02

figure, axes = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
axes[0].plot(losses["plain Pyro"], lw=5, color="0.8", label="plain Pyro")
axes[0].plot(losses["zoo"], "C0", lw=1.2, label="zoo")
axes[0].set(xlabel="step", ylabel="loss (nats a cell)", title="The same weights, the same seed")
axes[0].legend(frameon=False)
axes[1].semilogy(difference + 1e-7, "C3.", ms=4)
axes[1].set(xlabel="step", ylabel="difference (nats a cell)", title="What is left is rounding")
plt.show()

# %% [markdown]
# Rounding errors of single precision are about $10^{-7}$ of a number, and each step adds some.
#
# ## Equal numbers: the evidence
#
# The evidence of a cell is $p(x \mid l) = \mathbb{E}_{q}[p(x, z \mid l)/q(z \mid x)]$ (chapter 13). By hand: 500 draws
# of $z$ for each of 30 cells. The zoo improves the proposal of each cell first.


# %%
def evidence_by_hand(plain, x, d, draws=500):
    """An estimate of log p(x | l) of every cell, and its standard error."""
    found = densities(plain.model, plain.guide, x.repeat(draws, 1), d.repeat(draws, 1))
    log_w = found["log p(z)"] + found["log p(x | z)"] - found["log q(z | x)"]
    log_w = log_w.reshape(draws, len(x)).double()
    w = (log_w - log_w.max(0).values).exp()
    return log_w.logsumexp(0) - np.log(draws), w.std(0) / w.mean(0) / draws**0.5


fit = ps.fit(model, guide, cells, epochs=15, lr=1e-2, seed=0, progress=False)
copy_weights(plain, fit.model, fit.guide)
some = torch.arange(30)
estimate, error = evidence_by_hand(plain, x[some], d[some])
zoo = torch.from_numpy(fit.log_evidence(cells.subset(some), progress=False))
print(f"evidence of 30 cells: by hand {estimate.mean():.3f}, zoo {zoo.mean():.3f} nats a cell")
print(
    f"average difference {(estimate - zoo).mean():.4f}, its standard error {error.square().mean().sqrt() / 30**0.5:.4f}"
)
assert abs((estimate - zoo).mean()) < 5 * error.square().mean().sqrt() / 30**0.5 + 0.005

# %% [markdown]
# ## Breaking it: one store of parameters for all models
#
# `pyro.module("plain", self)` registers the weights under names in a *global* store, and `SVI` trains what the store
# has. If the names are taken, by a model that was trained before in the same session, then `SVI` gets the weights of
# **that** model. The second model is not trained at all. No error is raised.

# %%
torch.manual_seed(2)
first, second = Plain(20, 2), Plain(20, 2)
of_first = train(first.model, first.guide, x, d, steps=15)
of_second = train(second.model, second.guide, x, d, steps=15, fresh=False)
print(
    f"loss of the first model {of_first[0]:.2f} to {of_first[-1]:.2f}, of the second {of_second[0]:.2f} to {of_second[-1]:.2f}"
)
assert of_first[-1] < of_first[0] - 1
try:
    assert of_second[-1] < of_second[0] - 1, "the second model has not been trained"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed

# %% [markdown]
# The remedy in plain Pyro is another name, or `pyro.clear_param_store()`. A program of the zoo announces its parameters
# to `SVI` with each call, and writes nothing into the store:

# %%
torch.manual_seed(2)
for _ in range(2):
    model = declared.sized(cells.dims)
    guide = MeanField().sized(model, cells)
    loss = train(model, guide, cells, steps=15, fresh=False)
    print(f"loss {loss[0]:.2f} to {loss[-1]:.2f}")
    assert loss[-1] < loss[0] - 1
pyro.clear_param_store()

# %% [markdown]
# ## What the page leaves to the library
#
# | in plain Pyro, by hand | in the zoo |
# |---|---|
# | the batch as zeros and ones | `OneHot("batch")`, from names in the file |
# | the scale of a minibatch (chapter 7) | `cells.plate()` |
# | another likelihood: rewrite `model` and the decoder | `likelihood=ZINB()` |
# | another guide: rewrite `guide` | `FullCovariance()` |
# | warm-up, learning rates, when to stop | `fit` |
# | evidence, comparison, calibration | `compare`, `calibrate` |
#
# ## Exercises
#
# 1. Leave out `.to_event(1)` of `z` in the plain model. What does Pyro say, and why?
# 2. What changes in `Plain` for zero inflation? Count the lines. What changes in the zoo?
#
# ### Solutions
#
# 1. The plate has dimension -1, of size 200. Without `.to_event(1)` the last dimension of $z$, of size 2, is taken for
#    the plate, and Pyro raises an error about shapes (next cell). If the state had as many dimensions as there are
#    cells, no error would be raised: declare events always.
# 2. The decoder needs a second output for the gate, and the distribution is `ZeroInflatedNegativeBinomial`: three
#    lines. In the zoo, one word: `SCVI(latent=2, decoder=MLP(widths=16), likelihood=ZINB())`.


# %%
def without_event(x):
    with pyro.plate("cells", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))


try:
    without_event(x)
except ValueError as error:
    print("ValueError:", str(error).splitlines()[0])
    refused = True
assert refused
