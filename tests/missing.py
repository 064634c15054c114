"""Cells in which some genes were not measured, and the same cells and models without those genes."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.models import SCVI
from pyroscvi.parts import NB, Linear

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
GENES = 13  # a prime, and no size of anything else
MEASURED = torch.tensor([True, False, True, True, False, True, True, False, True, True, False, True, False])


def counts(n: int = 8) -> Cells:
    """Cells in which every gene was measured."""
    x = torch.poisson(torch.linspace(1, 9, GENES).expand(n, -1)).double()
    labels = {"batch": torch.arange(n) % 2, "label": torch.arange(n) % 4}
    return Cells(x, labels, size_factor=x.sum(1) * torch.rand(n).double(), proteins=x[:, :2], dtype=torch.float64)


def without(cells: Cells, measured: torch.Tensor = MEASURED) -> Cells:
    """The same cells, in which only these genes were measured."""
    rows = torch.zeros(len(cells), dtype=torch.long)
    return replace(cells, counts=cells.counts * measured, panels=measured[None], panel=rows)


def of_fewer_genes(cells: Cells, measured: torch.Tensor = MEASURED) -> Cells:
    """The same cells, as if there were no other genes."""
    return replace(cells, counts=cells.counts[:, measured])


def on_fewer_genes(model, cells: Cells, measured: torch.Tensor = MEASURED):
    """A model of the measured genes only, with the same weights."""
    few = ps.create(model) if isinstance(model, str) else replace(model)
    few = few.sized(of_fewer_genes(cells, measured).dims).double().eval()
    state = {
        name: t[..., measured] if t.shape[-1:] == (GENES,) else t[measured] if t.shape[:1] == (GENES,) else t
        for name, t in model.state_dict().items()
    }
    few.load_state_dict(state)
    return few


class SharesOfAll(nn.Module):
    """Log shares of the measured genes among all genes, and their other predictors."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z, d):
        eta = self.decoder(z, d)
        return {head: value[..., MEASURED] for head, value in (eta | {"rho": eta["rho"].log_softmax(-1)}).items()}


def page(**slots) -> SCVI:
    return SCVI(**{"latent": 1, "decoder": Linear(), "likelihood": NB(), **slots})
