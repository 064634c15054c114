"""Models that scvi-tools wrote to disk, read without executing anything in the file.

``save`` of scvi-tools writes ``model.pt``: weights, names of genes and attributes, by ``torch.save``. Such a file is a
pickle, and may call any function when it is opened. Here ``torch.load(weights_only=True)`` opens it, which
makes nothing but tensors, numbers, texts and collections. It refuses every other object, and the attributes have many:
tables of the training history, arrays of numpy. So each of these is replaced by a stand-in, which keeps the contents of
an array of names or numbers, and drops everything else.
"""

import re
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)

KINDS = {"SCVI": "VAE", "LinearSCVI": "LDVAE", "SCANVI": "SCANVAE"}
CHANGED = ("extra_encoder_kwargs", "extra_decoder_kwargs", "classifier_parameters", "var_activation")  # unknown layers


class Peer:
    """What ``from_scvi`` reads of a model of scvi-tools: its module and its registry."""

    def __init__(self, module: nn.Module, registry: dict[str, Any]):
        self.module, self.registry_ = module, registry


def opened(path: Path) -> Peer:
    """The model in a file or a folder that scvi-tools wrote. ValueError, which names the file, if it did not."""
    path = path / "model.pt" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no model of scvi-tools at {path}: give the folder that its save wrote")
    try:
        content = _loaded(path)
        weights = {name: t for name, t in content["model_state_dict"].items() if isinstance(t, Tensor)}
        attributes = content["attr_dict"]
        registry, given = attributes["registry_"], attributes["init_params_"]
        kind = KINDS.get(name := registry["model_name"])
    except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)  # without torch's advice
        raise ValueError(
            f"{path} is no file that scvi-tools 0.20 or newer wrote: {reason.partition(chr(10))[0]}"
        ) from error
    if kind is None:
        raise TypeError(f"from_scvi: only {', '.join(KINDS)} are carried over, and {path} holds a {name}")
    options = dict(given["non_kwargs"])
    for more in given["kwargs"].values():
        options |= more if isinstance(more, dict) else {}
    if changed := [option for option in CHANGED if options.get(option)]:
        raise ValueError(f"from_scvi: {path} was made with {', '.join(changed)}, which has no counterpart here")
    return Peer(assembled(kind, weights, _module_attributes(kind, weights, options, registry), options), registry)


# What is in the file


class _Dropped:
    """Stands for an object of a class that is not needed."""

    def __new__(cls, *_: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Type(_Dropped):
    """Stands for a type of numpy: its code, such as "O" for objects and "U12" for texts."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code if isinstance(code, str) and re.fullmatch(r"[biufU]\d+", code) else ""


class _Array(_Dropped):
    """Stands for an array of numpy: a list of its values, empty if these are no names or numbers."""

    values: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        *_, kind, _, data = state
        if isinstance(data, list):
            self.values = tuple(value for value in data if isinstance(value, str | int | float))
        elif isinstance(data, bytes) and isinstance(kind, _Type) and kind.code:
            self.values = tuple(np.frombuffer(data, kind.code).tolist())

    def __iter__(self) -> Any:
        return iter(self.values)


def _dictionary(*_: Any) -> OrderedDict:
    """Stands for a dictionary with a default value."""
    return OrderedDict()


STAND_INS: dict[str, Any] = {
    "collections.defaultdict": _dictionary,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
}


def _loaded(path: Path) -> dict[str, Any]:
    """The content of the file. Torch refuses functions of the operating system, whatever would stand for them.

    Classes that a program has allowed for files of its own are not allowed for this file.
    """
    allowed = get_safe_globals()
    clear_safe_globals()
    try:
        stand_ins: list[Any] = [
            (STAND_INS.get(name) or type(name, (_Dropped,), {}), name)
            for name in get_unsafe_globals_in_checkpoint(str(path))
        ]
        with safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    finally:
        clear_safe_globals()
        add_safe_globals(allowed)


# The module that has these weights


def assembled(kind: str, weights: dict[str, Tensor], attributes: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """Layers and attributes of a module of scvi-tools, as far as ``from_scvi`` reads them: it cannot be run.

    attributes   those of the module, and "n_cat_list" of its decoder
    options      what no weight tells: "use_layer_norm" and "dropout_rate"
    """
    root: Any = type(kind, (nn.Sequential,), {})()
    leaves: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for key, t in weights.items():
        *steps, name = key.split(".")
        leaves.setdefault(tuple(steps), {})[name] = t
    for path, own in leaves.items():
        place = root
        for step in path[:-1]:
            if step not in dict(place.named_children()):
                place.add_module(step, nn.Sequential())
            place = place.get_submodule(step)
        if path:
            place.add_module(path[-1], _layer(own))
    for name, t in leaves.get((), {}).items():
        root.register_buffer(name, t)
    for name, value in attributes.items():
        setattr(root, name, value)
    norms, dropout = options.get("use_layer_norm", "none"), options.get("dropout_rate", 0.0)
    for name, stack in root.named_modules():
        if not hasattr(stack, "fc_layers"):
            continue
        decodes = "decoder" in name
        for block in stack.fc_layers:
            if norms in ("both", "decoder" if decodes else "encoder") and "factor" not in name:
                block.append(nn.LayerNorm(block[0].out_features, elementwise_affine=False))
            if dropout and not decodes:
                block.append(nn.Dropout(dropout))
    for encoder in (getattr(root, name) for name in ("z_encoder", "l_encoder", "encoder_z2_z1") if hasattr(root, name)):
        encoder.var_activation, encoder.var_eps = torch.exp, 1e-4
    (root.decoder.factor_regressor if kind == "LDVAE" else root.decoder.px_decoder).n_cat_list = root.n_cat_list
    return root


def _layer(own: dict[str, Tensor]) -> nn.Module:
    rows = len(own["weight"])
    if "running_mean" in own:
        part: nn.Module = nn.BatchNorm1d(rows, eps=1e-3, momentum=0.01)
    else:
        part = nn.Linear(own["weight"].shape[1], rows, bias="bias" in own)
    part.load_state_dict(own, strict=False)
    return part


def _module_attributes(
    kind: str, weights: dict[str, Tensor], options: dict[str, Any], registry: dict[str, Any]
) -> dict[str, Any]:
    states = {name: field["state_registry"] for name, field in registry["field_registries"].items()}
    size_factor = registry["setup_args"].get("size_factor_key") is not None
    embedding = next((t for key, t in weights.items() if key.endswith("embeddings_dict.batch.weight")), None)
    batches, labels = (len(tuple(states[name]["categorical_mapping"])) for name in ("batch", "labels"))
    others = states.get("extra_categorical_covs", {}).get("mappings", {}).values()
    counts = [*([batches] if embedding is None else []), *(len(tuple(names)) for names in others)]
    head = "factor_regressor.fc_layers.Layer 0.0" if kind == "LDVAE" else "px_scale_decoder.0"
    return {
        "n_input": len(weights[f"decoder.{head}.weight"]),
        "n_batch": batches,
        "n_labels": labels - ("unlabeled_category" in states["labels"]),  # which is the last level, of no type
        "n_latent": len(weights["z_encoder.mean_encoder.weight"]),
        "dispersion": options.get("dispersion", "gene"),
        "gene_likelihood": options.get("gene_likelihood", "zinb"),
        "latent_distribution": options.get("latent_distribution", "normal"),
        "log_variational": options.get("log_variational", True),
        "batch_representation": "one-hot" if embedding is None else "embedding",
        "use_size_factor_key": size_factor,
        "use_observed_lib_size": size_factor or "library_log_means" not in weights,
        "use_labels_groups": options.get("use_labels_groups", False),
        "n_cat_list": [count if count > 1 else 0 for count in counts],
        "get_embedding": lambda _: nn.Embedding.from_pretrained(embedding),
    }
