"""Evidence of a whole data set: log p(x_1 .. x_N), integrated over what its cells share and what is each cell's own.

    p(x_1 .. x_N) = int p(u) prod_n p(x_n | u) du,      p(x_n | u) = int p(x_n, z_n | u) dz_n

What a page says of the parameters that it has learnt is plugged in and costs it nothing; what it has a prior for is
paid for here. So priors of dispersions or of loadings can be compared, which fits that plug in the best values cannot:

    narrow = ps.data_evidence(fit_one, cells)        likelihood=NB(dispersion=RandomDispersion(s=0.3))
    wide = ps.data_evidence(fit_other, cells)        likelihood=NB(dispersion=RandomDispersion(s=2.0))

The shared latents are sought by several searches uphill, and their posterior is divided among the peaks (``peaks``).
Draws about these are weighed or, where they will not do, draws that have been adapted to every part. Inside every draw
each cell's own latents are integrated by importance sampling about their mode (``shared``). This is for small problems:
a search in tens of dimensions, and every cell looked at thousands of times.

References
    Chib, S. (1995) Marginal likelihood from the Gibbs output. J Am Stat Assoc 90, 1313-1321.
    doi:10.1080/01621459.1995.10476635
    Tran, M.-N. et al. (2013) Importance sampling squared for Bayesian inference in latent variable models.
    arXiv:1309.3339
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.ancestral import ancestral
from pyroscvi.evidence.certificate import CERTIFYING, Certificate, Replayed, Rereading
from pyroscvi.evidence.importance import estimate, log_weights
from pyroscvi.evidence.memory import Room, in_bytes
from pyroscvi.evidence.pareto import HEAVY
from pyroscvi.evidence.peaks import AtPeaks, divided
from pyroscvi.evidence.proposals import Draws, together
from pyroscvi.evidence.reading import MEMORY, as_cells, doubled, pair
from pyroscvi.evidence.shared_latents import Shared
from pyroscvi.evidence.speaking import Speaking, where
from pyroscvi.evidence.streams import Streams
from pyroscvi.evidence.table import evidence_table
from pyroscvi.handlers import as_scored
from pyroscvi.inference.seeds import seeded
from pyroscvi.pyro_internals import alone

__all__ = ["DataEvidence", "data_evidence"]

MOST = 64  # numbers that cells share: beyond them neither searches nor proposals are to be trusted
SEARCHES = 10
FEW = 16  # draws of a cell's own latents while proposals are looked for
PEAKS, PARTS = 301, 302  # purposes of streams
ENOUGH, MORE = 0.3, 4  # the share of draws that is effective; how many times more there are where it, or k-hat, fails


@dataclass(frozen=True)
class DataEvidence:
    """log p(x_1 .. x_N) of a data set, in nats, and what is known of its error.

    log_evidence           of all cells together
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior of the shared latents that would have been as good
    k_hat                  how heavy the tail of the weights is: above 0.7 the other numbers mean little
    method                 "refined", draws about the peaks of the posterior, or "adaptive", where those would not do;
                           "nested" where cells have latents of their own. "cell by cell" where nothing is shared
    certificate            of data sets of the model's own making; None where nobody asked
    """

    log_evidence: float
    monte_carlo_se: float
    effective_sample_size: float
    k_hat: float
    method: str
    estimand: str
    cells: int
    certificate: Certificate | None = None

    def __float__(self) -> float:
        return self.log_evidence

    def __str__(self) -> str:
        words = "uncertified" if self.certificate is None else self.certificate.words
        return (
            f"log {self.estimand} of {self.cells:,} cells together: {self.log_evidence:.2f} ± "
            f"{self.monte_carlo_se:.2g} nats ({self.method}, k-hat {self.k_hat:.2f}, {words})"
        )


class DataCertificate(Certificate):
    """The gap between the two ends of the sandwich, in nats of a whole data set; ``cells`` counts data sets."""

    def __str__(self) -> str:
        return (
            f"{self.words}: {self.gap:.4f} ± {self.standard_error:.4f} nats a data set between the ends of the "
            f"sandwich, {self.worst:.3f} for the worst of {self.cells} simulated from the priors; {self.method}"
        )


@alone
def data_evidence(
    fit: Any,
    cells: Any,
    particles: int = 4000,
    seed: int = 0,
    *,
    inner: int = 32,
    certify: bool = False,
    simulated: int = 16,
    memory: int | str = MEMORY,
) -> DataEvidence:
    """log p(x_1 .. x_N) of cells together, in nats, with the latents that they share integrated over their prior.

    fit        a Fit, or a pair (model, guide). Its guide is where searches begin, and need not be good
    cells      Cells, or an AnnData, which is read through ``fit.fields``. Whether the fit has seen them does not matter
               to the latents; the parameters that it has learnt are plugged in
    particles  draws of the shared latents; four times as many where k-hat is above 0.7 or few of them are effective
    inner      draws of each cell's own latents, for every one of these
    certify    simulate so many data sets (``simulated``) from the model, priors and all, and measure how far off their
               evidence is: takes as many times as long
    memory     what may be held at once beside the model and the data, in bytes or as "2GB"

    Everything is in float64. Raises ValueError for more than 64 shared numbers, a shared site that is discrete, and a
    page that does not take several draws of a shared latent at once.
    """
    model, guide = pair(fit)
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("there are no cells to take the evidence of")
    shared = {name: site.size for name, site in where(guide, local=False).items()}
    if not shared:
        return _cell_by_cell(fit, cells, particles, seed, certify, memory)
    if (size := sum(shared.values())) > MOST:
        told = ", ".join(f"{name!r} {many}" for name, many in shared.items())
        raise ValueError(
            f"cells share {size:,} numbers ({told}), and an evidence of the whole data set is for {MOST} at most: take "
            "fewer genes, or a part that has parameters there (PerGene() instead of RandomDispersion(), Learned() "
            "loadings) and the evidence of each cell, log_evidence(fit, cells)"
        )
    if certify and simulated < 2:
        raise ValueError(f"a certificate takes two simulated data sets at least, not {simulated}")
    how: dict[str, Any] = {"particles": particles, "inner": inner, "memory": memory}
    search = Search(model, guide, cells, seed, **how)
    found = search.found()
    certificate = _certified(model, guide, cells, seed, simulated, how) if certify else None
    return replace(found, certificate=certificate)


class Search:
    """Proposals for the latents that cells of a data set share, and what draws from them weigh."""

    def __init__(
        self, model: Any, guide: Any, cells: Cells, seed: int, *, particles: int, inner: int, memory: int | str
    ):
        self.estimand = getattr(model, "estimand", "p(x)")
        self.seed, self.particles = seed, particles
        model, guide, cells = doubled(model, guide, cells.take(torch.arange(len(cells)), hops=None))
        room = Room(in_bytes(memory), cells.counts.shape[1])
        self.model, self.cells = model, cells
        with torch.no_grad():
            own = together(Speaking(guide, local=True), cells)
            self.q = together(Speaking(guide, local=False), cells.take(torch.arange(1), hops=None))
        density = Shared(model, guide.sites, cells, own, draws=inner, rows=room.draws(len(cells)), seed=seed)
        self.coordinates = density.coordinates
        spread = self.q.scale_tril.norm(dim=-1)[0]
        found = divided(density.fixed(min(FEW, inner)), self.starts(), spread)
        self.density = density.at(found.peaks)
        self.parts = found.of(self.density.fixed(min(FEW, inner)))
        self.draws: Draws = AtPeaks()(self.q, self.parts)

    def starts(self) -> Tensor:
        """Where the searches begin [start, size]: the guide's mean, its mirror image, and draws from the prior."""
        mean = self.q.loc
        with seeded(self.seed), torch.no_grad():
            drawn = torch.cat([self.prior() for _ in range(SEARCHES - 2)])
        return torch.cat([mean, -mean, drawn])

    def prior(self) -> Tensor:
        """A draw of the shared latents from their prior [1, size]."""
        with as_scored():
            nodes: Any = poutine.trace(poutine.uncondition(self.model)).get_trace(self.cells).nodes
        return self.coordinates.of({name: nodes[name]["value"] for name in self.coordinates.sites})[None]

    def log_weights(self, particles: int, purpose: int) -> Tensor:
        """Log weights of fresh draws [particles, 1]."""
        streams = Streams(self.seed, torch.zeros(1, dtype=torch.long), purpose)
        return log_weights(self.density, self.draws, streams, particles, self.density.chunk)

    @torch.no_grad()
    def log_weight(self, u: Tensor, z: Tensor) -> Tensor:
        """Log weight [1] that a draw of the posterior has, u [1, size] and the cells' own z [n, d]."""
        cells = self.density.of_cells(u, truth=z).sum(-1)
        return self.density.log_prior(u) + cells - self.draws.log_prob(u[:, None])[:, 0]

    def found(self) -> DataEvidence:
        """By draws about the peaks; or, where these are not to be trusted, by more that are adapted to the parts."""
        self.log_w, method = self.log_weights(self.particles, PEAKS), AtPeaks.method
        told = estimate(self.log_w)
        if not (told.k_hat < HEAVY and told.effective_sample_size > ENOUGH * self.particles):
            shape = AtPeaks.shape(self.density.size)
            self.draws = Adaptive(rounds=4, draws=256, **shape, start=AtPeaks())(self.q, self.parts)
            self.log_w, method = self.log_weights(MORE * self.particles, PARTS), Adaptive.method
            told = estimate(self.log_w)
        value, error, effective, k_hat = (float(each) for each in told)
        method = f"nested, {method}" if self.density.own else method
        return DataEvidence(value, error, effective, k_hat, method, self.estimand, len(self.cells))


def _certified(model: Any, guide: Any, cells: Cells, seed: int, simulated: int, how: Mapping[str, Any]) -> Certificate:
    """The gap between the ends of the sandwich, over data sets that the model makes, priors and all."""
    gaps = []
    cells = cells.take(torch.arange(len(cells)), hops=None)
    for turn in range(simulated):
        u, drawn, z = _simulated(model, guide, cells, CERTIFYING + seed + turn)
        search = Search(Replayed(model, drawn), Rereading(guide, drawn), cells, seed, **how)
        found = search.found()
        known = search.log_weight(u, z)
        upper = torch.cat([known, search.log_w[1:, 0]]).logsumexp(0) - log(len(search.log_w))
        gaps.append(float(upper) - found.log_evidence)
    gap = torch.tensor(gaps, dtype=torch.float64)
    told = f"{how['particles']:,} particles, {how['inner']} of every cell"
    return DataCertificate(float(gap.mean()), float(gap.std() / simulated**0.5), float(gap.max()), simulated, told)


def _simulated(model: Any, guide: Any, cells: Cells, seed: int) -> tuple[Tensor, Mapping[str, Tensor], Tensor]:
    """Shared latents u [1, size] from their prior, what is observed of cells made with them, and their own z [n, d]."""
    model, guide, cells = doubled(model, guide, cells)
    made = ancestral(model, cells, seed)
    u, z = (made.laid(where(guide, local)) for local in (False, True))
    return u[None], made.observed, z


def _cell_by_cell(fit: Any, cells: Cells, particles: int, seed: int, certify: bool, memory: int | str) -> DataEvidence:
    """Where nothing is shared: the sum over cells, whose errors are independent of each other."""
    table = evidence_table(fit, cells, particles, seed, certify=certify, memory=memory)
    told = table.attrs.get("certificate")
    return DataEvidence(
        float(table["log_evidence"].sum()),
        float((table["monte_carlo_se"] ** 2).sum() ** 0.5),
        float(table["effective_sample_size"].min()),
        float(table["k_hat"].max()),
        "cell by cell",
        table.attrs["estimand"],
        len(table),
        None if told is None else Certificate(**told),
    )
