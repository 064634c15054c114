"""Evidence of a whole data set: log p(x_1 .. x_N), integrated over latents that cells share and over each cell's own.

    p(x_1 .. x_N) = int p(u) prod_n p(x_n | u) du,      p(x_n | u) = int p(x_n, z_n | u) dz_n

Parameters that a page has learnt are plugged in, and cost it nothing; for latents with a prior the whole prior counts.
So priors of dispersions or of loadings can be compared, which is impossible when the best values are plugged in:

    narrow = ps.data_evidence(fit_one, cells)        likelihood=NB(dispersion=RandomDispersion(s=0.3))
    wide = ps.data_evidence(fit_other, cells)        likelihood=NB(dispersion=RandomDispersion(s=2.0))

Several searches look for peaks of the posterior of the shared latents, and the posterior is divided between the peaks
(``peaks``). Draws about the peaks are weighted; where their weights are too uneven, proposals adapted to every part are
used instead. For each draw, each cell's own latents are integrated by importance sampling about their mode
(``shared_latents``). This is for small problems: a search in tens of dimensions, with every cell evaluated thousands of
times.

References
    Chib, S. (1995) Marginal likelihood from the Gibbs output. J Am Stat Assoc 90, 1313-1321.
    doi:10.1080/01621459.1995.10476635
    Tran, M.-N. et al. (2013) Importance sampling squared for Bayesian inference in latent variable models.
    arXiv:1309.3339
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.certificate import CERTIFICATE_SEED, Certificate
from pyroscvi.evidence.importance import MAX_K_HAT, estimate, log_weights
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.memory import Room
from pyroscvi.evidence.peaks import AtPeaks, divided
from pyroscvi.evidence.proposals import Draws, together
from pyroscvi.evidence.reader import MEMORY, Reader
from pyroscvi.evidence.shared_latents import RestrictedGuide, Shared, sites_of
from pyroscvi.evidence.simulated import simulate
from pyroscvi.evidence.streams import Streams
from pyroscvi.evidence.table import estimand, evidences
from pyroscvi.handlers import as_scored
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from anndata import AnnData

    from pyroscvi.data.cells import Cells

MAX_SHARED = 64  # numbers that cells share: with more, neither searches nor proposals can be trusted
SEARCHES = 10
SEARCH_DRAWS = 16  # of a cell's own latents, during the searches
PEAKS, PARTS = 301, 302  # purposes of streams
MIN_EFFECTIVE = 0.3  # share of the draws about the peaks that must be effective
MORE_DRAWS = 4  # times as many draws, of adapted proposals, where it is not, or where k-hat is too large


@dataclass(frozen=True)
class DataEvidence:
    """log p(x_1 .. x_N) of a data set, in nats, and its error.

    log_evidence           of all cells together
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior of the shared latents that would have been as good
    k_hat                  how heavy the tail of the weights is: above 0.7 the other numbers mean little
    method                 "refined" for draws about the peaks of the posterior, "adaptive" where these are not enough;
                           with "nested" where cells have latents of their own. "cell by cell" where nothing is shared
    certificate            from simulated data sets; None without ``certify``
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
    """The gap between upper and lower bound, in nats of a whole data set; ``cells`` counts data sets."""

    unit: ClassVar[str] = "data set"
    simulated: ClassVar[str] = "simulated from the priors"


@alone
def data_evidence(
    fit: Fitted | Pair,
    cells: Cells | AnnData,
    particles: int = 4000,
    seed: int = 0,
    *,
    inner: int = 32,
    certify: bool = False,
    simulated: int = 16,
    memory: int | str = MEMORY,
) -> DataEvidence:
    """log p(x_1 .. x_N) of cells together, in nats, with the latents that they share integrated over their prior.

    fit        a Fit, or a pair (model, guide). Searches start at its guide, which need not be good
    cells      Cells, or an AnnData, which is read through ``fit.fields``. The fit may have seen them: latents are
               integrated out, but the learnt parameters are plugged in
    particles  draws of the shared latents; four times as many where k-hat is above 0.7 or few of them are effective
    inner      draws of each cell's own latents, for every draw of the shared ones
    certify    simulate this many data sets (``simulated``) from the model, priors included, and measure how far off
               their evidence is: takes as many times as long
    memory     bytes for intermediate results, as a number or as "2GB", beside the model and the data

    Everything is in float64. Raises ValueError for more than 64 shared numbers, a shared site that is discrete, and a
    page that does not take several draws of a shared latent at once.
    """
    reader = Reader(fit, cells, memory=memory, shared=True)
    shared = {name: site.size for name, site in sites_of(reader.guide, local=False).items()}
    if not shared:
        return _cell_by_cell(reader, particles, seed, certify)
    if (size := sum(shared.values())) > MAX_SHARED:
        sizes = ", ".join(f"{name!r} {numbers}" for name, numbers in shared.items())
        raise ValueError(
            f"cells share {size:,} numbers ({sizes}), and an evidence of the whole data set is for {MAX_SHARED} at "
            "most: take fewer genes, or a part that has parameters there (PerGene() instead of RandomDispersion(), "
            "Learned() loadings) and the evidence of each cell, log_evidence(fit, cells)"
        )
    if certify and simulated < 2:
        raise ValueError(f"a certificate takes two simulated data sets at least, not {simulated}")
    reader = reader.of(reader.cells.take(torch.arange(len(reader.cells)), hops=None))
    result = Search(reader, seed, particles, inner).result()
    certificate = _certified(reader, seed, particles, inner, simulated) if certify else None
    return replace(result, certificate=certificate)


class Search:
    """Proposals for the latents that cells of a data set share, and the weights of draws from them."""

    def __init__(self, reader: Reader, seed: int, particles: int, inner: int):
        self.estimand, self.seed, self.particles = estimand(reader.model, reader.cells), seed, particles
        self.model, self.cells = reader.model, reader.cells
        guide, cells = reader.guide, reader.cells
        room = Room(reader.memory, cells.counts.shape[1])
        with torch.no_grad():
            self.q = together(RestrictedGuide(guide, local=False), cells.take(torch.arange(1), hops=None))
        density = Shared(self.model, guide, cells, inner, room.draws(len(cells)), seed)
        self.coordinates = density.coordinates
        spread = self.q.scale_tril.norm(dim=-1)[0]
        parts = divided(density.fixed(min(SEARCH_DRAWS, inner)), self.starts(), spread)
        self.density = density.at(parts.peaks)
        self.parts = parts.of(self.density.fixed(min(SEARCH_DRAWS, inner)))
        self.draws: Draws = AtPeaks()(self.q, self.parts)

    def starts(self) -> Tensor:
        """Where the searches start [start, size]: the guide's mean, its mirror image, and draws from the prior."""
        prior, traced = [], poutine.trace(poutine.uncondition(self.model))
        with seeded(self.seed), torch.no_grad(), as_scored():
            for _ in range(SEARCHES - 2):
                nodes: Any = traced.get_trace(self.cells).nodes
                prior.append(self.coordinates.of({name: nodes[name]["value"] for name in self.coordinates.sites}))
        return torch.cat([self.q.loc, -self.q.loc, torch.stack(prior)])

    def log_weights(self, particles: int, purpose: int) -> Tensor:
        """Log weights of new draws [particles, 1]."""
        streams = Streams(self.seed, torch.zeros(1, dtype=torch.long), purpose)
        return log_weights(self.density, self.draws, streams, particles, self.density.chunk)

    @torch.no_grad()
    def log_weight(self, u: Tensor, z: Tensor) -> Tensor:
        """Log weight [1] of a posterior draw: u [1, size] of the shared latents, z [n, d] of the cells' own."""
        cells = self.density.of_cells(u, truth=z).sum(-1)
        return self.density.log_prior(u) + cells - self.draws.log_prob(u[:, None])[:, 0]

    def result(self) -> DataEvidence:
        """From draws about the peaks; where these cannot be trusted, from more draws of adapted proposals."""
        self.log_w, method = self.log_weights(self.particles, PEAKS), AtPeaks.method
        value = estimate(self.log_w)
        if not (value.k_hat < MAX_K_HAT and value.effective_sample_size > MIN_EFFECTIVE * self.particles):
            self.draws = Adaptive(rounds=4, draws=256, start=AtPeaks())(self.q, self.parts)
            self.log_w, method = self.log_weights(MORE_DRAWS * self.particles, PARTS), Adaptive.method
            value = estimate(self.log_w)
        method = f"nested, {method}" if self.density.own else method
        log_p, error, effective, k_hat = (float(number) for number in value)
        return DataEvidence(log_p, error, effective, k_hat, method, self.estimand, len(self.cells))


def _certified(reader: Reader, seed: int, particles: int, inner: int, simulated: int) -> Certificate:
    """The gap between upper and lower bound, over data sets that the model simulates, priors included."""
    gaps = []
    shared, own = (sites_of(reader.guide, local) for local in (False, True))
    for turn in range(simulated):
        made = simulate(reader, CERTIFICATE_SEED + seed + turn)
        search = Search(made.shown_to(reader), seed, particles, inner)
        result = search.result()
        known = search.log_weight(made.unconstrained(shared)[None], made.unconstrained(own))
        upper = torch.cat([known, search.log_w[1:, 0]]).logsumexp(0) - log(len(search.log_w))
        gaps.append(float(upper) - result.log_evidence)
    method = f"{particles:,} particles, {inner} of every cell"
    return DataCertificate.of(torch.tensor(gaps, dtype=torch.float64), method)


def _cell_by_cell(reader: Reader, particles: int, seed: int, certify: bool) -> DataEvidence:
    """Where nothing is shared: the sum over cells, whose errors are independent."""
    table, certificate = evidences(reader, particles, seed, estimator=Ladder(), certify=certify)
    return DataEvidence(
        float(table["log_evidence"].sum()),
        float((table["monte_carlo_se"] ** 2).sum() ** 0.5),
        float(table["effective_sample_size"].min()),
        float(table["k_hat"].max()),
        "cell by cell",
        estimand(reader.model, reader.cells),
        len(table),
        certificate,
    )
