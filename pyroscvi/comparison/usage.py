"""Usage: how much of what a model has is put to use by these cells.

    active units           dimensions of z whose posterior mean varies from cell to cell, by more than 0.01
    information            I(z; n) = mean of log q(z | x_n) - log mean_m q(z | x_m), what z tells of which cell it is:
                           0 where all posteriors have collapsed onto the prior, and at most the log of the cells
    effective components   exp H(r), with r the mean over cells of p(k | x_n): 1 where a mixture has collapsed onto one
    component information  I(k; n) = H(r) - mean of H(p(k | x_n)): 0, too, where several components are all alike

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519 (active units)
    Hoffman, M. D. & Johnson, M. J. (2016) ELBO surgery: yet another way to carve up the variational evidence lower
    bound. NIPS workshop on advances in approximate Bayesian inference (information)
"""

from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, GuideDraws
from pyroscvi.evidence.reading import MEMORY, Read, reading

__all__ = ["ACTIVE", "Usage", "effective", "information", "usage"]

ACTIVE = 0.01  # variance over cells of a posterior mean
DRAWS = 8  # of the guide, by which the components of a cell are judged
AMONG = 1000  # cells that one is told apart from
PIECE = 64  # draws that are looked at from everywhere at once


class Usage(NamedTuple):
    """What is used of a model; NaN where it has no z, or sums over no component.

    active_units           of the dimensions of z
    information            of z and the cell, in nats; among 1,000 of the cells if there are more: 6.9 at most
    components             effective, of the first site that is summed over
    component_information  of that site and the cell, in nats
    """

    active_units: float
    information: float
    components: float
    component_information: float


@torch.no_grad()
def usage(fit: Any, cells: Any, seed: int = 0, *, memory: int | str = MEMORY, batch_size: int | None = None) -> Usage:
    """What a fit uses of its model on these cells, as its guide reads them."""
    z, draws, responsibilities = [], [], []
    for read in reading(fit, cells, seed, GuideDraws(), batch_size, memory=memory, particles=DRAWS):
        assert isinstance(read.draws, Elliptical)
        levels = read.joint.levels()
        u = [read.draws.sample(read.streams, 1) for _ in range(DRAWS if levels else 1)]
        if "z" in read.joint.sites:
            means = read.joint.values(read.draws.loc.unsqueeze(0))["z"][0]
            z.append(means)
            draws.append(_of_z(read, u[0][0]))
        if levels:
            pieces = [read.joint.by_level(each, next(iter(levels))) for each in u]
            responsibilities.append(torch.cat(pieces, 1).softmax(0).mean(1))
    nan, r = float("nan"), torch.cat(responsibilities, 1) if responsibilities else None
    return Usage(
        float((torch.cat(z).var(0, correction=0) > ACTIVE).sum()) if z else nan,
        information(*(torch.cat(column) for column in zip(*draws, strict=True))) if draws else nan,
        nan if r is None else effective(r.mean(1)),
        nan if r is None else float(torch.special.entr(r.mean(1)).sum() - torch.special.entr(r).sum(0).mean()),
    )


def _of_z(read: Read, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unconstrained z of a draw of all latents u [n, size], and the Gaussian that it is drawn from."""
    assert isinstance(read.draws, Elliptical)
    sizes = {name: site.size for name, site in read.joint.sites.items()}
    start = sum(list(sizes.values())[: list(sizes).index("z")])
    here = slice(start, start + sizes["z"])
    return u[:, here], read.draws.loc[:, here], read.draws.scale_tril[:, here, here]


def information(z: Tensor, loc: Tensor, scale_tril: Tensor) -> float:
    """I(z; n) in nats, from one draw z [n, d] of the posterior Normal(loc [n, d], L_n L_n') of every cell.

    Of more than 1,000 cells as many are taken, evenly. Cells that none of the others could be mistaken for give log n.

    >>> information(torch.zeros(5, 1), torch.zeros(5, 1), torch.ones(5, 1, 1))
    0.0
    """
    some = torch.linspace(0, len(z) - 1, min(len(z), AMONG), device=z.device).long()
    z, q = z[some], Elliptical(loc[some], scale_tril[some])
    log_q = torch.cat([q.log_prob(piece.unsqueeze(1).expand(-1, len(z), -1)) for piece in z.split(PIECE)])  # [n, m]
    return float((log_q.diagonal() - log_q.logsumexp(1) + log(len(z))).mean())


def effective(r: Tensor) -> float:
    """exp of the entropy of probabilities r [k]: how many equally likely ones are as uncertain.

    >>> round(effective(torch.tensor([0.25, 0.25, 0.5, 0.0])), 3)
    2.828
    """
    return float(torch.special.entr(r).sum().exp())
