"""The page domains: its density, what it recovers of tissue that it simulated, and how it is used."""

from dataclasses import replace

import anndata
import numpy as np
import pytest
import torch
from command_line import run
from pyro import poutine
from sklearn.metrics import adjusted_rand_score
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data import Cells, Fields, simulated
from pyroscvi.data.graph import nearest
from pyroscvi.data.predecessors import before
from pyroscvi.guides import MeanField
from pyroscvi.handlers import intervene
from pyroscvi.models import SCVI, Domains
from pyroscvi.parts import NB, Coupling, LatentSize, Poisson, RandomDispersion, SizeFactor
from pyroscvi.parts.coupling import log_p_given


def tissue(n=60, predecessors=4):
    data = simulated(cells=n, genes=6, sections=2)
    return Fields(spatial="spatial", section="section", predecessors=predecessors).read(data).to(dtype=torch.float64)


def sized(cells, **slots):
    torch.manual_seed(0)
    model = Domains(domains=2, kinds=3, **slots).sized(cells.dims)
    guide = MeanField().sized(model, cells.to(dtype=torch.float32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    return model.double().eval(), guide.double().eval()


def test_the_evidence_sums_over_the_domains_of_a_cell_and_of_each_cell_before_it():
    cells = tissue()
    model, guide = sized(cells)
    with torch.no_grad():
        w, pi = model.w.softmax(-1), model.log_pi.softmax(-1)
        p = pi @ log_p_given(model, cells).exp()  # p(x_n | t) [domains, n]
        evidence = []
        for n in range(len(cells)):
            others = cells.predecessors[n][cells.predecessors[n] >= 0]
            c = model.coupling.same((cells.places[others] - cells.places[n]).norm(dim=-1))
            chance = c[:, None, None] * torch.eye(2) + (1 - c[:, None, None]) * w  # p(t_m | t_n) [m, t_n, t_m]
            prior = w * torch.einsum("mts,sm->tm", chance, p[:, others]).prod(-1)
            evidence.append(((prior / prior.sum()) @ p[:, n]).log())
    expected = torch.stack(evidence).numpy()
    np.testing.assert_allclose(ps.log_evidence((model, guide), cells, particles=2), expected, rtol=1e-9)
    in_minibatches = ps.log_evidence((model, guide), cells, particles=2, batch_size=7)
    np.testing.assert_allclose(in_minibatches, expected, rtol=1e-9)


def test_without_strength_or_without_predecessors_cells_are_independent():
    cells = tissue()
    model, guide = sized(cells)
    alone, _ = sized(cells, coupling=Coupling(strength=0))
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if k in alone.state_dict()})
    expected = ps.log_evidence((alone, guide), cells, particles=2)
    np.testing.assert_allclose(ps.log_evidence((model, guide), replace(cells, before=None), particles=2), expected)
    assert np.abs(ps.log_evidence((model, guide), cells, particles=2) - expected).max() > 0.01
    assert alone.estimand == model.estimand == "p(x | l, others)"


@pytest.mark.parametrize("slots", [{"size": LatentSize()}, {"likelihood": NB(dispersion=RandomDispersion())}], ids=repr)
def test_latents_of_neighbours_are_not_sampled_again(slots):
    cells = tissue(20)
    model, _ = sized(cells, **slots)
    trace = poutine.trace(model).get_trace(cells)
    names = {name for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert names == {"cells", "t", "k", "x", "l" if "size" in slots else "theta"}


def test_an_intervention_on_a_cell_does_not_change_its_neighbours():
    cells = replace(tissue(), categories={"batch": torch.arange(60) % 2}, levels={"batch": ("a", "b")})
    model, _ = sized(cells)
    with torch.no_grad():
        odds = [model.coupling(cells, model.log_ratio)]
        with intervene(batch=0):
            odds.append(model.coupling(cells, model.log_ratio))
    assert_close(*odds)


def drawn(n=400, seed=0):
    """Tissue that a page simulates, a cell after those that it depends on, and the domain of every cell [n]."""
    generator = torch.Generator().manual_seed(seed)
    place = np.sqrt(n / 2) * torch.rand(n, 2, generator=generator).double().numpy()
    section = np.arange(n) % 2
    earlier = before(place, 12, section)
    cells = Cells(
        torch.zeros(n, 12), size_factor=torch.full((n,), 100.0), graph=nearest(place, 6, section), before=earlier,
        places=torch.tensor(place).float(),
    )  # fmt: skip
    page = Domains(domains=3, kinds=4, size=SizeFactor(), likelihood=Poisson()).sized(cells.dims)
    with torch.no_grad():
        page.decoder.heads["rho"].weight.normal_(0, 1, generator=generator)
        page.log_pi.copy_(
            torch.tensor([[0.8, 0.16, 0.02, 0.02], [0.02, 0.16, 0.8, 0.02], [0.02, 0.16, 0.02, 0.8]]).log()
        )
        page.coupling.raw_a.fill_(3.0)
        page.coupling.log_r.fill_(2.0)
    domain, waiting = torch.zeros(n, dtype=torch.long), np.ones(n, dtype=bool)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        while waiting.any():
            ready = torch.from_numpy(np.flatnonzero(waiting & (earlier @ waiting.astype(float) == 0)))
            sites = poutine.trace(poutine.uncondition(page)).get_trace(cells.take(ready)).nodes
            cells.counts[ready], domain[ready] = sites["x"]["value"], sites["t"]["value"]
            waiting[ready.numpy()] = False
    return replace(cells, counts=cells.counts.clone()), domain.numpy()


def fitted(cells, strength=0.5):
    train, held_out = cells.split(0.2)
    page = Domains(
        domains=3, kinds=4, size=SizeFactor(), likelihood=Poisson(), coupling=Coupling(strength=strength)
    )  # fmt: skip
    fit = ps.fit(page, MeanField(), train, epochs=60, batch_size=160, lr=2e-2, progress=False)
    return fit, ps.log_evidence(fit, held_out, particles=2)


def test_domains_are_recovered_from_tissue_that_the_page_simulated():
    cells, domain = drawn()
    fit, evidence = fitted(cells)
    gain = evidence - fitted(cells, strength=0)[1]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
    found = fit.domains(cells).to_numpy()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    alone = fit.model.log_ratio(cells).argmax(1)
    assert adjusted_rand_score(domain, found.argmax(1)) > adjusted_rand_score(domain, alone) + 0.1


def test_domains_need_neighbours_and_the_page(tmp_path):
    cells = tissue().to(dtype=torch.float32)
    fit = ps.fit(Domains(domains=2, kinds=3), MeanField(), cells, epochs=1, progress=False)
    held = cells.split(0.2)[1]
    assert (fit.domains(held).index == held.names).all()
    with pytest.raises(ValueError, match=r"no neighbours .* predecessors=20"):
        fit.domains(replace(cells, before=None))
    with pytest.raises(ValueError, match=r"of the page Domains\(\), and this fit has SCVI"):
        ps.fit(SCVI(latent=2), MeanField(), cells, epochs=1, progress=False).domains(cells)


def test_the_command_line_writes_the_domains_of_a_run(tmp_path):
    data, out = tmp_path / "tissue.h5ad", tmp_path / "out.h5ad"
    simulated(cells=60, genes=6, sections=2).write_h5ad(data)
    where = ("--spatial", "spatial", "--section", "section", "--predecessors", "5")
    run("fit", data, "--model", "domains:domains=2:kinds=3", *where, "--epochs", "2", "--out", tmp_path / "run")
    run("domains", tmp_path / "run", data, "--out", out, "--tissue", tmp_path / "tissue.png")
    written = anndata.read_h5ad(out)
    assert written.obsm["pyroscvi_domain"].shape == (60, 2)
    assert set(written.obs["pyroscvi_domain"]) <= {"0", "1"}
    assert (tmp_path / "tissue.png").stat().st_size > 1000
