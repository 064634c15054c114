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
# # 7. Plates and minibatches
#
# Cells are independent given the parameters. A **plate** says so, and it does two jobs: it adds up log-probabilities
# over cells, and it says how many cells a minibatch stands for. This chapter derives the second job and checks it
# against a posterior that is known exactly. Then it gets the number of cells wrong.

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import constraints

from pyroscvi.data.datasets import pbmc68k_reduced

torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(7)

# %% [markdown]
# ## A sum over cells, estimated from some of them
#
# Let $N$ be the number of cells, and $r$ a latent that all cells **share**, here the rate of a gene. The ELBO is
#
# $$\mathcal{L} = \sum_{n=1}^{N} \mathbb{E}_q[\log p(x_n \mid r)] \;-\; \text{KL}\big(q(r)\,\|\,p(r)\big).$$
#
# Choose $B$ of the $N$ cells at random, the set $M$, and scale their sum by $N/B$:
#
# $$\widehat{\mathcal{L}} = \frac{N}{B} \sum_{n \in M} \mathbb{E}_q[\log p(x_n \mid r)] -
# \text{KL}\big(q(r)\,\|\,p(r)\big).$$
#
# Every cell is in $M$ with probability $B/N$, so the average of $\widehat{\mathcal{L}}$ over all choices is
# $\mathcal{L}$, and the same holds for its gradient. The KL of a shared latent is *not* scaled: it is there once, not
# once per cell.
#
# ## A posterior that is known
#
# $r \sim \text{Gamma}(a_0, b_0)$ and $x_n \sim \text{Poisson}(l_n r)$, with the size $l_n$ of the cell in thousands of
# counts. Multiply: the posterior is $\text{Gamma}(a_0 + \sum_n x_n,\; b_0 + \sum_n l_n)$. The counts are those of the
# gene SRP14 in 240 dendritic cells.

# %%
adata = pbmc68k_reduced()
adata = adata[adata.obs["bulk_labels"] == "Dendritic"]
x = torch.from_numpy(adata[:, "SRP14"].X.toarray()).double().squeeze()
size = torch.from_numpy(adata.obs["n_counts"].to_numpy()).double() / 1000
N, B = len(x), 24
a0, b0 = 1.0, 1.0
exact = dist.Gamma(a0 + x.sum(), b0 + size.sum())
print(f"{N} cells; rate per thousand counts: {exact.mean:.4f} ± {exact.stddev:.4f}")


def model(rows, cells=N):
    """The counts of these rows, which stand for so many cells."""
    r = pyro.sample("r", dist.Gamma(a0, b0))  # outside the plate: shared
    with pyro.plate("cells", size=cells, subsample=rows):
        pyro.sample("x", dist.Poisson(size[rows] * r), obs=x[rows])


def guide(rows, cells=N):
    mean = pyro.param("mean", torch.tensor(1.0), constraint=constraints.positive)
    shape = pyro.param("shape", torch.tensor(300.0), constraint=constraints.positive)
    pyro.sample("r", dist.Gamma(shape, shape / mean))


# %% [markdown]
# Cut an epoch into ten minibatches. The average of their ELBOs is the ELBO of all cells, for the same $r$. We fix $r$
# by giving the guide a single value, so that no chance is left.


# %%
def fixed_guide(rows, cells=N):
    pyro.sample("r", dist.Delta(torch.tensor(0.9)))


parts = torch.randperm(N).split(B)
full = -Trace_ELBO().loss(model, fixed_guide, torch.arange(N))
pieces = torch.tensor([-Trace_ELBO().loss(model, fixed_guide, rows) for rows in parts])
print(f"all cells {full:.6f}; mean of {len(parts)} minibatches {pieces.mean():.6f}; their spread {pieces.std():.1f}")
torch.testing.assert_close(pieces.mean().item(), full)

# %% [markdown]
# ## Training on minibatches
#
# The gradient is right on average, and noisy. So the learning rate falls during the run, and the last states are
# averaged.


# %%
def train(cells, steps=300):
    """Fit the guide with minibatches that claim to stand for so many cells. Returns the guide's Gamma."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    adam = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.985})
    svi, tail = SVI(model, guide, adam, TraceMeanField_ELBO()), []
    for step in range(steps):
        svi.step(torch.randperm(N)[:B], cells)
        adam.step()
        if step >= 0.75 * steps:
            tail.append(torch.stack([pyro.param("mean").detach().log(), pyro.param("shape").detach().log()]))
    mean, shape = torch.stack(tail).mean(0).exp()
    return dist.Gamma(shape, shape / mean)


q = train(cells=N)
print(f"exact        {exact.mean:.4f} ± {exact.stddev:.4f}")
print(f"minibatches  {q.mean:.4f} ± {q.stddev:.4f}")
assert abs(q.mean - exact.mean) < 1.5 * exact.stddev
assert 0.7 < q.stddev / exact.stddev < 1.4

# %% [markdown]
# ## Breaking it: the wrong number of cells
#
# Suppose that the plate is told the size of the minibatch, `size=B`, and not of the data set. The code runs and the
# loss falls. But the guide now learns the posterior given $B$ cells. It is wider by about $\sqrt{N/B}$.

# %%
q_small = train(cells=B)
print(f"plate of {B}  {q_small.mean:.4f} ± {q_small.stddev:.4f}")
try:
    assert 0.7 < q_small.stddev / exact.stddev < 1.4, (
        f"the width is {q_small.stddev / exact.stddev:.1f} times too large"
    )
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed
assert 0.6 < q_small.stddev / exact.stddev / (N / B) ** 0.5 < 1.6

rates = torch.linspace(0.4, 1.4, 400)
plt.figure(figsize=(6.5, 3.4), layout="constrained")
plt.fill_between(rates, exact.log_prob(rates).exp(), color="0.85", label="posterior, exact")
plt.plot(rates, q.log_prob(rates).exp(), label="minibatches, plate of N")
plt.plot(rates, q_small.log_prob(rates).exp(), label="minibatches, plate of B")
plt.gca().set(xlabel="rate of SRP14 per thousand counts", ylabel="density")
plt.legend(frameon=False)
plt.show()

# %% [markdown]
# For a latent of *one cell* this mistake would not show: likelihood and KL of that cell carry the same factor, so it
# cancels. It matters for everything shared: latents outside the plate, and priors of parameters.
#
# ## In the zoo
#
# `Cells` carries its own plate. `cells.plate()` knows how many cells a minibatch stands for, and a page says
# `with cells.plate():`. The average over the minibatches of an epoch is the bound of all cells:

# %%
import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.inference.elbo import bound
from pyroscvi.models import Mixture

torch.set_default_dtype(torch.float32)
cells = ps.Fields().read(adata[:, adata.X.toarray().mean(0) > 0.5].copy())
page = Mixture(kinds=1).sized(cells.dims)
empty = MeanField().sized(page, cells)
of_all = bound(page, empty, cells).total().item()
# the last minibatch may be smaller, and its factor larger: weigh each by its cells
batches = list(cells.minibatches(50, torch.Generator().manual_seed(0)))
mean = sum(len(part) * bound(page, empty, part).total().item() for part in batches) / len(cells)
print(f"all cells {of_all:.3f}, {len(batches)} minibatches of {[len(part) for part in batches]} cells {mean:.3f}")
assert abs(mean / of_all - 1) < 1e-5

# %% [markdown]
# ## Exercises
#
# 1. Where would a latent "rate of this batch" (a group of cells) be sampled: outside the plate, in the plate over
#    cells, or in a plate of its own?
# 2. Why does the width of the posterior go wrong by $\sqrt{N/B}$, and hardly its mean?
#
# ### Solutions
#
# 1. In a plate of its own, over batches, outside the plate over cells. Inside the plate over cells, every *cell* would
#    have its own rate. Without a plate, but with one number per batch, Pyro needs `.to_event(1)`.
# 2. Both posteriors are centred at nearly the same ratio $\sum x / \sum l$, of $N$ cells or on average of $B$. The
#    standard deviation of a Gamma with shape $a$ is its mean divided by $\sqrt{a}$, and $a$ counts the molecules: of
#    $B$ cells there are $B/N$ times as many.

# %%
ratio = (dist.Gamma(a0 + x.sum() * B / N, b0 + size.sum() * B / N).stddev / exact.stddev).item()
print(f"ratio of widths by formula: {ratio:.2f}; square root of N/B: {(N / B) ** 0.5:.2f}")
assert abs(ratio / (N / B) ** 0.5 - 1) < 0.05
