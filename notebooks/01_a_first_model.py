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
# This chapter declares models, fits them, looks at the results and compares the fits. Its cells are simulated, so that
# every result can be compared with the truth. The last section explains what changes for your own data.

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

adata = simulated(cells=400, genes=60, types=4, batches=2, theta=2.0, size=300, seed=1)
adata

# %% [markdown]
# ## From an AnnData to cells
#
# `Fields` names the columns and layers that a model needs. `read` checks every count, and raises an error for values
# that cannot be counts.

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
# A declared model is a value, and its printed form is its whole configuration. To change a part of it, such as the
# likelihood, give another object.

# %%
declared = {
    "poisson": (SCVI(likelihood=Poisson()), MeanField()),
    "nb": (SCVI(likelihood=NB()), MeanField()),
    "nb, full covariance": (SCVI(likelihood=NB()), FullCovariance()),
}
for name, (model, guide) in declared.items():
    print(f"{name:20s} {model!r:32s} {guide!r}")

# %% [markdown]
# `SCVI` is a page of the zoo: one file with one generative process. `pyroscvi show scvi` prints it at the command line.
# The generative process is these lines:

# %%
import inspect

print(inspect.getsource(SCVI.model))

# %% [markdown]
# ## Fit
#
# `fit(model, guide, train)` fits one model. `sweep` fits all that are declared, each with three seeds, because another
# seed gives another fit: `fits["nb"]` is the first of the three. Few epochs are enough for these small data; without
# `epochs`, their number follows from the number of cells. The history of a fit is a table.

# %%
fits = ps.sweep(declared, train, epochs=40, batch_size=160, lr=3e-2, progress=False)
fits["nb"].history.tail(3)

# %% [markdown]
# ## Look
#
# The latent state of a cell is the mean of its posterior. The decoder gets the batch of a cell as an input, so that the
# state does not need to contain it; the encoder gets the counts only.

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
# The simulation kept the true mean of every count. The means that the model estimates are closer to the truth than the
# counts are.

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
# *evidence*, and says which differences are larger than the chance of cells and seeds. The simulated counts are
# over-dispersed, which a Poisson is not. The posteriors of these cells have small correlations, so that a full
# covariance improves little.
#
# A fit that still improved when its training ended is marked "not converged", and its verdict is "undecided": with more
# epochs its number would change. So look at the size of the difference too, beside its 95% interval.

# %%
comparison = ps.compare(fits, held_out)
comparison

# %%
assert comparison.table.index[-1] == "poisson"
assert comparison.table.loc["poisson", "difference"] < -2 * comparison.table.loc["poisson", "interval"]

# %% [markdown]
# ## Which genes?
#
# A linear decoder has a loading for every gene and latent dimension. Which genes distinguish the first type from the
# others? The truth is known from the simulation. The loadings of the direction that separates this type agree with it.

# %%
linear = ps.fit(LDVAE(latent=6), MeanField(), train, epochs=90, batch_size=160, lr=2e-2, seed=0, progress=False)
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
# ## Save and load

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    fits["nb"].save(f"{folder}/nb")
    again = ps.load(f"{folder}/nb")
assert (again.latent(cells) == fits["nb"].latent(cells)).all()
print(again)

# %% [markdown]
# ## Your own cells
#
# Read them with their own fields, `ps.Fields(counts="counts", batch="donor", label="cell_type").read(adata)`, on a
# few thousand variable genes (`pyroscvi.data.datasets.highly_variable`). Without `epochs`, `fit` chooses their number.
# Save the latent states for scanpy, `adata.obsm["X_pyroscvi"] = fit.latent(cells)`, and continue with
# `sc.pp.neighbors(adata, use_rep="X_pyroscvi")`.
#
# **Try it.** Add `"zinb": (SCVI(likelihood=ZINB()), MeanField())` to the declarations. There is no zero inflation in
# these counts. Does `compare` show this?
