"""An example for every page of the zoo, and the picture that it draws: ``python docs/examples.py [page ...]``.

Pictures are kept in ``docs/pictures/zoo``, so that the site is built without a fit. An example is the start below, what
its page fits, and what it draws. The tests run all of them with few cells and epochs.
"""

import sys
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures" / "zoo"

START = """\
import matplotlib.pyplot as plt
import numpy as np

import pyroscvi as ps
from pyroscvi.guides import {guide}
from pyroscvi.models import {model}
{imports}
"""
CELLS = "adata = ps.data.simulated(cells=300, types=4, seed=1)\n"
READ = 'cells = ps.Fields(batch="batch").read(adata)\n'
LABEL = 'cells = ps.Fields(batch="batch", label="cell_type").read(adata)\n'
FIT = "fit = ps.fit({declared}, {guide}(), cells, epochs=60, batch_size=64)\n"
STATES = """
z = fit.latent(cells)
for kind in adata.obs["cell_type"].cat.categories:
    plt.scatter(*z[adata.obs["cell_type"] == kind][:, :2].T, s=6, label=kind)
plt.xlabel("$z_1$"), plt.ylabel("$z_2$"), plt.legend()
"""
POSTERIOR = """
draws = fit.latent(cells.subset([0]), samples=1000)[:, 0]
plt.scatter(*draws.T, s=4, alpha=0.4)
plt.xlabel("$z_1$"), plt.ylabel("$z_2$"), plt.title("posterior of one cell")
"""
TISSUE = """\
adata = ps.data.simulated(cells=300, types=2, sections=1, seed=1)  # two bands of tissue
cells = ps.Fields(spatial="spatial").read(adata)
"""
PLACES = """
z = fit.latent(cells)
plt.scatter(*adata.obsm["spatial"].T, s=12, c=(z - z.mean(0)) @ np.linalg.eigh(np.cov(z.T))[1][:, -1], cmap="coolwarm")
plt.gca().set(aspect="equal", xticks=[], yticks=[]), plt.colorbar(label="first component of z")
"""
NB_PARTS = "from pyroscvi.parts import NB\n"

# page: its class, imports of parts, how cells are read, the declared model, and the picture
MODELS = {
    "scvi": ("SCVI", NB_PARTS, READ, "SCVI(latent=2, likelihood=NB())", STATES),
    "hierarchical": ("Hierarchical", "", READ, "Hierarchical(latent=2, coarse=1)", STATES),
    "ppca": ("PPCA", "", READ, "PPCA(latent=2)", STATES),
    "cvae": (
        "CVAE", "from pyroscvi.parts import OneHot\n", LABEL, 'CVAE(condition=OneHot("batch"))',
        """
a, b = (np.log(fit.denoise(cells, given={"batch": batch}, library=1).mean(0)) for batch in ("batch0", "batch1"))
plt.axline((a.min(), a.min()), slope=1, color="grey", lw=1)
plt.scatter(a, b, s=12)
plt.xlabel("log share, all cells as batch0"), plt.ylabel("log share, all cells as batch1")
""",
    ),
    "gmvae": (
        "GMVAE", "", READ, "GMVAE(latent=2, kinds=4)",
        """
z, kind = fit.latent(cells), np.asarray(fit.probabilities(cells, "k")).argmax(1)
plt.scatter(*z.T, s=6, c=kind, cmap="tab10")
plt.xlabel("$z_1$"), plt.ylabel("$z_2$"), plt.title("most probable kind")
""",
    ),
    "mixture": (
        "Mixture", "", READ, "Mixture(kinds=4)",
        """
p = np.asarray(fit.probabilities(cells, "k"))
order = np.argsort(adata.obs["cell_type"].cat.codes, kind="stable")
plt.imshow(p[order], aspect="auto", interpolation="nearest", cmap="Blues")
plt.xlabel("kind"), plt.ylabel("cell, sorted by type"), plt.colorbar(label="p(k | x)")
""",
    ),
    "annotated": (
        "Annotated", "import pandas as pd\n",
        """\
hidden = np.random.default_rng(0).uniform(size=len(adata)) < 0.8
adata.obs["label"] = pd.Categorical(adata.obs["cell_type"].astype(object).where(~hidden))
cells = ps.Fields(batch="batch", label="label").read(adata)
""",
        "Annotated()",
        """
guess = np.asarray(fit.probabilities(cells, "y")).argmax(1)
table = pd.crosstab(adata.obs["cell_type"][hidden], guess[hidden])
plt.imshow(table, cmap="Blues")
plt.xticks(range(len(table))), plt.yticks(range(len(table)))
plt.xlabel("most probable type"), plt.ylabel("true type, hidden"), plt.colorbar(label="cells")
""",
    ),
    "scanvi": (
        "SCANVI", "", LABEL, "SCANVI(latent=2)", STATES,
    ),
    "ldvae": (
        "LDVAE", "", READ, "LDVAE(latent=3)",
        """
W = fit.loadings()
plt.imshow(W.T, aspect="auto", cmap="RdBu_r", vmin=-2, vmax=2)
plt.yticks(range(W.shape[1]))
plt.xlabel("gene"), plt.ylabel("dimension"), plt.colorbar(label="loading")
""",
    ),
    "poisson_lognormal": (
        "PoissonLognormal", "", READ, "PoissonLognormal()",
        """
W = np.asarray(fit.loadings())
W = W[np.argsort(W[:, 0])]
plt.imshow(W @ W.T, cmap="RdBu_r", vmin=-1.5, vmax=1.5)
plt.xlabel("gene"), plt.ylabel("gene"), plt.colorbar(label="covariance of log rates")
""",
    ),
    "topics": (
        "Topics", "", READ, "Topics(latent=4)",
        """
w = np.asarray(fit.proportions(cells))[np.argsort(adata.obs["cell_type"].cat.codes, kind="stable")]
plt.stackplot(np.arange(len(w)), w.T)
plt.xlabel("cell, sorted by type"), plt.ylabel("proportions of topics")
""",
    ),
    "latent_tree": (
        "LatentTree", "", READ, "LatentTree(levels=2)",
        """
high = fit.model.states(cells)[..., 1].numpy()
order = np.argsort(adata.obs["cell_type"].cat.codes, kind="stable")
plt.imshow(high[order], aspect="auto", interpolation="nearest", cmap="Blues")
plt.xlabel("gene"), plt.ylabel("cell, sorted by type"), plt.colorbar(label="p(high | x)")
""",
    ),
    "donors": (
        "Donors", "", LABEL, "Donors()",
        """
draws = fit.latent(cells, samples=200, site="a").reshape(200, 4, -1)
change = draws[:, 1] - draws[:, 0]
order = np.argsort(change.mean(0))
low, high = np.quantile(change, [0.05, 0.95], axis=0)[:, order]
plt.vlines(np.arange(len(order)), low, high)
plt.axhline(0, color="grey", lw=1), plt.xlabel("gene"), plt.ylabel("type1 against type0, 90%")
""",
    ),
    "perturbed": (
        "Perturbed", "", LABEL, "Perturbed()",
        """
E = fit.latent(cells, site="E").reshape(-1, cells.dims.genes)
plt.imshow(E, aspect="auto", cmap="RdBu_r", vmin=-2, vmax=2)
plt.yticks(range(len(E)))
plt.xlabel("gene"), plt.ylabel("level of label"), plt.colorbar(label="effect on the log rate")
""",
    ),
    "ambient": (
        "Ambient", "",
        """\
profile = np.asarray(adata.X.mean(0)).ravel() / adata.X.mean(0).sum()
added = np.random.default_rng(0).poisson(np.linspace(0, 150, len(adata))[:, None] * profile)
adata.X = adata.X + added
"""
        + READ,
        "Ambient()",
        """
c = fit.latent(cells, site="c").ravel()
plt.scatter(added.sum(1) / np.asarray(adata.X.sum(1)).ravel(), c, s=6)
plt.xlabel("share of counts that was added"), plt.ylabel("posterior mean of c")
""",
    ),
    "deconvolution": (
        "Deconvolution", "",
        """\
signatures = ps.signatures(ps.Fields(label="cell_type").read(adata))
random = np.random.default_rng(0)
truth = random.dirichlet([0.5] * 4, size=300)
counts = random.poisson(500 * truth @ signatures.to_numpy()).astype(np.float32)
cells = ps.Fields().read(type(adata)(counts, var=adata.var))
""",
        "Deconvolution().known(signatures, cells)",
        """
w = np.asarray(fit.proportions(cells))
plt.plot([0, 1], [0, 1], color="grey", lw=1)
plt.scatter(truth, w, s=4)
plt.xlabel("true proportion"), plt.ylabel("posterior mean")
""",
    ),
    "domains": (
        "Domains", "",
        """\
adata = ps.data.simulated(cells=300, types=4, sections=1, seed=1)  # four bands of tissue
cells = ps.Fields(spatial="spatial", section="section", predecessors=10).read(adata)
""",
        "Domains(domains=4, kinds=4)",
        """
domain = np.asarray(fit.domains(cells)).argmax(1)
plt.scatter(*adata.obsm["spatial"].T, s=12, c=domain, cmap="tab10")
plt.gca().set(aspect="equal", xticks=[], yticks=[], title="most probable domain")
""",
    ),
    "spillover": (
        "Spillover", "",
        """\
adata = ps.data.simulated(cells=300, types=4, sections=1, purity=0, seed=1)  # types lie beside each other
cells = ps.Fields(spatial="spatial", section="section").read(adata)
own = cells.x.numpy()
random = np.random.default_rng(0)
share = random.uniform(0, 0.4, (len(own), 1))
added = random.poisson(own.sum(1, keepdims=True) * share / (1 - share) * cells.neighbour_profile.numpy())
adata.X = own + added
cells = ps.Fields(spatial="spatial", section="section").read(adata)
""",
        "Spillover(background=0)",
        """
c = fit.latent(cells, site="c").ravel()
plt.scatter(added.sum(1) / (own + added).sum(1), 1 / (1 + np.exp(-c)), s=6)
plt.xlabel("share of counts that was added"), plt.ylabel("share by the posterior of c")
""",
    ),
    "proteins": (
        "Proteins", "",
        """\
high = adata.obs["cell_type"].to_numpy() == "type0"
random = np.random.default_rng(0)
adata.obsm["proteins"] = random.poisson(np.where(high, 80, 8)[:, None] * random.gamma(5, 0.2, (len(adata), 1)) + 2.0)
cells = ps.Fields(batch="batch", proteins="proteins").read(adata)
""",
        "Proteins()",
        """
p = np.asarray(fit.proteins(cells).probability).ravel()
plt.scatter(adata.obsm["proteins"].ravel() + 1, p, s=6, c=high, cmap="coolwarm")
plt.xscale("log"), plt.xlabel("count of the protein + 1"), plt.ylabel("p(foreground | x)")
""",
    ),
}  # fmt: skip
GUIDES = {
    "mean_field": "MeanField", "full_covariance": "FullCovariance", "low_rank": "LowRank", "flow": "Flow",
    "spatial_gnn": "SpatialGNN", "structured": "Structured",
}  # fmt: skip


def example(name: str) -> str | None:
    """The code of the example of a page; None if it has none."""
    if name in MODELS:
        model, imports, read, declared, picture = MODELS[name]
        guide = "MeanField"
    elif name in GUIDES:
        guide, model, imports = GUIDES[name], "SCVI", "from pyroscvi.parts import NB, Linear, Mixture\n"
        read, picture = (TISSUE, PLACES) if name == "spatial_gnn" else (READ, POSTERIOR)
        prior = ", prior=Mixture(4)" if name == "structured" else ""
        declared = f"SCVI(latent=2, decoder=Linear(), likelihood=NB(){prior})"
    else:
        return None
    start = START.format(guide=guide, model=model, imports=imports).replace("\n\n\n", "\n\n")
    read = read if "adata = ps." in read else CELLS + read
    code = start + read + FIT.format(declared=declared, guide=guide) + picture
    code = code if "np." in code else code.replace("import numpy as np\n", "")
    return code.replace(", Mixture\n", "\n") if "Mixture(4)" not in code else code


if __name__ == "__main__":
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or [*MODELS, *GUIDES]:
        plt.figure(figsize=(4.4, 3.2), layout="constrained")
        exec(compile(example(name), name, "exec"), {})
        plt.savefig(PICTURES / f"{name}.png", dpi=110)
        plt.close("all")
        print(name, flush=True)
