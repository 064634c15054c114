"""Models trained by scvi-tools, as fits of this library: the same networks made of our parts, with their weights.

    peer = scvi.model.SCVI(adata, gene_likelihood="nb")
    peer.train()
    ps.compare({"ours": ours, "scvi-tools": ps.from_scvi(peer)}, held_out)

    peer.save("folder")
    ps.from_scvi("folder")

Only attributes and layers of the peer's module are read, so scvi-tools need not be installed, and nothing in a file is
executed. The densities are those of scvi-tools 1.4, up to the 1e-8 that it adds inside logarithms.

References
    Gayoso, A. et al. (2022) A Python library for probabilistic analysis of single-cell omics data. Nat Biotechnol 40,
    163-166. doi:10.1038/s41587-021-01206-w
"""

from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn

from pyroscvi import parts
from pyroscvi.data.cells import Cells
from pyroscvi.data.fields import Fields
from pyroscvi.fitting.checkpoints import stand_in
from pyroscvi.fitting.fit import level_counts
from pyroscvi.fitting.result import Fit
from pyroscvi.interop.files import opened
from pyroscvi.interop.pages import ScviMeanField, ScviSCANVI, ScviTypes
from pyroscvi.models import LDVAE, SCANVI, SCVI
from pyroscvi.parts.layers import Layers


def from_scvi(peer: Any, adata: AnnData | None = None) -> Fit:
    """A fit of ``SCVI``, ``LDVAE`` or ``SCANVI`` with the architecture and the weights of a model of scvi-tools.

    peer   an ``SCVI``, a ``LinearSCVI`` or a ``SCANVI``; a bare module, a ``VAE``, an ``LDVAE`` or a ``SCANVAE``; or
           the path of what ``save`` of scvi-tools 0.20 or newer wrote
    adata  the cells that it was trained on, by default those that the model holds. They tell the sizes of cells and
           the frequencies of levels; without them, ``generate(n=...)`` asks for these

    Types of a ``SCANVI`` are summed out: ``Fit.probabilities(cells, "y")`` is Bayes' rule in its model, where
    ``predict`` of scvi-tools is its classifier. Raises TypeError for another class, and ValueError for an option that
    has no counterpart here, and for a file that scvi-tools did not write.
    """
    peer = opened(Path(peer)) if isinstance(peer, str | Path) else peer
    module = getattr(peer, "module", peer)
    _check(module)
    fields = None if peer is module else _fields(peer)
    adata = getattr(peer, "adata", None) if adata is None else adata
    cells = _example(module, fields)
    condition = _declared_condition(module, cells)
    model = _declared_model(module, condition).sized(cells.dims)
    guide = _declared_guide(module, condition).sized(model, cells)
    with torch.no_grad():
        _carry_model(module, model)
        _carry_guide(module, guide)
        for part in (*model.modules(), *guide.modules()):
            if isinstance(part, parts.Embedding):
                part.table.weight.copy_(module.get_embedding("batch").weight)
    plan = getattr(getattr(peer, "trainer", None), "lightning_module", None)  # None for a model that was loaded
    kl_weight = None if plan is None else float(plan.kl_weight)  # the last one of training
    record: dict[str, Any] = {"made_by": "scvi-tools", "kl_weight": kl_weight, "covariates": None}
    dims = replace(cells.dims, log_size=_moments(module, cells))
    if fields is not None and adata is not None:
        trained_on = fields.read(adata)
        means = [] if trained_on.covariates is None else trained_on.covariates.mean(0).tolist()
        record |= {"levels": level_counts(trained_on), "covariates": means}
        dims = trained_on.dims
    return Fit(model.eval(), guide.eval(), fields, dims, pd.DataFrame(), record)


# What the peer is


def _check(module: Any) -> None:
    """Refuse whatever would be carried over wrongly."""
    kind = type(module).__name__
    if kind not in ("VAE", "LDVAE", "SCANVAE"):
        raise TypeError(
            f"from_scvi: only SCVI, LinearSCVI and SCANVI (modules VAE, LDVAE and SCANVAE) are carried over, not {kind}"
        )
    encoder = module.z_encoder
    stacks = [encoder.encoder, _decoder_layers(module)]
    if _has_types(module):
        stacks += [module.encoder_z2_z1.encoder, module.decoder_z1_z2.decoder, *_classifier(module)[0]]
    layers = [layer for stack in stacks for block in stack.fc_layers for layer in block if layer is not None]
    known = nn.Linear, nn.BatchNorm1d, nn.LayerNorm, nn.ReLU, nn.Dropout
    refused = {
        f"gene_likelihood={module.gene_likelihood!r}": module.gene_likelihood not in ("nb", "zinb", "poisson"),
        "dispersion='gene-cell' with a linear decoder": _is_linear(module) and module.dispersion == "gene-cell",
        "a variance other than exp(.) + 1e-4": encoder.var_activation is not torch.exp or encoder.var_eps != 1e-4,
        "a residual connection": any(getattr(stack, "residual", False) for stack in stacks),
        "use_labels_groups=True": getattr(module, "use_labels_groups", False),
        "latent_distribution='ln' of a SCANVI": _has_types(module) and module.latent_distribution == "ln",
        "n_latent=1 of a SCANVI": _has_types(module) and module.n_latent == 1,
        **{f"a layer {layer}": not isinstance(layer, known) for layer in layers},
    }
    for option, is_used in refused.items():
        if is_used:
            raise ValueError(f"from_scvi: {option} has no counterpart here")


def _is_linear(module: Any) -> bool:
    return hasattr(module.decoder, "factor_regressor")


def _has_types(module: Any) -> bool:
    return type(module).__name__ == "SCANVAE"


def _classifier(module: Any) -> tuple[list[Any], nn.Linear]:
    """Its hidden layers, if it has any, and the layer that predicts logits."""
    parts_of = list(module.classifier.classifier)
    return [part for part in parts_of if hasattr(part, "fc_layers")], next(
        p for p in parts_of if isinstance(p, nn.Linear)
    )


def _decoder_layers(module: Any) -> Any:
    return module.decoder.factor_regressor if _is_linear(module) else module.decoder.px_decoder


def _norms(block: nn.Sequential) -> list[nn.Module]:
    return [part for part in block if isinstance(part, (nn.BatchNorm1d, nn.LayerNorm))]


def _embedding(module: Any) -> nn.Embedding | None:
    """The table of batches, where they are embedded rather than one-hot."""
    return module.get_embedding("batch") if module.batch_representation == "embedding" else None


def _fields(peer: Any) -> Fields:
    """Where a model read its data, with the genes and the levels that it knows."""
    setup = peer.registry_["setup_args"]
    state = {name: field["state_registry"] for name, field in peer.registry_["field_registries"].items()}
    categories = tuple(setup.get("categorical_covariate_keys") or ())
    covariates = tuple(setup.get("continuous_covariate_keys") or ())
    levels = {field: state["extra_categorical_covs"]["mappings"][field] for field in categories}
    levels |= {"batch": state["batch"]["categorical_mapping"]} if setup["batch_key"] else {}
    unlabelled = (
        state["labels"].get("unlabeled_category") if setup["labels_key"] else None
    )  # the last level, of no type
    if setup["labels_key"]:
        levels["label"] = [name for name in state["labels"]["categorical_mapping"] if name != unlabelled]
    return Fields(
        counts=setup["layer"],
        batch=setup["batch_key"],
        label=setup["labels_key"],
        unlabelled=None if unlabelled is None else str(unlabelled),
        categories=categories,
        covariates=covariates,
        size_factor=setup.get("size_factor_key"),
        genes=tuple(state["X"]["column_names"]),
        levels={field: tuple(map(str, names)) for field, names in levels.items()},
        moments=dict.fromkeys(covariates, (0.0, 1.0)),  # the peer takes them as they are
    )


def _example(module: Any, fields: Fields | None) -> Cells:
    """Two cells with the fields that the module was made for, under names of ours where it has none."""
    layers, embedding = _decoder_layers(module), _embedding(module)
    if fields is None:
        others = layers.n_cat_list[0 if embedding else 1 :]
        counts = {"batch": module.n_batch, "label": module.n_labels}
        counts |= {f"category_{i}": n for i, n in enumerate(others)}
        levels = {field: tuple(map(str, range(max(n, 1)))) for field, n in counts.items()}
    else:
        levels = dict(fields.levels or {})
    covariates = layers.fc_layers[0][0].in_features - module.n_latent - sum(layers.n_cat_list)
    covariates -= embedding.embedding_dim if embedding else 0
    return stand_in(module.n_input, levels, covariates)


def _moments(module: Any, cells: Cells) -> Tensor:
    """Mean and variance of log sizes by batch [b, 2], which only a module with latent sizes knows; else NaN."""
    if module.use_observed_lib_size:
        return torch.full((cells.dims.count("batch"), 2), torch.nan)
    return torch.stack([module.library_log_means[0], module.library_log_vars[0]], -1).float()


# The same architecture, declared


def _declared_model(module: Any, condition: parts.Condition) -> SCVI | LDVAE | SCANVI:
    size = parts.ObservedSize() if module.use_observed_lib_size else parts.LatentSize()
    slots: dict[str, Any] = {
        "latent": module.n_latent,
        "condition": condition,
        "size": parts.SizeFactor() if module.use_size_factor_key else size,
        "likelihood": _declared_likelihood(module),
    }
    if _has_types(module):
        within = parts.MLP(**_hidden(module.decoder_z1_z2.decoder))
        return ScviSCANVI(trust=1.0, within=within, decoder=parts.MLP(**_hidden(module.decoder.px_decoder)), **slots)
    slots["prior"] = parts.LogisticNormal() if module.latent_distribution == "ln" else parts.StandardNormal()
    if not _is_linear(module):
        return SCVI(decoder=parts.MLP(**_hidden(module.decoder.px_decoder)), **slots)
    (block,) = module.decoder.factor_regressor.fc_layers
    return LDVAE(decoder=parts.Linear(bias=block[0].bias is not None, norm=_declared_norm(block)), **slots)


def _declared_condition(module: Any, cells: Cells) -> parts.Condition:
    """The design row in the order of the peer's columns: continuous, batch, other categories."""
    embedding = _embedding(module)
    batch = parts.Embedding("batch", embedding.embedding_dim) if embedding else parts.OneHot("batch")
    others = [parts.OneHot(field) for field in cells.categories if field not in ("batch", "label")]
    return reduce(add, [*([parts.Continuous()] if cells.covariates is not None else []), batch, *others])


def _declared_likelihood(module: Any) -> parts.Likelihood:
    link = parts.Softplus() if module.use_size_factor_key and not _is_linear(module) else parts.Softmax()
    if module.gene_likelihood == "poisson":
        return parts.Poisson(link=link)
    kinds = {
        "gene": parts.PerGene,
        "gene-batch": parts.PerBatch,
        "gene-label": parts.PerLabel,
        "gene-cell": parts.PerCell,
    }
    likelihood = parts.NB if module.gene_likelihood == "nb" else parts.ZINB
    return likelihood(dispersion=kinds[module.dispersion](), link=link)


def _declared_guide(module: Any, condition: parts.Condition) -> ScviMeanField:
    features = parts.Log1p() if module.log_variational else parts.Counts()
    encodes = module.z_encoder.encoder.fc_layers[0][0].in_features > module.n_input  # the design row too
    rest: dict[str, Any] = {"condition": condition if encodes else parts.Nothing(), "features": features}
    slots: dict[str, Any] = {"encoder": parts.ReadCell(**_hidden(module.z_encoder.encoder), **rest)}
    if _has_types(module):
        hidden, _ = _classifier(module)
        slots["classifier"] = Layers(**_hidden(hidden[0])) if hidden else Layers(widths=())
        slots["within"] = parts.MLP(**_hidden(module.encoder_z2_z1.encoder))
    guide = (ScviTypes if _has_types(module) else ScviMeanField)(**slots)
    if not module.use_observed_lib_size:
        guide.size_encoder = parts.ReadCell(**_hidden(module.l_encoder.encoder), **rest)
    return guide


def _hidden(layers: Any) -> dict[str, Any]:
    """Widths, norm, dropout of a stack of hidden layers, and whether the design row enters them all."""
    first, *deeper = layers.fc_layers
    widths = tuple(block[0].out_features for block in layers.fc_layers)
    return {
        "widths": widths if deeper else widths[0],
        "norm": _declared_norm(first),
        "dropout": next((part.p for part in first if isinstance(part, nn.Dropout)), 0.0),
        "everywhere": any(block[0].in_features > first[0].out_features for block in deeper),
    }


def _declared_norm(block: nn.Sequential) -> parts.Norm:
    declared: list[parts.Norm] = [
        parts.BatchNorm(norm.momentum or 0.0, norm.eps) if isinstance(norm, nn.BatchNorm1d) else parts.LayerNorm()
        for norm in _norms(block)
    ]
    return reduce(add, declared) if declared else parts.NoNorm()


# The weights


HEADS = {"rho": "px_scale_decoder.0", "gate": "px_dropout_decoder", "theta": "px_r_decoder"}  # names of the peer
LINEAR_HEADS = {"rho": "factor_regressor.fc_layers.Layer 0", "gate": "px_dropout_decoder.fc_layers.Layer 0"}


def _carry_model(module: Any, model: Any) -> None:
    for head, layer in model.decoder.heads.items():
        if _is_linear(module):
            block = module.decoder.get_submodule(LINEAR_HEADS[head])
            layer.load_state_dict(block[0].state_dict())
            _carry_norm(block, model.decoder.norms[head])
        else:
            layer.load_state_dict(module.decoder.get_submodule(HEADS[head]).state_dict())
    if not _is_linear(module):
        _carry_layers(module.decoder.px_decoder, model.decoder.layers)
    if _has_types(module):
        model.w.copy_(module.y_prior.flatten().log())
        _carry_layers(module.decoder_z1_z2.decoder, model.within.layers)
        for head, name in (("m", "mean_decoder"), ("s", "var_decoder")):
            model.within.heads[head].load_state_dict(getattr(module.decoder_z1_z2, name).state_dict())
    if hasattr(model.likelihood.dispersion, "log_theta"):
        model.likelihood.dispersion.log_theta.copy_(module.px_r.T if module.px_r.dim() == 2 else module.px_r)
    if isinstance(model.size, parts.LatentSize):
        model.size.m.copy_(module.library_log_means[0])
        model.size.s.copy_(module.library_log_vars[0].sqrt())


def _carry_guide(module: Any, guide: Any) -> None:
    for site, head in guide.heads.items():
        theirs, ours = (module.z_encoder, guide.encoder) if site == "z" else (module.l_encoder, guide.size_encoder)
        _carry_layers(theirs.encoder, ours.layers)
        for name, own in (("weight", head.weight), ("bias", head.bias)):
            own.copy_(torch.cat([getattr(theirs.mean_encoder, name), getattr(theirs.var_encoder, name)]))
    if isinstance(guide, ScviTypes):
        _carry_layers(module.encoder_z2_z1.encoder, guide.within.layers)
        for head, name in (("m", "mean_encoder"), ("v", "var_encoder")):
            guide.within.heads[head].load_state_dict(getattr(module.encoder_z2_z1, name).state_dict())
        hidden, scores = _classifier(module)
        for stack in hidden:
            _carry_layers(stack, guide.classifier)
        guide.scores.load_state_dict(scores.state_dict())


def _carry_layers(theirs: Any, ours: Any) -> None:
    for block, linear, norm in zip(theirs.fc_layers, ours.linear, ours.norms, strict=True):
        weight = block[0].weight
        into = linear.in_features - weight.shape[1]  # deeper layers of the peer see categories only
        before = block[0].out_features if into else 0
        blank = weight.new_zeros(len(weight), into)
        linear.weight.copy_(torch.cat([weight[:, :before], blank, weight[:, before:]], 1))
        linear.bias.copy_(block[0].bias)
        _carry_norm(block, norm)


def _carry_norm(block: nn.Sequential, ours: Any) -> None:
    own = (ours.first, ours.second) if isinstance(ours, parts.Chain) else (ours,)
    for norm, part in zip(_norms(block), own, strict=False):
        if isinstance(norm, nn.BatchNorm1d):  # its layer norm has no weights: ours starts at one and zero
            part.norm.load_state_dict(norm.state_dict())
