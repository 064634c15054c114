"""Usage: how much of what a model has is put to use by these cells.

    active units          dimensions of z whose posterior mean varies from cell to cell, by more than 0.01
    effective components  exp H(r), with r the mean over cells of p(k | x_n): 1 where a mixture has collapsed onto one

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519 (active units)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyroscvi.evidence.proposals import Elliptical, GuideDraws
from pyroscvi.evidence.reading import MEMORY, reading

__all__ = ["ACTIVE", "Usage", "effective", "usage"]

ACTIVE = 0.01  # variance over cells of a posterior mean
DRAWS = 8  # of the guide, by which the components of a cell are judged


class Usage(NamedTuple):
    """What is used of a model; NaN where it has no z, or sums over no component.

    active_units  of the dimensions of z
    components    effective, of the first site that is summed over
    """

    active_units: float
    components: float


@torch.no_grad()
def usage(fit: Any, cells: Any, seed: int = 0, *, memory: int | str = MEMORY, batch_size: int | None = None) -> Usage:
    """Active units and effective components of a fit on these cells, as its guide reads them."""
    means, responsibilities = [], []
    for read in reading(fit, cells, seed, GuideDraws(), batch_size, memory=memory, particles=DRAWS):
        assert isinstance(read.draws, Elliptical)
        means.append(read.joint.values(read.draws.loc.unsqueeze(0)).get("z"))
        levels = read.joint.levels()
        if levels:
            pieces = [read.joint.by_level(read.draws.sample(read.streams, 1), next(iter(levels))) for _ in range(DRAWS)]
            responsibilities.append(torch.cat(pieces, 1).softmax(0).mean(1))
    z = None if not means or means[0] is None else torch.cat([mean[0] for mean in means if mean is not None])
    return Usage(
        float("nan") if z is None else float((z.var(0, correction=0) > ACTIVE).sum()),
        effective(torch.cat(responsibilities, 1).mean(1)) if responsibilities else float("nan"),
    )


def effective(r: Tensor) -> float:
    """exp of the entropy of probabilities r [k]: how many equally likely ones are as uncertain.

    >>> round(effective(torch.tensor([0.25, 0.25, 0.5, 0.0])), 3)
    2.828
    """
    return float(torch.special.entr(r).sum().exp())
