"""Bounds and samples of a fit in training: without dropout, from random numbers of their own; it goes on as before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyro
import torch
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.inference.seeds import seeded
from pyroscvi.part import hops_of
from pyroscvi.program import Guide, Model


@torch.no_grad()
def two_samples(guide: Guide, cells: Cells, seed: int, batch_size: int = 1024) -> Tensor:
    """Two posterior samples of z of every cell [2, n, d], from the guide as it is now."""
    guide.eval()
    with seeded(seed, cells.device), pyro.validation_enabled(False):
        minibatches = cells.minibatches(batch_size, hops=hops_of(guide))
        return torch.cat([guide.posteriors(minibatch)["z"].sample(torch.Size([2])) for minibatch in minibatches], 1)


@torch.no_grad()
def evaluate(model: Model, guide: Guide, cells: Cells, total: int, seed: int, batch_size: int = 1024) -> float:
    """The ELBO per cell at KL weight 1, from the same random draws every time, for a data set of ``total`` cells."""
    summed = 0.0
    with evaluating(model, guide, seed, cells):
        for minibatch in replace(cells, total=total).minibatches(batch_size, hops=hops_of(model, guide)):
            summed -= negative_elbo(model, guide, minibatch).item() / total * len(minibatch)
    return summed / len(cells)


@contextmanager
def evaluating(model: Model, guide: Guide, seed: int, cells: Cells) -> Iterator[None]:
    """Evaluate inside: without dropout, and from ``seed``, so that training continues as if nothing was evaluated."""
    programs: tuple[nn.Module, ...] = (model, guide)
    training = [program.training for program in programs]
    for program in programs:
        program.eval()
    try:
        with seeded(seed, cells.device), pyro.validation_enabled(False):
            yield
    finally:
        for program, was in zip(programs, training, strict=True):
            program.train(was)
