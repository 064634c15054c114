"""Helpers for tests of fits: untrained pairs, fast fits, and a comparison of two fits."""

import os
import subprocess
import sys
import textwrap

import torch
from pyro.infer import TraceEnum_ELBO

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Linear, Mixture


def untrained(model, guide, cells):
    model = model.sized(cells.dims)
    return model.eval(), guide.sized(model, cells).eval()


def moved(model, guide, cells, dtype=torch.float64):
    """Both in double precision, moved off their starting points, in evaluation mode."""
    model = model.sized(cells.dims).to(dtype)
    guide = guide.sized(model, cells)
    model, guide = model.to(dtype).eval(), guide.to(dtype).eval()
    with torch.no_grad():
        for p in guide.heads.parameters():
            p += 0.05 * torch.randn_like(p)
    return model, guide


def pyros():
    """Pyro's own bound."""
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def quick(model, guide, cells, **options):
    usual = {"epochs": 3, "batch_size": 20, "validation": 0.1, "progress": False}
    return ps.fit(model, guide, cells, **{**usual, **options})


def state(fit):
    return {f"{k}.{name}": t for k in ("model", "guide") for name, t in getattr(fit, k).state_dict().items()}


def same(one, two):
    one, two = state(one), state(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def interrupted_after(steps):
    """An objective that asks for nothing, and interrupts the run once."""
    taken = []

    def interrupt(model, guide, minibatch):
        taken.append(1)
        if len(taken) == steps + 1:
            raise KeyboardInterrupt
        return torch.zeros(len(minibatch))

    interrupt.taken = taken
    return interrupt


def one_mode(cells):
    """Two kinds of cell that counts do not tell apart, and a guide that knows of one of them; these many cells."""
    cells = Cells(torch.poisson(torch.full((cells, 12), 3.0)))
    page = SCVI(latent=2, prior=Mixture(components=2), decoder=Linear(), likelihood=NB())
    model, guide = untrained(page, MeanField(), cells)
    with torch.no_grad():
        model.prior.m.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        model.prior.raw_s.fill_(-1.0)
        model.decoder.heads["rho"].weight[:, 0] = 0
        guide.heads["z"].weight.zero_()
        guide.heads["z"].bias.copy_(torch.tensor([3.0, 0.0, -0.8, -0.8]))
    return (model, guide), cells


def run(script, *arguments):
    """A script in a process of its own, which may be killed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
