"""What every page of the zoo promises: one contract, parametrised over the catalogue."""

import inspect
import re
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.parts import (
    MLP,
    NB,
    ZINB,
    ZIP,
    BatchNorm,
    Embedding,
    GammaDispersion,
    Laplace,
    LaplaceLoadings,
    LatentSize,
    Linear,
    Log1pNormal,
    LogisticNormal,
    Mixture,
    NormalLoadings,
    OneHot,
    PerBatch,
    PerCell,
    PerGene,
    PerLabel,
    Poisson,
    RandomDispersion,
    StandardNormal,
    VampPrior,
)

MODELS, GUIDES = ps.list_models(), ps.list_guides()
SLOTS = {
    "likelihood": [Poisson(), ZIP(), NB(), ZINB(), Log1pNormal()],
    "prior": [StandardNormal(), Mixture(components=3), LogisticNormal(), Laplace(b=0.5), VampPrior(components=4)],
    "decoder": [
        Linear(),
        Linear(loadings=NormalLoadings(s=0.5)),
        Linear(loadings=LaplaceLoadings()),
        MLP(widths=(8, 8), norm=BatchNorm(), dropout=0.1, everywhere=True),
    ],
    "size": [LatentSize()],
    "condition": [OneHot("batch") + Embedding("drug", width=3), Embedding("label", width=2)],
}
DISPERSIONS = [PerGene(), PerBatch(), PerLabel(), PerCell(), RandomDispersion(), GammaDispersion()]
SWAPS = [
    (model, slot, part) for model in MODELS for slot in SLOTS for part in SLOTS[slot] if hasattr(ps.create(model), slot)
]


def enumerating():
    """Pyro's own ELBO; it warns where there is nothing to enumerate, and most pages have nothing."""
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def quick(model, guide, cells, **options):
    return ps.fit(model, guide, cells, **{"epochs": 2, "batch_size": 20, "progress": False, **options})


def sampled(program, cells):
    trace = poutine.trace(program).get_trace(cells)
    return [n for n, s in trace.nodes.items() if s["type"] == "sample" and not poutine.util.site_is_subsample(s)]


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
def test_every_page_under_every_guide(model, guide, cells):
    f = quick(ps.create(model, latent=3), ps.create(guide), cells, epochs=15, lr=1e-2, early_stopping=False)
    first, *_, last = f.history["loss"]
    assert np.isfinite(f.history["loss"]).all()
    assert last < first
    evidence = ps.log_evidence(f, cells, particles=5)
    assert evidence.shape == (len(cells),)
    assert np.isfinite(evidence).all()
    assert f.latent(cells).shape == (len(cells), 3)


@pytest.mark.parametrize(("model", "slot", "part"), SWAPS, ids=lambda v: v if isinstance(v, str) else repr(v))
def test_every_slot_takes_every_part(model, slot, part, cells):
    declared = ps.create(model, latent=3, **{slot: part})
    assert f"{slot}={part!r}" in repr(declared) or repr(part) == repr(getattr(ps.create(model), slot))
    f = quick(declared, ps.create("mean_field"), cells)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize("dispersion", DISPERSIONS, ids=repr)
@pytest.mark.parametrize("likelihood", [NB, ZINB, Log1pNormal])
def test_every_likelihood_takes_every_dispersion(likelihood, dispersion, cells):
    f = quick(ps.create("scvi", latent=3, likelihood=likelihood(dispersion=dispersion)), ps.create("mean_field"), cells)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
def test_plain_pyro_trains_it(model, guide, cells):
    m = ps.create(model, latent=3).sized(cells.dims)
    g = ps.create(guide).sized(m, cells)
    before = {name: p.clone() for name, p in [*m.named_parameters(), *g.named_parameters()]}
    svi = SVI(m, g, pyro.optim.Adam({"lr": 1e-2}), enumerating())
    for _ in range(3):
        svi.step(cells)
    still = [name for name, p in [*m.named_parameters(), *g.named_parameters()] if torch.equal(before[name], p)]
    assert still == []
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("model", MODELS)
def test_docstring_tells_the_truth(model, cells):
    """The sites of the docstring's generative process are the sites of the program, in order."""
    declared = ps.create(model)
    told = re.findall(r"^\s+(\w+) ~ ", inspect.getmodule(type(declared)).__doc__, re.M)
    assert told == sampled(declared.sized(cells.dims), cells)


@pytest.mark.parametrize("name", [*MODELS, *GUIDES])
def test_page_has_what_a_page_has(name):
    """One sentence first, references with a DOI or an arXiv number, one public class whose snake case is the file."""
    page = inspect.getmodule(type(ps.create(name)))
    sentence, blank, *_ = page.__doc__.splitlines()
    assert sentence.endswith(".")
    assert blank == ""
    assert re.search(r"References\n.*(doi:10\.|arXiv:)", page.__doc__, re.S)
    (public,) = page.__all__
    assert re.sub(r"(?<=[a-z])(?=[A-Z])", "_", public).lower() == name
    assert len(inspect.getsource(page).splitlines()) <= 120


@pytest.mark.parametrize("model", MODELS)
def test_model_page_draws_its_plate_and_names_its_estimand(model, cells):
    page = inspect.getmodule(type(ps.create(model)))
    assert "Plate diagram" in page.__doc__
    assert "- cells --+" in page.__doc__
    assert ps.create(model).sized(cells.dims).estimand in page.__doc__


@pytest.mark.parametrize("name", MODELS)
def test_declaration_prints_as_typed(name):
    page = ps.create(name, latent=3)
    assert repr(page) == f"{type(page).__name__}(latent=3)"


@pytest.mark.parametrize("model", MODELS)
def test_fit_is_deterministic(model, cells):
    one, two = (quick(ps.create(model, latent=3), ps.create("full_covariance"), cells, seed=7) for _ in range(2))
    assert one.history["loss"].tolist() == two.history["loss"].tolist()
    for (name, p), (_, q) in zip(one.model.named_parameters(), two.model.named_parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
def test_saves_and_loads(model, guide, cells, tmp_path):
    f = quick(ps.create(model, latent=3), ps.create(guide), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert repr(again.model) == repr(f.model)
    assert repr(again.guide) == repr(f.guide)
    np.testing.assert_array_equal(again.latent(cells), f.latent(cells))
    np.testing.assert_array_equal(ps.log_evidence(again, cells, particles=3), ps.log_evidence(f, cells, particles=3))


@pytest.mark.parametrize("model", MODELS)
def test_minibatch_elbo_is_unbiased(model, cells):
    """Minibatch losses, each scaled to the whole, average to the loss of the whole: exactly, for given latents."""
    m = ps.create(model, latent=3).sized(cells.dims).eval()
    g = ps.create("mean_field").sized(m, cells).eval()
    drawn = poutine.trace(g).get_trace(cells)

    def given(cells):
        with cells.plate() as rows:
            for name in g.sites:
                pyro.sample(name, dist.Delta(drawn.nodes[name]["value"][rows].detach(), event_dim=1))

    loss = enumerating().loss
    parts = sum(loss(m, given, cells.take(i)) * len(i) / len(cells) for i in torch.arange(len(cells)).split(25))
    assert parts == pytest.approx(loss(m, given, cells), rel=1e-5)


@pytest.mark.parametrize("guide", GUIDES)
def test_guide_reads_a_minibatch_as_it_reads_the_whole(guide, cells):
    m = ps.create("scvi", latent=3).sized(cells.dims)
    g = ps.create(guide).sized(m, cells).eval()
    rows = torch.tensor([3, 17, 18, 40])
    assert_close(g.posteriors(cells)["z"].mean[rows], g.posteriors(cells.take(rows, g.encoder.hops))["z"].mean)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("size", [1, 59, 61])
def test_any_minibatch_size(guide, size, cells):
    """A last minibatch of one cell, and a minibatch larger than the data, are minibatches like any other."""
    few = cells.subset(torch.arange(6)) if size == 1 else cells
    f = quick(ps.create("scvi", latent=2), ps.create(guide), few, batch_size=size, epochs=1, early_stopping=False)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize("model", MODELS)
def test_no_graph_no_categories(model, cells):
    """Cells may be counts and nothing else."""
    bare = replace(cells, categories={}, levels={}, graph=None)
    f = quick(ps.create(model, latent=2), ps.create("spatial_gnn"), bare)
    assert np.isfinite(f.history["loss"]).all()
