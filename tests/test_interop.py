"""A model converted from scvi-tools has the same loss as in scvi-tools.

``reference/make_scvi.py`` has saved weights, draws and losses, so that this is seen where scvi-tools is not installed;
where it is, live modules with more of its options are carried over too.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from pyro import poutine
from saved_peer import CASES, LATENT, RECORD, TYPES, Peer, data_of_the_peer, of_types, saved, stand_in
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.table import evidences
from pyroscvi.fitting.checkpoints import load
from pyroscvi.interop import from_scvi
from pyroscvi.interop.files import assembled


def read(x):
    """Cells from the tensors that a module of scvi-tools is given."""
    categories = {"batch": x["batch"], "label": x["labels"]}
    if "extra_categorical_covs" in x:
        categories |= {f"category_{i}": c for i, c in enumerate(x["extra_categorical_covs"].T)}
    return Cells(
        x["X"],
        {name: codes.flatten() for name, codes in categories.items()},
        x.get("extra_continuous_covs"),
        size_factor=x["size_factor"].flatten() if "size_factor" in x else None,
    )


def loss(fit, cells, z, log_l, beta):
    """mean_n[-log p(x | z, l) + beta KL(z) + KL(l)] of our model and guide."""
    latents = {"z": z, "l": log_l.exp()}
    with torch.no_grad():
        q = {name: posterior.base_dist for name, posterior in fit.guide.posteriors(cells).items()}
        sites = poutine.trace(poutine.condition(fit.model, latents)).get_trace(cells).nodes
        total = -sites["x"]["fn"].log_prob(cells.x) + beta * kl_divergence(q["z"], sites["z"]["fn"].base_dist).sum(-1)
        if "l" in q:
            prior = sites["l"]["fn"].base_dist
            total = total + kl_divergence(q["l"], Normal(prior.loc, prior.scale)).sum(-1)
    return total.mean().item()


@pytest.mark.parametrize("name", CASES)
def test_the_losses_that_scvi_tools_had(name):
    case = CASES[name]
    x = (
        saved("inputs")
        if len(case["n_cat_list"]) > 1
        else {k: t for k, t in saved("inputs").items() if "extra" not in k}
    )
    draw = saved(f"{name}/draw")
    fit = from_scvi(stand_in(name, case))
    ours = loss(fit, read(x), draw["z"], draw["log_l"], RECORD["beta"])
    assert ours == pytest.approx(case["loss"], rel=1e-5)


def test_the_architecture_is_declared_in_our_words():
    fit = from_scvi(stand_in("VAE zinb gene-cell", CASES["VAE zinb gene-cell"]))
    assert repr(fit.model) == (
        "SCVI(latent=5, decoder=MLP(widths=16, norm=BatchNorm()), likelihood=ZINB(dispersion=PerCell()))"
    )
    assert fit.fields is None
    assert not fit.model.training
    assert not fit.guide.training


def test_a_carried_fit_is_saved_and_loaded(tmp_path):
    name = "LDVAE nb False"
    fit = from_scvi(stand_in(name, CASES[name]))
    fit.save(tmp_path / "fit.safetensors")
    loaded = load(tmp_path / "fit.safetensors")
    cells = read({k: t for k, t in saved("inputs").items() if "extra" not in k})
    np.testing.assert_array_equal(loaded.latent(cells), fit.latent(cells))


def test_new_cells_are_as_large_as_those_that_the_peer_was_trained_on():
    adata = data_of_the_peer()
    fit = from_scvi(Peer(adata))
    totals = fit.generate(n=200).sum(1)
    assert totals.mean() == pytest.approx(adata.X.sum(1).mean(), rel=0.05)
    assert fit.record["levels"]["batch"] == {"a": 30, "b": 10, "c": 0}


@pytest.mark.parametrize("peer", [lambda: Peer(None), lambda: Peer(None).module], ids=["no data", "module"])
def test_a_peer_without_data_does_not_make_up_cells(peer):
    fit = from_scvi(peer())
    with pytest.raises(ValueError, match=r"does not know how frequent the levels of 'batch' are.*give given="):
        fit.generate(n=3)
    given = {name: levels[0] for name, levels in fit.levels.items()}
    with pytest.raises(ValueError, match=r"does not know the sizes of cells.*give size="):
        fit.generate(n=3, given={"batch": given["batch"], "label": given["label"]})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: setattr(m, "gene_likelihood", "normal"), ValueError, "gene_likelihood='normal'"),
        (lambda m: setattr(m.z_encoder, "var_activation", torch.nn.functional.softplus), ValueError, "variance"),
        (lambda m: m.z_encoder.encoder.fc_layers[0].append(nn.Tanh()), ValueError, "Tanh"),
        (lambda m: setattr(m, "__class__", type("TOTALVAE", (nn.Sequential,), {})), TypeError, "not TOTALVAE"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(change, error, message):
    module = stand_in("VAE nb True", CASES["VAE nb True"])
    change(module)
    with pytest.raises(error, match=message):
        from_scvi(module)


def test_a_linear_decoder_has_no_dispersion_of_its_own_for_every_cell():
    module = stand_in("LDVAE nb True", CASES["LDVAE nb True"])
    module.dispersion = "gene-cell"
    with pytest.raises(ValueError, match="gene-cell"):
        from_scvi(module)


# Models with types


def with_types():
    case = CASES["VAE nb True"]
    return assembled("SCANVAE", of_types(), case["attributes"] | {"n_cat_list": case["n_cat_list"]}, {})


def through(stack, h):
    """The hidden units of a stack of one layer."""
    linear, norm = list(stack.fc_layers[0])[:2]
    return norm(linear(h)).relu()


def pieces_of_their_loss(module, z, u, y):
    """What scvi-tools computes at z [n, latent] for the type y: log p(z | u, y), q(u | z, y), and q(y | z)."""
    one_hot = torch.eye(TYPES)[y].expand(len(z), TYPES)
    decoder, encoder = module.decoder_z1_z2, module.encoder_z2_z1
    h = through(decoder.decoder, torch.cat([u, one_hot], -1))
    p = Normal(decoder.mean_decoder(h), decoder.var_decoder(h).exp().sqrt())
    h = through(encoder.encoder, torch.cat([z, one_hot], -1))
    q = Normal(encoder.mean_encoder(h), (encoder.var_encoder(h).exp() + 1e-4).sqrt())
    stack, scores = module.classifier.classifier
    return p.log_prob(z).sum(-1), q, scores(through(stack, z)).softmax(-1)


def carried_pieces(fit, z, u, y):
    """The same of our model and guide, at types y [n]."""
    cells = read({k: t for k, t in saved("inputs").items() if "extra" not in k})
    cells = replace(cells, categories={**cells.categories, "label": torch.full((len(cells),), -1)})
    nodes = poutine.trace(poutine.condition(fit.model, {"u": u, "z": z, "y": y})).get_trace(cells).nodes
    mean, deviation, logits = fit.guide.of_types(z)
    return nodes["z"]["fn"].log_prob(z), Normal(mean[:, y[0]], deviation[:, y[0]]), logits.softmax(-1), nodes["y"]["fn"]


@torch.no_grad()
@pytest.mark.parametrize("y", range(TYPES))
def test_a_scanvi_has_the_densities_that_scvi_tools_has(y):
    module = with_types().eval()
    fit = from_scvi(module)
    z, u = torch.randn(2, 40, LATENT)
    theirs = pieces_of_their_loss(module, z, u, y)
    ours = carried_pieces(fit, z, u, torch.full((40,), y))
    assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert_close(kl_divergence(ours[1], Normal(0, 1)), kl_divergence(theirs[1], Normal(0, 1)), rtol=1e-5, atol=1e-5)
    assert_close(ours[2], theirs[2])
    assert_close(ours[3].probs[0], torch.tensor([0.3, 0.7]))


def test_the_guide_of_a_scanvi_has_a_gaussian_for_every_type():
    fit = from_scvi(with_types())
    cells = read({k: t for k, t in saved("inputs").items() if "extra" not in k})
    with torch.no_grad():
        q = fit.guide.posteriors(cells)
        mean, _, logits = fit.guide.of_types(q["z"].mean)
    assert q["u"].locs.shape == (40, TYPES, LATENT)
    assert_close(q["u"].mean, (logits.softmax(-1).unsqueeze(-1) * mean).sum(-2))
    assert set(q) == {"u", "z"}


def test_a_carried_scanvi_is_saved_and_loaded(tmp_path):
    fit = from_scvi(with_types())
    fit.save(tmp_path / "fit.safetensors")
    cells = read({k: t for k, t in saved("inputs").items() if "extra" not in k})
    np.testing.assert_array_equal(load(tmp_path / "fit.safetensors").latent(cells), fit.latent(cells))


# With scvi-tools itself


def steps_of_training(module, x, steps):
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        module(x)[2].loss.backward()
        optimiser.step()
    return module.eval()


CATEGORIES = {"n_cats_per_cov": [2, 4], "n_continuous_cov": 2}
LIVE = {
    "defaults": {},
    "deep": {"n_layers": 3},
    "deep, covariates in every place": {"n_layers": 2, "encode_covariates": True, **CATEGORIES},
    "deep, covariates at the entrance": {
        "n_layers": 2,
        "encode_covariates": True,
        "deeply_inject_covariates": False,
        **CATEGORIES,
    },
    "batches embedded": {"batch_representation": "embedding", "n_layers": 2, "encode_covariates": True, **CATEGORIES},
    "batches embedded, in the decoder alone": {"batch_representation": "embedding", "use_observed_lib_size": False},
    "layer norm": {"use_batch_norm": "none", "use_layer_norm": "both"},
    "both norms": {"use_batch_norm": "both", "use_layer_norm": "both"},
    "batch norm in the encoder alone": {"use_batch_norm": "encoder"},
    "size factor": {"use_size_factor_key": True},
    "counts as they are": {"log_variational": False, "use_observed_lib_size": False},
    "no dropout": {"dropout_rate": 0.0},
    "one batch": {"n_batch": 1},
    "logistic normal": {"latent_distribution": "ln"},
    **{f"dispersion {kind}": {"dispersion": kind} for kind in ("gene-batch", "gene-label", "gene-cell")},
}
LINEAR = {
    "linear": {},
    "linear, bias": {"bias": True},
    "linear, no norm": {"use_batch_norm": False},
    "linear, deep encoder": {"n_layers_encoder": 2},
    "linear, dispersion": {"dispersion": "gene-batch", "latent_distribution": "ln"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("name", [*LIVE, *LINEAR])
def test_the_losses_that_scvi_tools_has(name, likelihood):
    peers = pytest.importorskip("scvi.module")
    options = {"n_batch": 3, "n_labels": 2, "n_latent": 5, "n_hidden": 16, "gene_likelihood": likelihood}
    options |= LIVE[name] if name in LIVE else LINEAR[name]
    batches = options["n_batch"]
    options |= {"library_log_means": np.full((1, batches), 4.0), "library_log_vars": np.full((1, batches), 0.2)}
    module = (peers.VAE if name in LIVE else peers.LDVAE)(30, **options)
    x = {"X": torch.poisson(torch.rand(40, 30) * 6), "batch": torch.randint(batches, (40, 1))}
    x["labels"] = torch.randint(2, (40, 1))
    if "n_cats_per_cov" in options:
        x["extra_categorical_covs"] = torch.stack([torch.randint(2, (40,)), torch.randint(4, (40,))], 1)
        x["extra_continuous_covs"] = torch.randn(40, 2)
    if "use_size_factor_key" in options:
        x["size_factor"] = torch.rand(40, 1) * 50
    steps_of_training(module, x, 3)
    with torch.no_grad():
        inference, _ = module(x, compute_loss=False)
        z = inference["qz"].sample()
        inference["z"] = z.softmax(-1) if module.latent_distribution == "ln" else z
        generative = module.generative(**module._get_generative_input(x, inference))
        theirs = module.loss(x, inference, generative, kl_weight=0.37).loss.item()
    ours = loss(from_scvi(module), read(x), z, inference["library"], beta=0.37)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_brings_its_fields():
    scvi = pytest.importorskip("scvi")
    rng = np.random.default_rng(0)
    obs = {"donor": rng.choice(["b", "a", "c"], 60), "age": rng.normal(40, 9, 60), "sex": rng.choice(["m", "f"], 60)}
    adata = AnnData(np.zeros((60, 12), np.float32), pd.DataFrame(obs, index=[f"cell{i}" for i in range(60)]))
    adata.layers["counts"] = rng.poisson(3, (60, 12)).astype(np.float32)
    keys = {"batch_key": "donor", "continuous_covariate_keys": ["age"], "categorical_covariate_keys": ["sex"]}
    scvi.model.SCVI.setup_anndata(adata, layer="counts", **keys)
    peer = scvi.model.SCVI(adata, n_hidden=16, n_latent=3, encode_covariates=True)
    peer.train(1, accelerator="cpu", enable_progress_bar=False, logger=False)
    fit = from_scvi(peer)
    assert (fit.fields.batch, fit.fields.categories, fit.fields.covariates) == ("donor", ("sex",), ("age",))
    few = adata[adata.obs["donor"] != "a"].copy()  # without one of the levels
    np.testing.assert_allclose(fit.latent(few[:, ::-1]), peer.get_latent_representation(few), atol=1e-5)
    assert fit.record["kl_weight"] == pytest.approx(1 / 400)  # where its warm-up ended


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [{}, {"n_layers": 2, "encode_covariates": True, "use_layer_norm": "both", "linear_classifier": True}],
    ids=["defaults", "deep"],
)
def test_a_scanvi_and_the_file_it_saves_are_carried_over(tmp_path, options):
    scvi = pytest.importorskip("scvi")
    rng = np.random.default_rng(0)
    obs = {name: rng.choice(list(levels), 60) for name, levels in {"donor": "abc", "sex": "mf", "type": "xyn"}.items()}
    adata = AnnData(
        rng.poisson(3, (60, 12)).astype(np.float32), pd.DataFrame(obs, index=[f"cell{i}" for i in range(60)])
    )
    keys = {
        "labels_key": "type",
        "unlabeled_category": "n",
        "batch_key": "donor",
        "categorical_covariate_keys": ["sex"],
    }
    scvi.model.SCANVI.setup_anndata(adata, **keys)
    peer = scvi.model.SCANVI(adata, n_hidden=16, n_latent=3, **options)
    peer.train(1, accelerator="cpu", enable_progress_bar=False, logger=False)
    peer.save(tmp_path / "peer")
    fit, read_back = from_scvi(peer), from_scvi(tmp_path / "peer", adata)
    np.testing.assert_allclose(fit.latent(adata), peer.get_latent_representation(), atol=1e-5)
    np.testing.assert_array_equal(fit.latent(adata), read_back.latent(adata))
    assert (repr(fit), fit.fields, fit.levels) == (repr(read_back), read_back.fields, read_back.levels)
    with torch.no_grad():
        mean = fit.guide.posteriors(fit.read(adata))["z"].mean
        p = fit.guide.of_types(mean)[2].softmax(-1)
    np.testing.assert_allclose(p, peer.predict(soft=True), atol=1e-5)


MARGINAL = {
    "nb": {"gene_likelihood": "nb"},
    "nb, latent size": {"gene_likelihood": "nb", "use_observed_lib_size": False},
    "zinb": {"gene_likelihood": "zinb"},
    "linear, nb": {"gene_likelihood": "nb"},
    "nb, ln": {"gene_likelihood": "nb", "latent_distribution": "ln"},
}
RUNS, DRAWS = 10, 2000


def many(module, x):
    """Their estimate of log p(x_n) from RUNS x DRAWS draws [n], and its standard error from the scatter of runs [n]."""
    with torch.no_grad():
        runs = [module.marginal_ll(x, DRAWS, n_mc_samples_per_pass=500) for _ in range(RUNS)]
    runs = torch.stack(runs).double().numpy()
    value = np.logaddexp.reduce(runs) - np.log(RUNS)
    return value, np.exp(runs - value).std(0, ddof=1) / RUNS**0.5


def as_they_score_it(fit, cells, draws):
    """log 1/S sum_s p(x | z_s) Normal(s_s; 0, 1) / q(s_s) [n], with s_s the softmax of z_s ~ q, and not z_s."""
    with torch.no_grad():
        q = fit.guide.posteriors(cells)["z"].base_dist
        z = q.sample((draws,))
        fn = poutine.trace(poutine.condition(fit.model, {"z": z})).get_trace(cells).nodes["x"]["fn"]
        tilt = Normal(0.0, 1.0).log_prob(z.softmax(-1)) - q.log_prob(z.softmax(-1))
        w = (fn.log_prob(cells.x) + tilt.sum(-1)).double().numpy()
    return np.logaddexp.reduce(w) - np.log(draws)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MARGINAL)
def test_the_evidence_is_the_marginal_likelihood_of_scvi_tools(name):
    """Cell by cell, by another proposal than theirs, within the Monte Carlo errors of both.

    An ``ln`` latent apart, of which theirs is another number: that which our weights give by their formula.
    """
    peers = pytest.importorskip("scvi.module")
    torch.manual_seed(0)
    sizes = {"n_batch": 2, "n_latent": 2, "n_hidden": 32, "dropout_rate": 0.0}
    moments = {"library_log_means": np.array([[2.7, 2.8]]), "library_log_vars": np.array([[0.2, 0.1]])}
    x = {"X": torch.poisson(torch.rand(3, 30)[torch.arange(60) % 3]), "batch": torch.arange(60)[:, None] % 2}
    x["labels"] = torch.zeros(60, 1, dtype=torch.long)
    kind = peers.LDVAE if name.startswith("linear") else peers.VAE
    module = steps_of_training(kind(30, **sizes, **moments, **MARGINAL[name]), x, 400)
    (theirs, error), fit = many(module, x), from_scvi(module)
    ours = evidences(Reader(fit, read(x)), 4000).table
    apart = ours["log_evidence"].to_numpy() - theirs
    if MARGINAL[name].get("latent_distribution") == "ln":
        assert apart.mean() < -1  # theirs is too high
        apart = as_they_score_it(fit, read(x), RUNS * DRAWS) - theirs
        error = 2**0.5 * error
    else:
        error = np.hypot(error, ours["monte_carlo_se"].to_numpy())
    assert (np.abs(apart) < 5 * error + 0.005).all()
    assert abs(apart.sum()) < 4 * np.sqrt((error**2).sum()) + 0.12
