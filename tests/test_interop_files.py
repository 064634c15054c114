"""Files that scvi-tools wrote are read as they are, and nothing in them is executed."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from saved_peer import CASES, HIDDEN, LATENT, Peer, data_of_the_peer, of_types, saved

from pyroscvi.interop import from_scvi


def registry(labels=("0", "1"), **more):
    """The registry of a model, as scvi-tools writes it: levels and names of genes are arrays of numpy."""
    genes = CASES["VAE nb True"]["attributes"]["n_input"]
    states = {
        "X": {"n_vars": genes, "column_names": np.array([f"gene{g}" for g in range(genes)])},
        "batch": {"categorical_mapping": np.array(["a", "b", "c"], dtype=object), "original_key": "donor"},
        "labels": {"categorical_mapping": np.array(labels, dtype=object), "original_key": "type", **more},
    }
    return {
        "scvi_version": "1.4.2",
        "model_name": "SCANVI" if more else "SCVI",
        "setup_args": {"layer": None, "batch_key": "donor", "labels_key": "type", "size_factor_key": None},
        "field_registries": {name: {"data_registry": {}, "state_registry": state} for name, state in states.items()},
    }


def write(folder, weights, **attributes):
    """A file of the form that ``save`` of scvi-tools writes, with objects that no reader of it needs."""
    options = {"n_hidden": HIDDEN, "n_latent": LATENT, "gene_likelihood": "nb", "dropout_rate": 0.1}
    about = {
        "registry_": registry(),
        "init_params_": {"kwargs": {"kwargs": {"use_layer_norm": "none"}}, "non_kwargs": options},
        "history_": {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0]}, index=pd.RangeIndex(2, name="epoch"))},
        "train_indices_": np.arange(40),
        "summary_": defaultdict(list, {"n_cells": np.int64(40)}),
        "is_trained_": True,
    }
    weights = weights | {"pyro_param_store": {"params": {}}}
    content = {"model_state_dict": weights, "var_names": np.array(["a"], dtype=object), "attr_dict": about | attributes}
    torch.save(content, folder / "model.pt")
    return folder


def test_a_file_of_scvi_tools_is_the_model_that_was_saved(tmp_path):
    fit = from_scvi(write(tmp_path, saved("VAE nb True/module")))
    live = from_scvi(Peer(None))
    adata = data_of_the_peer()
    np.testing.assert_array_equal(fit.latent(adata), live.latent(adata))
    assert fit.levels == live.levels == {"batch": ("a", "b", "c"), "label": ("0", "1")}
    assert fit.guide.encoder.dropout == 0.1
    trained = from_scvi(str(tmp_path / "model.pt"), adata)
    assert trained.record["levels"]["batch"] == {"a": 30, "b": 10, "c": 0}


def test_classes_that_a_program_allows_for_its_own_files_change_nothing(tmp_path):
    write(tmp_path, saved("VAE nb True/module"))
    with torch.serialization.safe_globals([defaultdict]):
        allowed = set(torch.serialization.get_safe_globals())
        from_scvi(tmp_path)
        assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_file_of_a_scanvi_knows_which_label_is_no_label(tmp_path):
    labels = registry(("0", "1", "none"), unlabeled_category="none")
    fit = from_scvi(write(tmp_path, of_types(), registry_=labels))
    adata = data_of_the_peer()
    adata.obs["type"] = ["0", "none"] * 20
    assert fit.levels["label"] == ("0", "1")
    assert fit.read(adata).label.tolist() == [0, -1] * 20
    p = fit.probabilities(adata, "y", particles=20)
    assert list(p.columns) == ["0", "1"]
    assert (p["0"][::2] > 1 - 1e-6).all()  # labels of scvi-tools are trusted


class Attack:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, exec, Path.touch], ids=["system", "exec", "touch"])
def test_nothing_in_a_file_is_executed(tmp_path, function):
    trace = tmp_path / "trace"
    argument = {os.system: f"touch {trace}", exec: f"open({str(trace)!r}, 'w')", Path.touch: trace}[function]
    try:
        from_scvi(write(tmp_path, saved("VAE nb True/module"), more_=Attack(function, argument)))
    except ValueError as error:
        assert "model.pt" in str(error)  # noqa: PT017  # refused or dropped: both are safe
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"no file of torch", ValueError, "no file that scvi-tools 0.20 or newer wrote"),
        ({"model_state_dict": {}, "attr_dict": {}}, ValueError, "no file that scvi-tools"),
        (None, FileNotFoundError, "there is no model of scvi-tools at .*model.pt"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path, content, error, said):
    if isinstance(content, bytes):
        (tmp_path / "model.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "model.pt")
    with pytest.raises(error, match=said):
        from_scvi(tmp_path)


def test_layers_that_a_file_does_not_describe_are_refused(tmp_path):
    parameters = {"kwargs": {"kwargs": {"extra_encoder_kwargs": {"activation_fn": "other"}}}, "non_kwargs": {}}
    write(tmp_path, saved("VAE nb True/module"), init_params_=parameters)
    with pytest.raises(ValueError, match=r"extra_encoder_kwargs.*no counterpart"):
        from_scvi(tmp_path)
