"""Simulation-based calibration: are the posteriors of a guide those of its model?

    z ~ p(z),   x ~ p(x | z),   z_1 .. z_L ~ q(z | x):       the rank of f(z, x) among f(z_1, x) .. f(z_L, x) is uniform

for every function f, if q is the posterior. The decoder is the fitted one and the cells are simulated with it. So this
does not test whether the model is right (``predictive`` does), but whether the posteriors of latents are those of the
model. Two kinds of draws are tested side by side: those of the guide, and those that importance resampling has
corrected (``evidence.resampling``).

    result = calibrate(fit)
    print(result)
    result.plot().savefig("calibration.png")

References
    Cook, S. R., Gelman, A. & Rubin, D. B. (2006) Validation of software for Bayesian models using posterior quantiles.
    J Comput Graph Stat 15, 675-692. doi:10.1198/106186006X136976
    Talts, S. et al. (2018) Validating Bayesian inference algorithms with simulation-based calibration. arXiv:1804.06788
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from anndata import AnnData
from rich.console import Group
from torch import Tensor

from pyroscvi.analysis.generate import blank
from pyroscvi.calibration.quantities import Pairs, drawn_levels, likelihoods, of_latents, pairs
from pyroscvi.calibration.ranks import Ranks, frame, ranked
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.evidence.reader import MEMORY, Reader, as_cells, pair
from pyroscvi.evidence.resampling import CANDIDATES, PROPOSALS, RESAMPLE, pool
from pyroscvi.evidence.simulated import simulate, spread
from pyroscvi.part import hops_of
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone
from pyroscvi.report.terminal import Printed, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALIBRATION_SEED = 2**32  # added to the seed: certificates use smaller ones
LEVELS, TIES = 192, 193  # purposes of streams
FORMATS = {"p": ".2g", "corrected p": ".2g", "coverage of 50%": ".3f", "coverage of 90%": ".3f"}
TITLES = {"guide": "the guide", "corrected": "importance-corrected"}


@dataclass(frozen=True, eq=False)
class Calibration(Printed):
    """The result of ``calibrate``: ranks among draws of the guide, and among importance-corrected ones.

    guide       ranks among draws of the guide
    corrected   ranks among corrected draws; None without ``corrected``
    sufficient  share of the cells whose weights are even enough to correct with
    """

    guide: Ranks
    corrected: Ranks | None
    sufficient: float

    @property
    def ranks(self) -> dict[str, Ranks]:
        """Both ranks by name, or only those of the guide."""
        both = {"guide": self.guide, "corrected": self.corrected}
        return {name: ranks for name, ranks in both.items() if ranks is not None}

    @property
    def passes(self) -> bool:
        """True if the corrected draws pass; without them, if the guide does."""
        return (self.corrected or self.guide).passes

    def plot(self) -> "Figure":
        """A picture of how far ranks are from uniform, with simultaneous bands: ``report.calibration.ranks``."""
        from pyroscvi.report.calibration import ranks

        return ranks(self)

    def __rich__(self) -> Group:
        cells, draws = len(self.guide.values), self.guide.draws
        parts: list[Any] = [f"Simulation-based calibration: {cells:,} simulated cells, {draws} draws of each", ""]
        for name, ranks in self.ranks.items():
            failed = ranks.failures
            verdict = f"fails in {len(failed)} of {len(ranks.table)}" if failed else "passes"
            parts += [numbers(ranks.table, f"{TITLES[name]}: {verdict}", FORMATS), ""]
        if self.sufficient < 1:
            share = f"{1 - self.sufficient:.1%}"
            parts += [f"weights too uneven to correct with: {share} of the cells; take more candidates"]
        return Group(*parts)

    def __repr__(self) -> str:
        verdicts = (f"{name} {'passes' if ranks.passes else 'fails'}" for name, ranks in self.ranks.items())
        cells, quantities = self.guide.values.shape
        return f"Calibration({cells} cells, {quantities} quantities: {', '.join(verdicts)})"


@alone
def calibrate(
    fit: Fitted | Pair, cells: Cells | AnnData | None = None, simulations: int = 1000, *, draws: int = 99,
    corrected: bool = True, candidates: int = CANDIDATES, proposals: Sequence[Proposal] = PROPOSALS, products: int = 10,
    level: float = 0.01, seed: int = 0, memory: int | str = MEMORY, batch_size: int | None = None,
) -> Calibration:  # fmt: skip
    """Simulation-based calibration of a fit, with the fitted decoder.

    fit          a Fit, or a pair (model, guide)
    cells        simulated cells have the conditions and sizes of these; by default those of training. A guide that
                 reads neighbours needs the cells of a tissue
    simulations  number of simulated cells; no more than ``cells`` where these lie in a tissue
    draws        L, draws of the posterior of each; ranks are among 0 .. L
    corrected    test importance-corrected draws too, resampled from ``candidates`` of a proposal: ``Pool``
    products     how many products of two coordinates are tested, at most
    level        the significance level, for p-values corrected for the number of quantities

    A guide that is not Gaussian is replaced by the Gaussian with its moments. For a guide that reads neighbours,
    every simulated cell replaces a real cell of ``cells`` and has the neighbours of that cell. Latents that cells
    share are held at the centre of their posterior.
    """
    if draws < 1:
        raise ValueError(f"calibrate takes one draw at least, not draws={draws}")
    if not getattr(getattr(pair(fit)[1], "encoder", None), "of_counts", True):
        raise ValueError("the guide reads an embedding by another model, which simulated cells do not have")
    reader = Reader(fit, template(fit, cells, simulations, seed), memory=memory, batch_size=batch_size)
    sites = reader.first.sites
    made, chosen = simulate(reader, CALIBRATION_SEED + seed), pairs(sites, products, seed)
    guide: list[dict[str, Tensor]] = []
    better: list[dict[str, Tensor]] = []
    sufficient: list[Tensor] = []
    at_once = candidates if corrected else draws
    for target in made.shown_to(reader).targets(seed, particles=2 * at_once):
        rows: Any = target.joint.cells.index
        true = _true(target, {name: k[rows] for name, k in made.levels(sites).items()}, chosen)
        guide.append(dict(_ranked(target, true, target.q.sample(target.streams, draws), chosen)))
        if corrected:
            candidate = pool(target, candidates, proposals)
            sufficient.append(candidate.sufficient)
            u = candidate.resampled(target.streams.anew(RESAMPLE), draws)
            better.append(dict(_ranked(target, true, u, chosen)))
    return Calibration(
        Ranks(frame(guide), draws, level),
        Ranks(frame(better), draws, level) if corrected else None,
        float(torch.cat(sufficient).double().mean()) if corrected else 1.0,
    )


def template(fit: Fitted | Pair, cells: Cells | AnnData | None, n: int, seed: int = 0) -> Cells:
    """n cells that give simulated cells their conditions and sizes.

    They come from all over the given cells, several times where there are fewer. For a guide that reads neighbours,
    every cell of a tissue is taken once at most. Without cells, conditions and sizes are as frequent as in training.
    """
    if n < 1:
        raise ValueError(f"a calibration takes one simulated cell at least, not {n}")
    if cells is None:
        if isinstance(fit, tuple):
            raise TypeError("calibrate: a pair (model, guide) does not know its conditions; give cells that have them")
        return fit.read(blank(fit, n, {}, None, seed))
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("calibrate: there are no cells to take conditions and sizes from")
    if not hops_of(*pair(fit)) and cells.before is None:
        cells = replace(cells, graph=None, halo=None)
    return spread(cells, n)


@torch.no_grad()
def _true(target: Target[Joint], levels: dict[str, Tensor], chosen: Pairs) -> dict[str, Tensor]:
    """The value of every quantity [n] at the latents that the cells were simulated with."""
    assert target.truth is not None
    chunk = target.chunk or len(target.truth)
    scores = likelihoods(target.joint, target.truth[None], chunk)
    values = of_latents(target.joint.sites, target.truth, chosen) | levels
    return values | {name: value[0] for name, value in scores.items()}


@torch.no_grad()
def _ranked(target: Target[Joint], true: dict[str, Tensor], u: Tensor, chosen: Pairs) -> Iterator[tuple[str, Tensor]]:
    """The rank of every quantity [n], among draws u [L, n, d]."""
    joint, chunk = target.joint, target.chunk or len(u)
    enumerated = [name for name in joint.levels() if name in true]
    values = of_latents(joint.sites, u, chosen) | likelihoods(joint, u, chunk)
    values |= drawn_levels(joint, enumerated, u, target.streams.anew(LEVELS), chunk)
    ties = target.streams.anew(TIES)
    for name, value in values.items():
        yield name, ranked(true[name], value, ties.uniform(1)[0].to(u))
