"""Certificates: how far off an evidence can be, measured on cells for which a draw of the posterior is known.

    print(certify(fit, held_out))

Cells that the fitted model has simulated come with the latents that they were made from, which are a draw of their
posterior. The estimator, with the same settings as in a table, gives a lower bound. If the posterior draw replaces one
of its own draws, it gives an upper bound (``estimator``). In expectation the true value lies between them:

    gap = mean over cells of (upper - lower)  >=  mean error

This is the one check that detects a missed mode. Where a posterior has a mode that no draw has visited, the known draw
is in that mode from time to time, with a weight that is nats above the others. The certificate holds for cells as the
model makes them, with the conditions and sizes of the given cells. Data that the model would never make may be harder.

References
    Grosse, R. B., Ghahramani, Z. & Adams, R. P. (2015) Sandwiching the marginal likelihood using bidirectional Monte
    Carlo. arXiv:1511.02543
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.ladder import MAX_DRAWS, Ladder
from pyroscvi.evidence.reader import MEMORY, Compile, Reader
from pyroscvi.evidence.simulated import simulate, spread
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

MAX_GAP = 0.1  # nats a cell: a wider gap certifies nothing
CERTIFICATE_SEED = 2**31  # added to the seed, so that simulation and estimate have different random numbers


@dataclass(frozen=True)
class Certificate:
    """The gap between the upper and the lower bound of an evidence, in nats a cell.

    gap             mean over the simulated cells; in expectation no less than the mean error of an evidence
    standard_error  of that mean
    worst           the largest gap of a cell
    cells           how many were simulated
    method          the certified estimator, and its number of draws
    """

    unit: ClassVar[str] = "cell"
    simulated: ClassVar[str] = "cells simulated from the fit"

    gap: float
    standard_error: float
    worst: float
    cells: int
    method: str

    @classmethod
    def of(cls, gap: Tensor, method: str) -> Self:
        """The certificate from the gap of every simulated cell [n]."""
        error = float(gap.std() / len(gap) ** 0.5) if len(gap) > 1 else float("nan")
        return cls(float(gap.mean()), error, float(gap.max()), len(gap), method)

    @property
    def holds(self) -> bool:
        """True if the gap plus two standard errors is within a tenth of a nat."""
        return self.gap + 2 * self.standard_error <= MAX_GAP

    @property
    def words(self) -> str:
        """The text beside every number: "exact", "certified (gap 0.01)" or "uncertified (gap 3.2)"."""
        if self.method == "exact":
            return "exact"
        return f"{'certified' if self.holds else 'uncertified'} (gap {max(self.gap, 0.0):.2g})"

    def __str__(self) -> str:
        return (
            f"{self.words}: {self.gap:.4f} ± {self.standard_error:.4f} nats a {self.unit} between lower and upper "
            f"bound, {self.worst:.3f} for the worst of {self.cells} {self.simulated}; {self.method}"
        )


@alone
def certify(
    fit: Fitted | Pair, cells: Cells | AnnData, particles: int = MAX_DRAWS, seed: int = 0, *,
    estimator: Estimator = Ladder(), simulated: int = 64, memory: int | str = MEMORY, batch_size: int | None = None,
    chunk: int | None = None, compile: Compile = "auto", dtype: torch.dtype | None = None,
) -> Certificate:  # fmt: skip
    """The certificate of ``log_evidence`` at these settings, from ``simulated`` cells that the fitted model makes.

    cells   the simulated cells have the conditions and sizes of these. Their counts are not used, except by a spatial
            guide, which reads neighbours. Fewer cells than are simulated are taken several times
    others  as in ``log_evidence``
    """
    reader = Reader(fit, cells, memory=memory, batch_size=batch_size, chunk=chunk, dtype=dtype, compile=compile)
    with reader.kernel():
        return certificate_of(reader, particles, seed, estimator=estimator, simulated=simulated)


def certificate_of(
    reader: Reader, particles: int, seed: int, *, estimator: Estimator, simulated: int = 64
) -> Certificate:
    """The certificate of evidences that are computed with this reader."""
    template = reader.of(spread(reader.cells, simulated))
    if estimator.exact(template.first) is not None:
        return Certificate(0.0, 0.0, 0.0, 0, "exact")
    made = simulate(template, CERTIFICATE_SEED + seed)
    gaps = []
    for target in made.shown_to(template).targets(seed, particles):
        estimate, _, upper = estimator(target, particles)
        gaps.append(upper - estimate.log_evidence)
    return Certificate.of(torch.cat(gaps), f"{estimator!r}, {particles:,} particles")
