"""Certificates: how far off an evidence can be, measured on cells of which a draw of the posterior is known.

    print(certify(fit, held_out))

Cells that the fitted model has generated itself come with the latents that they were made of, which are a draw of their
posterior. The estimator, at the very settings that a table is made with, gives the lower end of a sandwich; with the
draw in the place of one of its own it gives the upper end (``estimator``). In expectation the truth lies between them:

    gap = mean over cells of (upper - lower)  >=  mean error

It is the one check that sees a missed mode: where a posterior has a mode that no draw has visited, the known draw is
there every so often, and has a weight that is nats above the others. What it says it says of cells as the model makes
them, with the conditions and sizes of those that are asked about; data that the model would never make may be harder.

References
    Grosse, R. B., Ghahramani, Z. & Adams, R. P. (2015) Sandwiching the marginal likelihood using bidirectional Monte
    Carlo. arXiv:1511.02543
    Grosse, R. B., Ancha, S. & Roy, D. M. (2016) Measuring the reliability of MCMC inference with bidirectional Monte
    Carlo. NeurIPS. arXiv:1606.02275
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.data.graph import visited
from pyroscvi.evidence.ancestral import ancestral
from pyroscvi.evidence.compiled import compiled
from pyroscvi.evidence.estimator import Estimator, Target
from pyroscvi.evidence.exact import known_exactly
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.proposals import GuideDraws
from pyroscvi.evidence.reading import MEMORY, as_cells, doubled, pair, reading
from pyroscvi.pyro_internals import alone

__all__ = ["Certificate", "certify"]

WITHIN = 0.1  # nats a cell: a wider gap certifies nothing
CERTIFYING = 2**31  # seeds from here on simulate


@dataclass(frozen=True)
class Certificate:
    """The gap between the two ends of the sandwich, in nats a cell.

    gap             mean over the simulated cells; in expectation no less than the mean error of an evidence
    standard_error  of that mean
    worst           gap of the worst of them
    cells           how many were simulated
    method          the estimator that it is the certificate of, and its draws
    """

    gap: float
    standard_error: float
    worst: float
    cells: int
    method: str

    @property
    def holds(self) -> bool:
        """Is the gap, and what two standard errors add to it, within a tenth of a nat?"""
        return self.gap + 2 * self.standard_error <= WITHIN

    @property
    def words(self) -> str:
        """What is printed beside every number: "certified (gap 0.01)", or "uncertified (gap 3.2)"."""
        if self.method == "exact":
            return "exact"
        return f"{'certified' if self.holds else 'uncertified'} (gap {max(self.gap, 0.0):.2g})"

    def __str__(self) -> str:
        return (
            f"{self.words}: {self.gap:.4f} ± {self.standard_error:.4f} nats a cell between the ends of the sandwich, "
            f"{self.worst:.3f} for the worst of {self.cells} cells simulated from the fit; {self.method}"
        )


@alone
def certify(
    fit: Any,
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    estimator: Estimator = Ladder(),
    simulated: int = 64,
    memory: int | str = MEMORY,
    batch_size: int | None = None,
    chunk: int | None = None,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Certificate:
    """The certificate of ``log_evidence`` at these settings, from ``simulated`` cells of the fit's own making.

    cells   what conditions and sizes the simulated cells have; their counts are not looked at, but by a spatial guide
            that reads neighbours. Fewer than are simulated are taken several times
    others  as in ``log_evidence``

    Raises ValueError where cells share a latent.
    """
    template = _template(as_cells(fit, cells), simulated)
    where: dict[str, Any] = {"batch_size": batch_size, "memory": memory, "particles": particles, "dtype": dtype}
    first = next(reading(fit, template.subset(torch.arange(1)), seed, GuideDraws()))
    if known_exactly(first.joint, estimator) is not None:
        return Certificate(0.0, 0.0, 0.0, 0, "exact")
    drawn, truth = simulate(fit, template, seed)
    model, guide = pair(fit)
    gaps = []
    with compiled(fit, template, dtype) if compile else nullcontext():
        for read in reading((Replayed(model, drawn), Rereading(guide, drawn)), template, seed, GuideDraws(), **where):
            found = estimator(Target.of(read, chunk, truth), particles)
            gaps.append(found.upper - found.estimate.log_evidence)
    gap = torch.cat(gaps)
    error = float(gap.std() / len(gap) ** 0.5) if len(gap) > 1 else float("nan")
    return Certificate(float(gap.mean()), error, float(gap.max()), len(gap), f"{estimator!r}, {particles:,} particles")


def simulate(fit: Any, cells: Cells, seed: int) -> tuple[Mapping[str, Tensor], Tensor]:
    """What the model observes in cells that it makes itself, by site, and their unconstrained latents [n, d]."""
    model, guide, cells = doubled(*pair(fit), cells)
    made = ancestral(model, cells, CERTIFYING + seed)
    return made.observed, made.laid(guide.sites)


class Replayed(nn.Module):
    """A model that observes what it has drawn itself, in cells whose conditions and sizes are what they were.

    A size that is the observed total stays the total that was observed: a draw of the posterior given another would be
    none.
    """

    def __init__(self, model: Any, drawn: Mapping[str, Tensor]):
        super().__init__()
        self.model, self.drawn = model, drawn

    def forward(self, cells: Cells) -> Any:
        with Observing({name: value[cells.index] for name, value in self.drawn.items()}):
            return self.model(cells)


class Observing(Messenger):
    """Answer observed sites with these values."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, message: Any) -> None:
        if message["is_observed"] and message["name"] in self.values:
            message["value"] = self.values[message["name"]]


class Rereading(nn.Module):
    """A guide that is shown what was drawn; in a tissue, each cell among its neighbours as they are.

    To the model a neighbour says nothing of a cell's latents: whatever neighbours hold, the posterior is the same.
    """

    def __init__(self, guide: Any, drawn: Mapping[str, Tensor]):
        super().__init__()
        self.guide, self.drawn, self.sites = guide, drawn, guide.sites
        self.encoder = getattr(guide, "encoder", None)

    def posteriors(self, cells: Cells) -> Any:
        told: dict[str, Any] = {"counts": self.drawn["x"][cells.index]} if "x" in self.drawn else {}
        if "label" in self.drawn:
            told["belief"] = self.drawn["label"][cells.index]
        if cells.graph is not None and cells.graph.nnz:
            everyone = cells.with_halo()
            told |= {"graph": visited(cells.graph, len(cells)), "halo": replace(everyone, counts=everyone.x)}
        return self.guide.posteriors(replace(cells, **told))


def _template(cells: Cells, simulated: int) -> Cells:
    """So many of the cells, from all over the data set; a tissue is not folded upon itself to make more of them."""
    if simulated < 1:
        raise ValueError(f"a certificate takes one simulated cell at least, not {simulated}")
    n = len(cells)
    if n < simulated and cells.graph is None:
        return cells.subset(torch.arange(simulated) % n)
    return cells.subset(torch.linspace(0, n - 1, min(simulated, n)).round().long())
