"""Make scvi.safetensors and scvi.json: modules of scvi-tools, one draw from each of their guides, and their losses.

    pip install scvi-tools==1.4.2
    python tests/reference/make_scvi.py

Each module trains for fifty steps, so that no statistic of its batch norms is trivial, and is then frozen. The loss is
the peer's own, mean_n[-log p(x | z, l) + 0.37 KL(z) + KL(l)], at the saved draws of z and log l.
"""

import json
from pathlib import Path

import numpy as np
import scvi
import torch
from safetensors.torch import save_file
from scvi.module import LDVAE, VAE

HERE = Path(__file__).parent
N, GENES, BATCHES, LABELS, LATENT, HIDDEN, BETA = 40, 30, 3, 2, 5, 16, 0.37
TWELVE = [
    {"kind": kind, "gene_likelihood": likelihood, "use_observed_lib_size": observed}
    for kind in ("VAE", "LDVAE")
    for likelihood in ("nb", "zinb", "poisson")
    for observed in (True, False)
]
DEEP = {"n_layers": 2, "encode_covariates": True, "dispersion": "gene-batch", "latent_distribution": "ln"}
MORE = [
    {"kind": "VAE", "gene_likelihood": "zinb", "dispersion": "gene-cell"},
    {"kind": "VAE", "gene_likelihood": "nb", "dispersion": "gene-label", "use_batch_norm": "none"},
    {"kind": "VAE", "gene_likelihood": "nb", "n_cats_per_cov": [2], "n_continuous_cov": 1, **DEEP},
]
ATTRIBUTES = [
    *("n_input", "n_batch", "n_labels", "n_latent", "dispersion", "gene_likelihood", "latent_distribution"),
    *("log_variational", "batch_representation", "use_size_factor_key", "use_observed_lib_size"),
]


def inputs() -> dict[str, torch.Tensor]:
    return {
        "X": torch.poisson(torch.rand(N, GENES) * 6),
        "batch": torch.randint(0, BATCHES, (N, 1)),
        "labels": torch.randint(0, LABELS, (N, 1)),
        "extra_categorical_covs": torch.randint(0, 2, (N, 1)),
        "extra_continuous_covs": torch.randn(N, 1),
    }


def trained(x: dict[str, torch.Tensor], kind: str, **options) -> VAE:
    torch.manual_seed(1)
    moments = {"library_log_means": np.array([[4.0, 4.4, 4.2]]), "library_log_vars": np.array([[0.2, 0.1, 0.3]])}
    sizes = {"n_batch": BATCHES, "n_labels": LABELS, "n_latent": LATENT, "n_hidden": HIDDEN}
    module = {"VAE": VAE, "LDVAE": LDVAE}[kind](GENES, **sizes, **moments, **options)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(50):
        optimiser.zero_grad()
        module(x)[2].loss.backward()
        optimiser.step()
    return module.eval()


def given(x: dict[str, torch.Tensor], options: dict) -> dict[str, torch.Tensor]:
    """The inputs that a module with these options was made for."""
    return x if "n_cats_per_cov" in options else {name: t for name, t in x.items() if not name.startswith("extra")}


def used(module: VAE, weight: str) -> bool:
    """Weights that the loss does not depend on need not be kept."""
    return not (
        (weight.startswith("l_encoder") and module.use_observed_lib_size)
        or ("px_dropout" in weight and module.gene_likelihood != "zinb")
        or ("px_r_decoder" in weight and module.dispersion != "gene-cell")
        or "num_batches" in weight
    )


def loss(module: VAE, x: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The peer's loss (it cannot be had in double precision), and the draws at which it was taken."""
    inference, _ = module(x, compute_loss=False)
    draws = {"z": inference["qz"].sample(), "log_l": inference["library"]}
    inference["z"] = draws["z"].softmax(-1) if module.latent_distribution == "ln" else draws["z"]
    generative = module.generative(**module._get_generative_input(x, inference))
    return module.loss(x, inference, generative, kl_weight=BETA).loss.item(), draws


def main() -> None:
    torch.manual_seed(0)
    x = inputs()
    tensors = {f"inputs/{name}": t for name, t in x.items()}
    cases = {}
    for options in TWELVE + MORE:
        name = " ".join(str(value) for value in options.values())
        module = trained(given(x, options), **options)
        layers = module.decoder.px_decoder if options["kind"] == "VAE" else module.decoder.factor_regressor
        tensors |= {f"{name}/module/{key}": t.clone() for key, t in module.state_dict().items() if used(module, key)}
        with torch.no_grad():
            value, draws = loss(module, given(x, options))
        tensors |= {f"{name}/draw/{site}": t for site, t in draws.items()}
        cases[name] = {
            "kind": options["kind"],
            "loss": value,
            "n_cat_list": list(layers.n_cat_list),
            "attributes": {attribute: getattr(module, attribute) for attribute in ATTRIBUTES},
        }
    save_file(tensors, HERE / "scvi.safetensors")
    record = {"scvi-tools": scvi.__version__, "torch": torch.__version__, "beta": BETA, "cases": cases}
    (HERE / "scvi.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
