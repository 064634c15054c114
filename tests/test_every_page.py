"""The contract of every page of the zoo: these tests run for every model and every guide of the catalogue."""

import doctest
import inspect
import re
from dataclasses import fields, replace

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
    Blend,
    Dirichlet,
    Embedding,
    GammaDispersion,
    HorseshoeLoadings,
    Laplace,
    LaplaceLoadings,
    LatentSize,
    Linear,
    Log1pNormal,
    LogisticNormal,
    Mixture,
    Normal,
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
    "likelihood": [Poisson(), ZIP(), NB(), ZINB(), Log1pNormal(), Normal()],
    "prior": [
        StandardNormal(),
        Mixture(components=3),
        LogisticNormal(),
        Laplace(b=0.5),
        Dirichlet(),
        VampPrior(components=4),
    ],
    "decoder": [
        Linear(),
        Linear(loadings=NormalLoadings(s=0.5)),
        Linear(loadings=LaplaceLoadings()),
        MLP(widths=(8, 8), norm=BatchNorm(), dropout=0.1, everywhere=True),
    ],
    "size": [LatentSize()],
    "effects": [HorseshoeLoadings()],
    "condition": [OneHot("batch") + Embedding("drug", width=3), Embedding("label", width=2)],
}
DISPERSIONS = [PerGene(), PerBatch(), PerLabel(), PerCell(), RandomDispersion(), GammaDispersion()]
DISCRETE = ("domains", "latent_tree", "mixture")  # no continuous latent: all guides are the same
PAIRS = [(model, guide) for model in MODELS for guide in GUIDES if model not in DISCRETE or guide == "mean_field"]
SWAPS = [
    (model, slot, part)
    for model in MODELS
    for slot in SLOTS
    for part in SLOTS[slot]
    if hasattr(ps.create(model), slot)
    and (slot != "prior" or part.proportions or not isinstance(getattr(ps.create(model), "decoder", None), Blend))
]


def width(page):
    """The field that says how many dimensions or components a page has."""
    return next(field.name for field in fields(page) if field.name in ("latent", "kinds", "levels"))


def small(model, **slots):
    """The page with three dimensions or components."""
    return ps.create(model, **{width(ps.create(model)): 3}, **slots)


def where(fit, cells):
    """Where cells lie: z, or the probabilities of the state of the first gene, or of kinds."""
    if "z" in fit.guide.sites:
        return fit.latent(cells)
    return fit.model.states(cells)[:, 0] if hasattr(fit.model, "states") else fit.probabilities(cells, "k").to_numpy()


def pyro_elbo():
    """The ELBO of Pyro, without its warning for models in which nothing is enumerated."""
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def quick(model, guide, cells, **options):
    return ps.fit(model, guide, cells, **{"epochs": 2, "batch_size": 20, "progress": False, **options})


def sample_sites(program, cells):
    """Names of the sample sites of a program, in order, without the plate."""
    trace = poutine.trace(program).get_trace(cells)
    return [n for n, s in trace.nodes.items() if s["type"] == "sample" and not poutine.util.site_is_subsample(s)]


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_a_short_fit_under_every_guide_lowers_the_loss_and_has_evidence_and_latents(model, guide, cells):
    f = quick(small(model), ps.create(guide), cells, epochs=15, lr=1e-2, early_stopping=False)
    first, *_, last = f.history["loss"]
    assert np.isfinite(f.history["loss"]).all()
    assert last < first
    evidence = ps.log_evidence(f, cells, particles=5)
    assert evidence.shape == (len(cells),)
    assert np.isfinite(evidence).all()
    assert where(f, cells).shape == (len(cells), 3)


@pytest.mark.parametrize(("model", "slot", "part"), SWAPS, ids=lambda v: v if isinstance(v, str) else repr(v))
def test_every_model_fits_with_every_part_in_each_of_its_slots(model, slot, part, cells):
    declared = small(model, **{slot: part})
    assert f"{slot}={part!r}" in repr(declared) or repr(part) == repr(getattr(ps.create(model), slot))
    f = quick(declared, ps.create("mean_field"), cells)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize("dispersion", DISPERSIONS, ids=repr)
@pytest.mark.parametrize("likelihood", [NB, ZINB, Log1pNormal])
def test_every_likelihood_fits_with_every_dispersion(likelihood, dispersion, cells):
    f = quick(ps.create("scvi", latent=3, likelihood=likelihood(dispersion=dispersion)), ps.create("mean_field"), cells)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_svi_of_pyro_changes_every_parameter_and_leaves_the_param_store_empty(model, guide, cells):
    cells = replace(cells, places=torch.rand(60, 2), before=cells.graph)  # neighbours, of which domains learn
    m = small(model).sized(cells.dims)
    g = ps.create(guide).sized(m, cells)
    before = {name: p.clone() for name, p in [*m.named_parameters(), *g.named_parameters()]}
    svi = SVI(m, g, pyro.optim.Adam({"lr": 1e-2}), pyro_elbo())
    for _ in range(3):
        svi.step(cells)
    unchanged = [name for name, p in [*m.named_parameters(), *g.named_parameters()] if torch.equal(before[name], p)]
    assert unchanged == []
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("model", MODELS)
def test_the_generative_process_in_the_docstring_has_the_sites_of_the_program_in_order(model, cells):
    declared = ps.create(model)
    written = re.findall(r"^\s+(\w+) ~ ", inspect.getmodule(type(declared)).__doc__, re.M)
    assert written == sample_sites(declared.sized(cells.dims), cells)


@pytest.mark.parametrize("name", [*MODELS, *GUIDES])
def test_page_is_short_and_has_a_first_sentence_references_and_one_public_class(name):
    """References have a DOI or an arXiv number; the name of the file is the snake case of the class."""
    page = inspect.getmodule(type(ps.create(name)))
    sentence, blank, *_ = page.__doc__.splitlines()
    assert sentence.endswith(".")
    assert blank == ""
    assert re.search(r"References\n.*(doi:10\.|arXiv:)", page.__doc__, re.S)
    (public,) = page.__all__
    assert re.sub(r"(?<=[a-z])(?=[A-Z])", "_", public).lower() == name
    assert len(inspect.getsource(page).splitlines()) <= 80


@pytest.mark.parametrize("name", [*MODELS, *GUIDES])
def test_the_example_in_the_docstring_runs(name):
    examples = doctest.DocTestFinder(recurse=False).find(inspect.getmodule(type(ps.create(name))))
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) >= 3
    assert sum(result.failed for result in results) == 0


@pytest.mark.parametrize("model", MODELS)
def test_the_docstring_of_a_model_has_its_plate_diagram_and_its_estimand(model, cells):
    page = inspect.getmodule(type(ps.create(model)))
    assert "Plate diagram" in page.__doc__
    assert "- cells --+" in page.__doc__
    assert ps.create(model).sized(cells.dims).estimand in page.__doc__


@pytest.mark.parametrize("name", MODELS)
def test_a_declaration_prints_as_it_was_typed(name):
    page = small(name)
    assert repr(page) == f"{type(page).__name__}({width(page)}=3)"


@pytest.mark.parametrize("model", MODELS)
def test_two_fits_with_one_seed_are_equal(model, cells):
    one, two = (quick(small(model), ps.create("full_covariance"), cells, seed=7) for _ in range(2))
    assert one.history["loss"].tolist() == two.history["loss"].tolist()
    for (name, p), (_, q) in zip(one.model.named_parameters(), two.model.named_parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_a_loaded_fit_gives_the_same_latents_and_evidence(model, guide, cells, tmp_path):
    f = quick(small(model), ps.create(guide), cells)
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    assert repr(again.model) == repr(f.model)
    assert repr(again.guide) == repr(f.guide)
    np.testing.assert_array_equal(where(again, cells), where(f, cells))
    np.testing.assert_array_equal(ps.log_evidence(again, cells, particles=3), ps.log_evidence(f, cells, particles=3))


@pytest.mark.parametrize("model", MODELS)
def test_losses_of_minibatches_average_to_the_loss_of_all_cells(model, cells):
    """Each minibatch loss is scaled to all cells. For given latents the average is exact: the ELBO is unbiased."""
    m = small(model).sized(cells.dims).eval()
    g = ps.create("mean_field").sized(m, cells).eval()
    drawn = poutine.trace(g).get_trace(cells)

    def given(cells):
        values = {name: drawn.nodes[name]["value"].detach() for name in g.sites}
        for name in (name for name, site in g.sites.items() if not site.local):
            pyro.sample(name, dist.Delta(values[name], event_dim=1))
        with cells.plate() as rows:
            for name in (name for name, site in g.sites.items() if site.local):
                pyro.sample(name, dist.Delta(values[name][rows], event_dim=1))

    loss = pyro_elbo().loss
    parts = sum(loss(m, given, cells.take(i)) * len(i) / len(cells) for i in torch.arange(len(cells)).split(25))
    assert parts == pytest.approx(loss(m, given, cells), rel=1e-5)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_posterior_of_a_cell_is_the_same_in_a_minibatch_and_in_all_cells(guide, cells):
    m = ps.create("scvi", latent=3).sized(cells.dims)
    g = ps.create(guide).sized(m, cells).eval()
    rows = torch.tensor([3, 17, 18, 40])
    z = torch.zeros(len(cells), 3)
    q, of_minibatch = g.posteriors(cells)["z"], g.posteriors(cells.take(rows, g.encoder.hops))["z"]
    assert_close(q.log_prob(z)[rows], of_minibatch.log_prob(z[rows]))


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("size", [1, 59, 61])
def test_minibatches_may_have_one_cell_or_be_larger_than_the_data(guide, size, cells):
    few = cells.subset(torch.arange(6)) if size == 1 else cells
    f = quick(ps.create("scvi", latent=2), ps.create(guide), few, batch_size=size, epochs=1, early_stopping=False)
    assert np.isfinite(f.history["loss"]).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_fits_cells_that_are_counts_without_conditions_or_a_graph(model, cells):
    bare = replace(cells, categories={}, levels={}, graph=None)
    f = quick(small(model), ps.create("mean_field"), bare)
    assert np.isfinite(f.history["loss"]).all()
