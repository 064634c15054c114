"""scANVI: the type of a cell and its variation within the type, beside ``Annotated``."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from fits import untrained
from pyro import poutine
from test_identities import loss
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.inference.objectives import Classifier
from pyroscvi.models import SCANVI, Annotated
from pyroscvi.parts import MLP, Linear


def given(cells, **latents):
    """A guide that knows the latents."""

    def guide(cells):
        with cells.plate():
            for name, value in latents.items():
                pyro.sample(name, dist.Delta(value, event_dim=1))

    return guide


def test_types_start_equal_so_that_labels_separate_them(cells):
    model = SCANVI(latent=3).sized(cells.dims)
    of_z = model.within(torch.zeros(3, 3), torch.eye(3))
    assert torch.equal(of_z["m"][0], of_z["m"][2])
    assert torch.equal(of_z["s"][0], of_z["s"][1])


def test_scanvi_without_variation_within_types_is_annotated(cells):
    one, _ = untrained(SCANVI(latent=3), MeanField(), cells)
    two = Annotated(latent=3).sized(cells.dims).eval()
    u, z = torch.randn(60, 3), torch.randn(60, 3)
    with torch.no_grad():
        first = one.within.layers.linear[0].weight
        first[:, 3:].normal_()
        first[:, :3] = 0
        of_z = one.within(torch.zeros(3, 3), torch.eye(3))
        shared = {k: v for k, v in one.state_dict().items() if not k.startswith("within")}
        two.load_state_dict({**shared, "m": of_z["m"], "raw_s": of_z["s"]})
    of_u = dist.Normal(0.0, 1.0).log_prob(u).sum()
    assert_close(
        torch.tensor(loss(one, given(cells, u=u, z=z), cells)),
        torch.tensor(loss(two, given(cells, z=z), cells)) - of_u,
        rtol=1e-5,
        atol=0,
    )


def test_labels_are_part_of_the_estimand(cells):
    model = SCANVI(latent=2).sized(cells.dims)
    assert model.estimand == "p(x, label | l)"


def test_scanvi_finds_the_types_of_cells_that_it_simulated():
    """A third of the cells are labelled; types of nine tenths of the others are found."""
    blank = Cells(torch.full((300, 15), 20.0), {"label": torch.arange(300) % 3}, levels={"label": ("a", "b", "c")})
    truth = SCANVI(latent=2, decoder=Linear(), within=MLP(widths=8)).sized(blank.dims)
    with torch.no_grad():
        truth.within.layers.linear[0].weight[:, 2:].normal_(std=3)
        truth.within.layers.linear[0].weight[:, :2].mul_(0.3)
        hidden = truth.within.layers(torch.zeros(3, 2), torch.eye(3))
        means = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]]) - truth.within.heads["m"].bias
        truth.within.heads["m"].weight.copy_((torch.linalg.pinv(hidden) @ means).T)
        truth.within.heads["s"].bias.fill_(-1)
        truth.decoder.heads["rho"].weight.normal_()
        truth.likelihood.dispersion.log_theta.fill_(3)
        nodes = poutine.trace(poutine.uncondition(truth)).get_trace(blank).nodes
    y = nodes["y"]["value"]
    shown = torch.where(torch.arange(300) % 3 == 0, y, -1)
    cells = replace(blank, counts=nodes["x"]["value"], categories={"label": shown})
    training = {"epochs": 60, "batch_size": 50, "lr": 1e-2, "progress": False, "objectives": [Classifier(10)]}
    fit = ps.fit(SCANVI(latent=2, decoder=Linear()), MeanField(), cells, **training)
    p = torch.as_tensor(fit.probabilities(cells, "y").to_numpy())
    assert_close(p.sum(1), torch.ones(300).double())
    assert (p.argmax(1) == y)[shown < 0].float().mean() > 0.9
