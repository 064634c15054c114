"""How the components of a Gaussian mixture start: at random, or at k-means clusters of the cells."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyroscvi.part import Part

__all__ = ["MIN_SPREAD", "KMeans", "Random", "Start", "set_to_clusters"]

MIN_SPREAD = 1e-3  # smallest standard deviation of a component


class Start(Part):
    """A slot that sets the weights w, means m and raw spreads of a mixture, once in a fit, from states z [n, d]."""

    def forward(self, w: Tensor, m: Tensor, raw_s: Tensor, z: Tensor) -> None:
        raise NotImplementedError


class Random(Start):
    """Components keep the random means that they were sized with."""

    def forward(self, w, m, raw_s, z):
        return None


class KMeans(Start):
    """Components are set to k-means clusters of cells: ``set_to_clusters``.

    With random means one component often covers two clusters, and two components share one cluster.
    """

    def forward(self, w, m, raw_s, z):
        set_to_clusters(w, m, raw_s, z)


@torch.no_grad()
def set_to_clusters(w: Tensor, m: Tensor, raw_s: Tensor, z: Tensor) -> None:
    """Set means m [k, d] and spreads softplus(raw_s) + 1e-3 to those of k clusters of states z [n, d]; weights w to 0.

    Clusters come from k-means with ten starts and a fixed seed. Each spread includes one pseudo-cell, with the pooled
    variance, so that a cluster of one cell has a positive width. Weights start equal, not at cluster sizes: a
    small cluster would lose its cells early, and gradients estimate the weights soon. With fewer cells than components
    nothing changes.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(z) < len(m):
        return
    with threadpool_limits(1):  # several threads add in varying order, and rounding could then choose another start
        clusters = KMeans(len(m), n_init=10, random_state=0).fit(z.cpu().double().numpy())
    member = one_hot(torch.as_tensor(clusters.labels_, device=z.device).long(), len(m)).to(z)
    cells = member.sum(0).unsqueeze(-1)
    means = member.T @ z / cells.clamp(min=1)
    square = (z - member @ means).square()
    s = ((member.T @ square + square.mean(0)) / (cells + 1)).sqrt()
    w.zero_()
    m.copy_(means)
    raw_s.copy_((s - MIN_SPREAD).clamp(min=MIN_SPREAD).expm1().log())  # the inverse of softplus
