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
# # 16. Missing genes are not zeros
#
# Two laboratories measured different genes. In the joined table the genes that one of them did not measure are often
# filled with zeros. But "we did not look" and "we looked and found none" are different statements. This chapter derives
# how to leave genes out, exactly, and shows what zeros do instead.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Dirichlet, Poisson

torch.manual_seed(16)

# %% [markdown]
# ## Summing over what was not measured
#
# A cell has a type $y$, and given the type its genes are independent: $p(x \mid y) = \prod_g p(x_g \mid y)$. Let
# $M$ be the
# measured genes. The probability of their counts is the sum over all possible counts of the others,
#
# $$p(x_M \mid y) = \sum_{x_g:\, g \notin M} \prod_g p(x_g \mid y) = \prod_{g \in M} p(x_g \mid y)
#   \prod_{g \notin M} \underbrace{\sum_{x_g} p(x_g \mid y)}_{1} = \prod_{g \in M} p(x_g \mid y).$$
#
# Genes that were not measured just drop out. Nothing is filled in, and nothing is lost. A zero, on the other hand,
# multiplies by $p(x_g = 0 \mid y)$, which is tiny for every type that expresses the gene: a zero is strong evidence
# *against* this type.
#
# ## The truth is known
#
# Three types, 60 genes, 25 molecules a cell. A panel measures 15 of the genes, chosen at random. All rates are known, so
# that Bayes' rule is exact.

# %%
types, genes, n = 3, 60, 1500
profiles = Dirichlet(torch.full((genes,), 0.7)).sample((types,))
profiles = 0.6 * Dirichlet(torch.full((genes,), 0.7)).sample() + 0.4 * profiles  # similar types
weights = torch.tensor([0.5, 0.3, 0.2])
truth = torch.multinomial(weights, n, replacement=True)
x = torch.poisson(25 * profiles[truth])
measured = torch.zeros(genes, dtype=torch.bool)
measured[torch.randperm(genes)[:15]] = True


def posterior(x, genes=None):
    """P(y | counts) of every cell [n, types], from all genes or from the chosen ones."""
    log_p = Poisson(25 * profiles).log_prob(x.unsqueeze(1))
    return (weights.log() + (log_p if genes is None else log_p[..., genes]).sum(-1)).softmax(-1)


zeros_filled = torch.where(measured, x, 0.0)
answers = {
    "all genes": posterior(x),
    "left out": posterior(x, measured),
    "counted as zero": posterior(zeros_filled),
}


def report(probability):
    """The share of right types, and what a calibrated posterior would expect it to be."""
    right = (probability.argmax(1) == truth).float().mean().item()
    return right, probability.max(1).values.mean().item()


reports = {name: report(probability) for name, probability in answers.items()}
for name, (right, expected) in reports.items():
    print(f"{name:16s} {right:.1%} of the types are right; the model itself expects {expected:.1%}")

# %% [markdown]
# A posterior is **calibrated** if it is right as often as it expects to be. With 1,500 cells, chance explains a
# difference of about 0.03.

# %%
for name in ("all genes", "left out"):
    right, expected = reports[name]
    assert abs(right - expected) < 0.045
assert reports["all genes"][0] > reports["left out"][0]  # fewer genes, less information: this is honest

# %% [markdown]
# ## Breaking it: zeros

# %%
right, expected = reports["counted as zero"]
try:
    assert abs(right - expected) < 0.045, f"it is right in {right:.0%} of the cells, and expects {expected:.0%}"
except AssertionError as error:
    print("AssertionError:", error)
    failed = True
assert failed
assert right < reports["left out"][0] - 0.05

share = {name: torch.bincount(probability.argmax(1), minlength=types) / n for name, probability in answers.items()}
measured_part = profiles[:, measured].sum(1)
print("share of each type's molecules in the panel:", measured_part.numpy().round(2))
print("types called with zeros:", share["counted as zero"].numpy().round(2), "; prior:", weights.numpy().round(2))
assert share["counted as zero"].argmax() == measured_part.argmax()

# %% [markdown]
# The zeros say: "this cell has few molecules outside the panel". So each cell is taken for the type that has the most
# of its molecules *inside* the panel, and the model is very sure of it.

# %%
positions = torch.arange(3)
plt.figure(figsize=(6.5, 3.2), layout="constrained")
for shift, column, label in ((-0.2, 0, "types that are right"), (0.2, 1, "what the model expects")):
    plt.bar(positions + shift, [both[column] for both in reports.values()], width=0.38, label=label)
plt.xticks(positions, list(reports)), plt.ylabel("share of cells"), plt.ylim(0, 1.25)
plt.legend(frameon=False, loc="upper left", ncol=2)
plt.show()

# %% [markdown]
# ## Real cells, in the zoo
#
# `Fields.read` knows which genes are absent from an AnnData. With `missing="marginalise"` they are left out; with
# `missing="zero"` they are counted as zero. `Mixture` (chapter 8) learns five kinds from half of the blood cells with
# 80 genes. For the other half there is only a panel of 20 genes, which somebody chose because B cells express them more
# than other cells do. Which kind is each cell of? The answer with all genes is the reference.

# %%
import pyroscvi as ps
from pyroscvi.data.datasets import highly_variable, pbmc68k_reduced
from pyroscvi.guides import MeanField
from pyroscvi.models import Mixture

adata = pbmc68k_reduced()
adata = adata[:, list(highly_variable(adata, 80))].copy()
half, query = adata[::2].copy(), adata[1::2].copy()
settings = {"epochs": 15, "batch_size": 175, "lr": 3e-2, "seed": 0, "progress": False}
fit = ps.fit(Mixture(kinds=5), MeanField(), ps.Fields().read(half), **settings)
reference = fit.probabilities(query, "k").to_numpy().argmax(1)

log_counts, b_cell = np.log1p(half.to_df()), half.obs["bulk_labels"] == "CD19+ B"
panel = (log_counts[b_cell].mean() - log_counts[~b_cell].mean()).nlargest(20).index
agreement = {}
for missing in ("marginalise", "zero"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning lists the missing genes
        cells = fit.fields.read(query[:, panel].copy(), missing=missing)
    agreement[missing] = (fit.probabilities(cells, "k").to_numpy().argmax(1) == reference).mean()
    print(f"missing={missing!r:13s}: the same kind as with all genes in {agreement[missing]:.0%} of the cells")
assert agreement["marginalise"] > 0.7
assert agreement["zero"] < 0.5

# %% [markdown]
# An **encoder** is another matter: a network that was trained on all genes reads a zero where nothing was measured. The
# library fills in what its model expects before the encoder reads; see "Genes that were not measured" in the
# documentation.
#
# ## Exercises
#
# 1. A joined table has zeros for missing genes already. Can the model find out which genes were not measured?
# 2. The missing genes are replaced by their average over other cells. Why is this better than zero, and still wrong?
#
# ### Solutions
#
# 1. Not with certainty: a gene without any count in one data set may be missing or not expressed. Read the parts
#    before they are joined: the list of genes of each part is the answer.
# 2. The average is no evidence against types that express the gene. But it is evidence *for* the average type, and it
#    is counted as if it had been measured. The posterior is surer than it should be, as the next cell shows.

# %%
average = (25 * weights @ profiles).round()
filled = torch.where(measured, x, average)
right, expected = report(posterior(filled))
print(f"filled with averages: right {right:.1%}, expected {expected:.1%}; left out: right {reports['left out'][0]:.1%}")
assert right <= reports["left out"][0] + 0.02
