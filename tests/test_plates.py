"""Plate diagrams come from the program, and the diagram in the docstring of a page has the same sites."""

import inspect
import re
from xml.etree import ElementTree

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run

import pyroscvi as ps
from pyroscvi.cli import main
from pyroscvi.models import SCVI, Annotated
from pyroscvi.parts import NB, LatentSize, Mixture, RandomDispersion
from pyroscvi.report.plates import example_cells, plates, sites


@pytest.fixture(scope="module")
def cells():
    return example_cells()


def edges(model, cells):
    return {(parent, site.name) for site in sites(model, cells) for parent in site.parents}


def test_arrows_are_those_of_the_equations(cells):
    assert edges(Annotated().sized(cells.dims), cells) == {("y", "label"), ("y", "z"), ("z", "x")}
    priors = SCVI(prior=Mixture(components=3), size=LatentSize(), likelihood=NB(dispersion=RandomDispersion()))
    model = priors.sized(cells.dims)
    assert edges(model, cells) == {("k", "z"), ("z", "x"), ("l", "x"), ("theta", "x")}
    assert {site.name for site in sites(model, cells) if not site.plates} == {"theta"}
    assert [site.name for site in sites(model, cells) if site.observed] == ["x"]


def test_a_latent_that_enters_nothing_has_no_arrow(cells):
    def model(cells):
        with cells.plate():
            pyro.sample("unused", dist.Normal(0, 1).expand([len(cells)]))
            z = pyro.sample("z", dist.Normal(0, 1).expand([len(cells)]))
            pyro.sample("x", dist.Poisson(z.exp().unsqueeze(-1) + torch.zeros_like(cells.x)).to_event(1), obs=cells.x)

    assert edges(model, cells) == {("z", "x")}


# The tree of latent_tree is summed out inside the distribution of x: no site of the program is a state.
@pytest.mark.parametrize("name", [name for name in ps.list_models() if name != "latent_tree"])
def test_the_diagram_of_the_docstring_has_the_sites_of_the_program(name, cells):
    declared = ps.create(name)
    diagram = inspect.getmodule(type(declared)).__doc__.partition("Plate diagram")[2]
    diagram = "\n".join(line for line in diagram.splitlines() if re.match(r"\s+[+|]", line))
    observed = set(re.findall(r"\[\[(\w+)\]\]", diagram))
    latent = set(re.findall(r"\((\w+)\)", diagram))
    program = sites(declared.sized(cells.dims), cells)
    assert observed == {site.name for site in program if site.observed}
    assert latent == {site.name for site in program if not site.observed}


@pytest.mark.parametrize("name", ps.list_models())
def test_circles_do_not_touch_and_lie_inside_the_picture(name, cells):
    ax = plates(ps.create(name).sized(cells.dims), cells)
    circles = [patch for patch in ax.patches if hasattr(patch, "radius")]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for n, one in enumerate(circles):
        (x, y), radius = one.center, one.radius
        assert left < x - radius < x + radius < right
        assert low < y - radius < y + radius < high
        assert all((x - u) ** 2 + (y - v) ** 2 > (2 * radius) ** 2 for u, v in (c.center for c in circles[:n]))


def test_show_draws_the_diagram(tmp_path, capsys):
    file = tmp_path / "scvi.svg"
    run("show", "scvi", "--plates", str(file))
    assert "plate diagram of scvi" in capsys.readouterr().out
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    for page, wrong in (("scvi", "exists already"), ("mean_field", "only models have a plate diagram")):
        assert main(["show", page, "--plates", str(file)]) == 1
        assert wrong in capsys.readouterr().err
