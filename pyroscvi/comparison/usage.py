"""Usage: how much of a model these cells use.

    active units           dimensions of z whose posterior mean varies between cells, with a variance above 0.01
    information            I(z; n) = mean of log q(z | x_n) - log mean_m q(z | x_m), the information of z about which
                           cell it belongs to: 0 if every posterior equals the prior, and at most the log of the number
                           of cells
    effective components   exp H(r), with r the mean over cells of p(k | x_n): 1 if a mixture has collapsed to one
    component information  I(k; n) = H(r) - mean of H(p(k | x_n)): 0 also if several components are all alike

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519 (active units)
    Hoffman, M. D. & Johnson, M. J. (2016) ELBO surgery: yet another way to carve up the variational evidence lower
    bound. NIPS workshop on advances in approximate Bayesian inference (information)
"""

from math import log
from typing import NamedTuple

import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Target
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Elliptical
from pyroscvi.evidence.reader import MEMORY, Reader
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

ACTIVE = 0.01  # variance over cells of a posterior mean
DRAWS = 8  # of the guide, over which the responsibilities of a cell are averaged
MAX_CELLS = 1000  # that the information of z is estimated from
ROWS = 64  # draws whose densities under all cells are computed at once


class Usage(NamedTuple):
    """How much of a model is used; NaN if it has no z, or no enumerated site.

    active_units           number of dimensions of z that vary between cells
    information            mutual information of z and the cell, in nats; of at most 1,000 cells, so at most 6.9
    components             effective number of levels of the first enumerated site
    component_information  mutual information of that site and the cell, in nats
    """

    active_units: float
    information: float
    components: float
    component_information: float


def usage(
    fit: Fitted | Pair,
    cells: Cells | AnnData,
    seed: int = 0,
    *,
    memory: int | str = MEMORY,
    batch_size: int | None = None,
) -> Usage:
    """How much of its model a fit uses on these cells, according to its guide."""
    return usage_of(Reader(fit, cells, memory=memory, batch_size=batch_size), seed)


@torch.no_grad()
@alone
def usage_of(reader: Reader, seed: int = 0) -> Usage:
    """``usage`` of the fit and the cells of this reader."""
    z, draws, responsibilities = [], [], []
    for target in reader.targets(seed, DRAWS):
        joint, q = target.joint, target.q
        levels = joint.levels()
        u = [q.sample(target.streams, 1) for _ in range(DRAWS if levels else 1)]
        if "z" in joint.sites:
            z.append(joint.values(q.loc.unsqueeze(0))["z"][0])
            draws.append(_of_z(target, u[0][0]))
        if levels:
            pieces = [joint.by_level(each, next(iter(levels))) for each in u]
            responsibilities.append(torch.cat(pieces, 1).softmax(0).mean(1))
    nan, r = float("nan"), torch.cat(responsibilities, 1) if responsibilities else None
    return Usage(
        float((torch.cat(z).var(0, correction=0) > ACTIVE).sum()) if z else nan,
        information(*(torch.cat(column) for column in zip(*draws, strict=True))) if draws else nan,
        nan if r is None else effective(r.mean(1)),
        nan if r is None else float(torch.special.entr(r.mean(1)).sum() - torch.special.entr(r).sum(0).mean()),
    )


def _of_z(target: Target[Joint], u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z within a draw of all unconstrained latents u [n, size], and mean and Cholesky factor of its Gaussian."""
    sizes = {name: site.size for name, site in target.joint.sites.items()}
    start = sum(list(sizes.values())[: list(sizes).index("z")])
    columns = slice(start, start + sizes["z"])
    return u[:, columns], target.q.loc[:, columns], target.q.scale_tril[:, columns, columns]


def information(z: Tensor, loc: Tensor, scale_tril: Tensor) -> float:
    """I(z; n) in nats, from one draw z [n, d] of the posterior Normal(loc [n, d], L_n L_n') of every cell.

    Of more than 1,000 cells 1,000 are used, evenly spaced. It is log n if the posteriors of the cells do not overlap.

    >>> information(torch.zeros(5, 1), torch.zeros(5, 1), torch.ones(5, 1, 1))
    0.0
    """
    chosen = torch.linspace(0, len(z) - 1, min(len(z), MAX_CELLS), device=z.device).long()
    z, q = z[chosen], Elliptical(loc[chosen], scale_tril[chosen])
    log_q = torch.cat([q.log_prob(rows.unsqueeze(1).expand(-1, len(z), -1)) for rows in z.split(ROWS)])  # [n, m]
    return float((log_q.diagonal() - log_q.logsumexp(1) + log(len(z))).mean())


def effective(r: Tensor) -> float:
    """exp of the entropy of probabilities r [k]: the number of equally likely levels with the same entropy.

    >>> round(effective(torch.tensor([0.25, 0.25, 0.5, 0.0])), 3)
    2.828
    """
    return float(torch.special.entr(r).sum().exp())
