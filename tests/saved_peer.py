"""Weights, draws and losses that ``reference/make_scvi.py`` saved from scvi-tools, and stand-ins for its models."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors.torch import load_file

from pyroscvi.interop.files import assembled

HERE = Path(__file__).parent / "reference"
RECORD = json.loads((HERE / "scvi.json").read_text())
TENSORS = load_file(HERE / "scvi.safetensors")
CASES = RECORD["cases"]


def saved(prefix):
    return {name.removeprefix(f"{prefix}/"): t for name, t in TENSORS.items() if name.startswith(f"{prefix}/")}


def stand_in(name, case):
    """A module with the layers and the attributes that a module of scvi-tools would have."""
    attributes = case["attributes"] | {"n_cat_list": case["n_cat_list"]}
    return assembled(case["kind"], saved(f"{name}/module"), attributes, {})


class Peer:
    """What ``from_scvi`` reads of a model of scvi-tools: its module, its registry, and its data if it has them."""

    def __init__(self, adata):
        self.module, self.adata = stand_in("VAE nb True", CASES["VAE nb True"]), adata
        levels = {"batch": {"categorical_mapping": ["a", "b", "c"]}, "labels": {"categorical_mapping": ["0", "1"]}}
        names = [f"gene{g}" for g in range(self.module.n_input)]
        registries = {"X": {"column_names": names}, **levels}
        self.registry_ = {
            "setup_args": {"layer": None, "batch_key": "donor", "labels_key": "type"},
            "field_registries": {name: {"state_registry": state} for name, state in registries.items()},
        }


def data_of_the_peer():
    rng = np.random.default_rng(0)
    genes = CASES["VAE nb True"]["attributes"]["n_input"]
    obs = pd.DataFrame({"donor": ["a"] * 30 + ["b"] * 10, "type": ["0", "1"] * 20}, index=[f"c{i}" for i in range(40)])
    counts = rng.poisson(20.0, (40, genes)).astype(np.float32)
    return AnnData(counts, obs, pd.DataFrame(index=[f"gene{g}" for g in range(genes)]))


TYPES, LATENT, HIDDEN = 2, 5, 16


def of_layer(name, inputs, outputs):
    """Weights of a linear layer, and of the batch norm after it, under the names that scvi-tools gives them."""
    weights = {f"{name}.0.weight": torch.randn(outputs, inputs) / 3, f"{name}.0.bias": torch.randn(outputs)}
    moments = {"weight": torch.rand(outputs) + 0.5, "bias": torch.randn(outputs), "running_mean": torch.randn(outputs)}
    moments["running_var"] = torch.rand(outputs) + 0.5
    return weights | {f"{name}.1.{moment}": value for moment, value in moments.items()}


def of_types():
    """The weights of a SCANVAE: those of a VAE, and three networks more."""
    torch.manual_seed(0)
    weights = saved("VAE nb True/module") | {"y_prior": torch.tensor([[0.3, 0.7]])}
    stacks = {"encoder_z2_z1": "encoder", "decoder_z1_z2": "decoder"}
    for network, stack in stacks.items():
        weights |= of_layer(f"{network}.{stack}.fc_layers.Layer 0", LATENT + TYPES, HIDDEN)
        for moment in ("mean", "var"):
            weights[f"{network}.{moment}_{stack}.weight"] = torch.randn(LATENT, HIDDEN) / 4
            weights[f"{network}.{moment}_{stack}.bias"] = torch.randn(LATENT) / 4
    weights |= of_layer("classifier.classifier.0.fc_layers.Layer 0", LATENT, HIDDEN)
    return weights | {
        "classifier.classifier.1.weight": torch.randn(TYPES, HIDDEN),
        "classifier.classifier.1.bias": torch.ones(TYPES),
    }
