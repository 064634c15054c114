"""What every process of ``test_distributed`` does: torchrun starts two of these, and each leaves RANK.pt behind."""

import os
import signal
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import torch
from torch import nn

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.data.graph import nearest
from pyroscvi.fitting.resume import Folder
from pyroscvi.guides import FullCovariance, MeanField, SpatialGNN
from pyroscvi.inference import captured
from pyroscvi.inference.distributed import Ranks
from pyroscvi.inference.loss import Loss
from pyroscvi.inference.objectives import Classifier
from pyroscvi.inference.schedules import Patience
from pyroscvi.models import GMVAE, LDVAE, SCVI, Annotated
from pyroscvi.parts import NB, BatchNorm, LayerNorm, Mixture, RandomDispersion, ReadCell, StandardNormal, VampPrior
from pyroscvi.parts.neighbours import ReadNeighbours


class WithMore(SCVI):
    """A page that holds parameters which no minibatch reaches."""

    def build(self, dims):
        super().build(dims)
        self.more = nn.Linear(2, 2)


LDVAE_SHARED = LDVAE(latent=3, likelihood=NB(dispersion=RandomDispersion()))
PROBLEMS = {  # model, guide, objectives; no dropout, whose draws are not those of single cells
    "mixture": (SCVI(latent=3, prior=Mixture(components=3)), MeanField(encoder=ReadCell(16, dropout=0.0)), []),
    "enumerated": (GMVAE(latent=3, kinds=3), FullCovariance(encoder=ReadCell(16, dropout=0.0)), []),
    "shared latent": (LDVAE_SHARED, MeanField(encoder=ReadCell(16, dropout=0.0)), []),
    "batch norm": (SCVI(latent=3), MeanField(encoder=ReadCell(16, norm=BatchNorm(), dropout=0.0)), []),
    "objective": (Annotated(latent=3), MeanField(encoder=ReadCell(16, dropout=0.0)), [Classifier(2.0)]),
    "vamp": (SCVI(latent=3, prior=VampPrior(components=4)), MeanField(encoder=ReadCell(16, dropout=0.0)), []),
    "unreached": (WithMore(latent=3), MeanField(encoder=ReadCell(16, dropout=0.0)), []),
    "tissue": (SCVI(latent=3), SpatialGNN(encoder=ReadNeighbours(ReadCell(16, dropout=0.0))), []),
}
MINIBATCHES = {"even": torch.arange(3, 11), "uneven": torch.tensor([31, 4, 5, 58, 59, 0, 7])}
BETA = 0.3


def sixty() -> Cells:
    """Sixty cells of three types in two batches, half of them annotated, on a piece of tissue; twelve genes."""
    generator = torch.Generator().manual_seed(1)
    kind = torch.arange(60) % 3
    rate = torch.rand(3, 12, generator=generator)[kind] * 10
    place = torch.rand(60, 2, generator=generator).numpy()
    labels = torch.where(torch.arange(60) % 4 < 2, kind, -1)
    return Cells(
        torch.poisson(rate, generator=generator),
        {"batch": torch.arange(60) % 2, "label": labels},
        graph=nearest(place, neighbours=4),
    )


@contextmanager
def noise_of(index):
    """Fixed standard normal draws for every cell, the same on all ranks. Shared latents use those of cell 0."""
    table = torch.randn(60, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def drawn(shape, **_):
        shape = torch.Size(shape)
        return table[index, : shape[-1]] if len(shape) == 2 else table[0, : shape.numel()].reshape(shape)

    where = ("normal", "multivariate_normal")
    with (
        patch(f"torch.distributions.{where[0]}._standard_normal", drawn),
        patch(f"torch.distributions.{where[1]}._standard_normal", drawn),
    ):
        yield


def gradients(problem: str, minibatch: str, ranks: Ranks) -> tuple[torch.Tensor, dict, dict]:
    """Mean loss over ranks, gradients by name, and buffers by name, of one minibatch in double precision."""
    model, guide, objectives = PROBLEMS[problem]
    cells = sixty().to(dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0 if ranks.first else 5)  # parameters differ until the first rank sends its own
        model = model.sized(cells.dims).double()
        guide = guide.sized(model, cells).double()
    trained = nn.ModuleDict({"model": model, "guide": guide, "objectives": nn.ModuleList()}).train()
    loss = ranks.wrap(Loss(trained, objectives, len(cells)), cells.take(torch.arange(2)))
    whole = MINIBATCHES[minibatch]
    own = cells.take(whole[ranks.rank :: ranks.world])
    with noise_of(own.index):
        value = loss(own, BETA, ranks.weight(len(own), len(whole)))
    value.backward()
    slopes = {name: p.grad for name, p in trained.named_parameters()}
    return ranks.mean(value.detach()), slopes, dict(trained.named_buffers())


def tensors(fit: ps.Fit) -> dict:
    return {f"{of}.{name}": t for of in ("model", "guide") for name, t in getattr(fit, of).state_dict().items()}


def history_of(fit: ps.Fit) -> torch.Tensor:
    return torch.tensor(fit.history.drop(columns="seconds", errors="ignore").to_numpy())


class At:
    """An objective that costs nothing, and does something once: on one rank, at one of its calls."""

    def __init__(self, rank, call, what):
        self.rank, self.call, self.what, self.calls = rank, call, what, 0

    def __call__(self, model, guide, cells):
        self.calls += 1
        nothing = torch.zeros(len(cells))
        return self.what(cells, nothing) if (Ranks.here().rank, self.calls) == (self.rank, self.call) else nothing

    def __repr__(self):
        return "At"


def interrupt(cells, nothing):
    os.kill(os.getpid(), signal.SIGINT)
    return nothing


def draw(cells, nothing):
    torch.save(torch.randn(3), Path(sys.argv[1]) / f"drawn{Ranks.here().rank}.pt")
    return nothing


def spoil(cells, nothing):
    cells.x[0, 0] = torch.nan
    return nothing * torch.nan


class Noted(Mixture):
    """A mixture that records the components with which it starts."""

    starts: ClassVar[list] = []

    def settle(self, z):
        super().settle(z)
        Noted.starts.append([p.detach().clone() for p in (self.w, self.m, self.raw_s)])


def places(n: int, rank: int) -> torch.Tensor:
    """Latents of n cells, repeated twice [2, n, 3]. Each rank has different ones, as rounding might cause."""
    return torch.randn(1, n, 3, generator=torch.Generator().manual_seed(rank)).expand(2, -1, -1)


def settled() -> ps.Fit:
    def samples(guide, cells, seed):
        return places(len(cells), Ranks.here().rank)

    with patch("pyroscvi.inference.run.two_samples", samples):
        return fitted(prior=Noted(3))


def fitted(*objectives, norm=None, prior=None, graph=True, **options) -> ps.Fit:
    guide = MeanField(encoder=ReadCell(16, norm=norm or LayerNorm()))
    options = {"epochs": 6, "batch_size": 13, "device": "cpu", "validation": 0.1, **options}
    model = SCVI(latent=3, prior=prior or StandardNormal())
    cells = sixty() if graph else replace(sixty(), graph=None)
    return ps.fit(model, guide, cells, objectives=objectives, **options)


def outcome(call) -> dict:
    """The error, warnings, tensors and history of a fit that ``call`` makes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit, error = call(), None
        except ValueError as raised:
            fit, error = getattr(raised, "fit", None), f"{type(raised).__name__}: {raised}"
    about = {"error": error, "warnings": [str(warning.message) for warning in caught]}
    if fit is None:
        return about
    return about | {"tensors": tensors(fit), "history": history_of(fit), "interrupted": fit.record["interrupted"]}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.here()
    results = {"gradients": {(p, m): gradients(p, m, ranks) for p in PROBLEMS for m in MINIBATCHES}}
    before = torch.get_rng_state()
    at = {
        "plain": lambda: fitted(At(9, 0, draw), folder=Folder(out / "plain", seconds=0.0)),
        "stopped early": lambda: fitted(norm=BatchNorm(), epochs=40, lr=0.1, early_stopping=Patience(2)),
        "interrupted": lambda: fitted(At(1, 10, interrupt), folder=Folder(out / "resumed", seconds=0.0)),
        "left": lambda: fitted(At(1, 10, interrupt), folder=Folder(out / "left", seconds=0.0)),
        "resumed": lambda: fitted(At(9, 0, draw), folder=Folder(out / "resumed", seconds=0.0)),
        "spoilt": lambda: fitted(At(1, 4, spoil)),
        "settled": settled,
        "draws": lambda: fitted(At(ranks.rank, 2, draw), epochs=1, batch_size=54),
        "other seeds": lambda: fitted(seed=ranks.rank),
        "too small": lambda: fitted(batch_size=3),
        "eager": lambda: fitted(graph=False, batch_size=14, epochs=2, compile=False),
        # The last minibatch has 12 cells.
        "recorded": lambda: fitted(graph=False, batch_size=14, epochs=2, compile="trace"),
        "refused": lambda: fitted(graph=False, batch_size=14, epochs=1, compile="trace", norm=BatchNorm()),
        "alone": lambda: fitted(seed=ranks.rank, distributed=False),
    }
    results |= {name: outcome(call) for name, call in at.items()}
    results["began"], results["graphs"] = Noted.starts, len(captured.GRAPHS)
    results["generator untouched"] = torch.equal(before, torch.get_rng_state())
    results["handler"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.save(results, out / f"{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
