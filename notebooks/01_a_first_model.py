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
# # 1. A first model
#
# Declare, fit, look, compare. The cells of this chapter are simulated, so that everything the models say of them can be
# held against the truth; the last section says what changes for your own.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import pyroscvi as ps
from pyroscvi.data.datasets import simulated
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import LDVAE, SCVI
from pyroscvi.parts import NB, Poisson

adata = simulated(cells=800, genes=80, types=4, batches=2, theta=2.0, size=400, seed=1)
adata

# %% [markdown]
# ## From an AnnData to cells
#
# `Fields` says where things are. Reading looks at every count once, and refuses what cannot be counts.

# %%
cells = ps.Fields(counts="counts", batch="batch", label="cell_type").read(adata)
train, held_out = cells.split(0.2, by="batch", seed=0)
print(cells)
print(train)
print(held_out)
assert len(train) + len(held_out) == adata.n_obs

# %% [markdown]
# ## Declare
#
# A model is a value. It prints as it was typed, and it is the whole configuration: swap a slot by naming another
# object.

# %%
declared = {
    "poisson": (SCVI(likelihood=Poisson()), MeanField()),
    "nb": (SCVI(likelihood=NB()), MeanField()),
    "nb, full covariance": (SCVI(likelihood=NB()), FullCovariance()),
}
for name, (model, guide) in declared.items():
    print(f"{name:20s} {model!r:32s} {guide!r}")

# %% [markdown]
# What is a `SCVI`? A page. `pyroscvi show scvi` prints it at the command line; its story is these lines:

# %%
import inspect  # noqa: E402

print(inspect.getsource(SCVI.model))

# %% [markdown]
# ## Fit
#
# Fitting holds a tenth of the cells back to stop by, and keeps the best state. The history is a table.

# %%
fits = {
    name: ps.fit(model, guide, train, epochs=120, lr=4e-3, seed=0, progress=False)
    for name, (model, guide) in declared.items()
}
fits["nb"].history.tail(3)

# %% [markdown]
# ## Look
#
# The latent state of a cell is the mean of its posterior. The encoder was shown counts only, and the decoder is told
# the batch, so that the state has no need to carry it.

# %%
z = fits["nb"].latent(cells)
plane = PCA(2).fit_transform(z)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharex=True, sharey=True)
for axis, field in zip(axes, ("cell_type", "batch"), strict=True):
    for level in adata.obs[field].cat.categories:
        chosen = adata.obs[field] == level
        axis.plot(*plane[chosen].T, ".", ms=4, label=level)
    axis.set(title=field, xlabel="first component of z", ylabel="second")
    axis.legend(frameon=False, markerscale=2)
plt.show()

clusters = KMeans(4, n_init=10, random_state=0).fit_predict(z)
recovered = adjusted_rand_score(adata.obs["cell_type"], clusters)
mixed = adjusted_rand_score(adata.obs["batch"], clusters)
print(f"clusters of z against cell type: ARI {recovered:.2f}; against batch: {mixed:.2f}")
assert recovered > 0.9
assert abs(mixed) < 0.05

# %% [markdown]
# The rate that a model finds behind the counts can be held against the truth, which the simulation kept. It is closer
# to it than the counts are.

# %%
share = np.asarray(adata.layers["mean"]) / adata.obs["size"].to_numpy()[:, None]
denoised = fits["nb"].denoise(cells)
counts = adata.X.toarray()
raw = counts / counts.sum(1, keepdims=True)
error = {
    "counts": np.abs(raw - share).mean(),
    "model": np.abs(denoised / denoised.sum(1, keepdims=True) - share).mean(),
}
print(f"mean absolute error of a gene's share: counts {error['counts']:.4f}, model {error['model']:.4f}")
assert error["model"] < 0.5 * error["counts"]

# %% [markdown]
# ## Compare
#
# Which model predicts new cells better? `compare` estimates the log-probability of every held-out cell's counts, its
# *evidence*, and says which differences can be told apart. The counts were drawn with over-dispersion, which a Poisson
# does not have; the posterior of these cells is hardly correlated, so that a full covariance has little to add.

# %%
comparison = ps.compare(fits, held_out, particles=300)
comparison

# %%
assert comparison.table.index[-1] == "poisson"
assert comparison.table.loc["poisson", "verdict"] == "told apart"

# %% [markdown]
# ## Ask the genes
#
# A linear decoder has a loading for every gene and latent dimension. Which genes tell the first type from the others?
# The simulation knows, and the loadings of the direction that separates the type agree.

# %%
linear = ps.fit(LDVAE(latent=6), MeanField(), train, epochs=150, lr=1e-2, seed=0, progress=False)
loadings = linear.loadings()
z = linear.latent(cells)
own = (adata.obs["cell_type"] == "type0").to_numpy()
direction = loadings.to_numpy() @ (z[own].mean(0) - z[~own].mean(0))
log_share = adata.varm["log_share"]
truth = log_share[:, 0] - log_share[:, 1:].mean(1)
agreement = np.corrcoef(direction, truth)[0, 1]
print(f"log-fold changes of type0, model against truth: correlation {agreement:.2f}")
print("highest:", ", ".join(loadings.index[np.argsort(-direction)[:5]]))
assert agreement > 0.85

# %% [markdown]
# ## Keep it

# %%
import tempfile  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    fits["nb"].save(f"{folder}/nb")
    again = ps.load(f"{folder}/nb")
assert (again.latent(cells) == fits["nb"].latent(cells)).all()
print(again)

# %% [markdown]
# ## Your own cells
#
# Read them with their own fields, `ps.Fields(counts="counts", batch="donor", label="cell_type").read(adata)`, on a
# few thousand variable genes (`pyroscvi.data.datasets.highly_variable`). Leave `epochs` away and `fit` chooses them.
# Write the result where scanpy looks for it, `adata.obsm["X_pyroscvi"] = fit.latent(cells)`, and go on with
# `sc.pp.neighbors(adata, use_rep="X_pyroscvi")`.
#
# **Try it.** Add `"zinb": (SCVI(likelihood=ZINB()), MeanField())` to the declarations. There is no zero inflation in
# these counts. Does `compare` say so?
