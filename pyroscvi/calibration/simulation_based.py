"""Simulation-based calibration: are the posteriors of a fitted model the posteriors that it has?

    z ~ p(z),   x ~ p(x | z),   z_1 .. z_L ~ q(z | x):       the rank of f(z, x) among f(z_1, x) .. f(z_L, x) is uniform

for every function f, if q is the posterior. The decoder is the one that was fitted, and cells are of its own making:
nothing here asks whether the model is right (``predictive`` does), but whether what is said of a cell's latents is what
the model and Bayes' rule say. Two are asked, side by side: the guide, and draws that are corrected by importance
resampling (``evidence.resampling``).

    found = calibrate(fit)
    print(found)
    found.plot().savefig("calibration.png")

References
    Cook, S. R., Gelman, A. & Rubin, D. B. (2006) Validation of software for Bayesian models using posterior quantiles.
    J Comput Graph Stat 15, 675-692. doi:10.1198/106186006X136976
    Talts, S. et al. (2018) Validating Bayesian inference algorithms with simulation-based calibration. arXiv:1804.06788
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyroscvi.calibration.quantities import drawn_levels, likelihoods, of_latents, pairs
from pyroscvi.calibration.ranks import Ranks, frame, ranked
from pyroscvi.calibration.simulation import simulate, template
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.proposals import GuideDraws, Proposal
from pyroscvi.evidence.reading import MEMORY, Read, pair, reading
from pyroscvi.evidence.resampling import AGAIN, CANDIDATES, PROPOSALS, pool
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Calibration", "calibrate"]

LEVELS, TIES = 192, 193  # purposes of streams
DRAWS = {"guide": "the guide", "corrected": "importance-corrected"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What ``calibrate`` found: ranks of draws of the guide, and of importance-corrected ones.

    guide      ranks among draws of the guide
    corrected  ranks among corrected draws; None where they were not asked for
    settled    share of the cells whose weights were even enough to correct with
    """

    guide: Ranks
    corrected: Ranks | None
    settled: float

    @property
    def ranks(self) -> dict[str, Ranks]:
        """The one or the two, under their names."""
        found = {"guide": self.guide, "corrected": self.corrected}
        return {name: ranks for name, ranks in found.items() if ranks is not None}

    @property
    def passes(self) -> bool:
        """Does what can be had pass: the corrected draws, or else the guide?"""
        return (self.corrected or self.guide).passes

    def plot(self) -> "Figure":
        """How far ranks are from uniform, with simultaneous bands: ``report.calibration.ranks``."""
        from pyroscvi.report.calibration import ranks

        return ranks(self)

    def __str__(self) -> str:
        cells, draws = len(self.guide.values), self.guide.draws
        told = [f"Simulation-based calibration: {cells:,} simulated cells, {draws} draws of each"]
        for name, ranks in self.ranks.items():
            failed = ranks.failures
            verdict = f"fails in {len(failed)} of {len(ranks.table)}" if failed else "passes"
            told += ["", f"{DRAWS[name]}: {verdict}", ranks.table.to_string(formatters=FORMATS)]
        if self.settled < 1:
            told += [
                "",
                f"weights too uneven to correct with: {1 - self.settled:.1%} of the cells; take more candidates",
            ]
        return "\n".join(told)

    def __repr__(self) -> str:
        verdicts = (f"{name} {'passes' if ranks.passes else 'fails'}" for name, ranks in self.ranks.items())
        cells, quantities = self.guide.values.shape
        return f"Calibration({cells} cells, {quantities} quantities: {', '.join(verdicts)})"


FORMATS: Any = {
    "p": "{:.2g}".format,
    "corrected p": "{:.2g}".format,
    "coverage of 50%": "{:.3f}".format,
    "coverage of 90%": "{:.3f}".format,
}


@alone
def calibrate(
    fit: Any,
    cells: Any = None,
    simulations: int = 1000,
    *,
    draws: int = 99,
    corrected: bool = True,
    candidates: int = CANDIDATES,
    proposals: Sequence[Proposal] = PROPOSALS,
    products: int = 10,
    level: float = 0.01,
    seed: int = 0,
    memory: int | str = MEMORY,
    batch_size: int | None = None,
) -> Calibration:
    """Simulation-based calibration of a fit, its decoder held at what was fitted.

    fit          a Fit, or a pair (model, guide)
    cells        what conditions and sizes simulated cells have; without any, those of training. A guide that reads
                 neighbours is to be given the cells of a tissue
    simulations  cells that are made; no more than there are ``cells`` where these lie in a tissue
    draws        L, draws of the posterior of each; ranks are among 0 .. L
    corrected    look at importance-corrected draws too, each out of ``candidates`` of a proposal; see ``Pool``
    products     of two coordinates, at most
    level        how improbable ranks must be to fail, when p-values are corrected for the number of quantities

    A guide that is not Gaussian is seen as the Gaussian of its moments. To one that reads neighbours every simulated
    cell is shown in the place of a real one, among that one's neighbours as they are in ``cells``. Raises ValueError
    where cells share a latent.
    """
    if draws < 1:
        raise ValueError(f"calibrate takes one draw at least, not draws={draws}")
    made = simulate(fit, template(fit, cells, simulations, seed), seed)
    shown, chosen = made.shown_to(fit), pairs(pair(fit)[1].sites, products, seed)
    guide: list[dict[str, Tensor]] = []
    better: list[dict[str, Tensor]] = []
    settled: list[Tensor] = []
    kept = candidates if corrected else draws
    for read in reading(shown, made.cells, seed, GuideDraws(), batch_size, memory=memory, particles=2 * kept):
        rows = read.joint.cells.index
        truth = made.u[rows].unsqueeze(0)
        levels = {name: k[rows] for name, k in made.levels.items()}
        with torch.no_grad():
            true = of_latents(read.joint.sites, truth[0], chosen) | levels
            true |= {name: value[0] for name, value in likelihoods(read.joint, truth, read.chunk).items()}

        def rank(u: Tensor, read: Read = read, true: dict[str, Tensor] = true) -> dict[str, Tensor]:
            return dict(_ranked(read, true, u, chosen))

        guide.append(rank(read.draws.sample(read.streams, draws)))
        if corrected:
            found = pool(Target.of(read), candidates, proposals)
            settled.append(found.settled)
            better.append(rank(found.resampled(read.streams.anew(AGAIN), draws)))
    return Calibration(
        Ranks(frame(guide), draws, level),
        Ranks(frame(better), draws, level) if corrected else None,
        float(torch.cat(settled).double().mean()) if corrected else 1.0,
    )


@torch.no_grad()
def _ranked(read: Read, true: dict[str, Tensor], u: Tensor, chosen: Any) -> Iterator[tuple[str, Tensor]]:
    """The rank of every quantity [n], of draws u [L, n, d]."""
    enumerated = [name for name in read.joint.levels() if name in true]
    values = of_latents(read.joint.sites, u, chosen) | likelihoods(read.joint, u, read.chunk)
    values |= drawn_levels(read.joint, enumerated, u, read.streams.anew(LEVELS), read.chunk)
    lots = read.streams.anew(TIES)
    for name, value in values.items():
        yield name, ranked(true[name], value, lots.uniform(1)[0].to(u))
