"""How the components of a mixture start: at random, or at k-means clusters of the cells."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyroscvi.data.cells import Cells
from pyroscvi.part import Part

__all__ = ["MIN_SPREAD", "KMeans", "Random", "Start", "clustered_shares", "set_to_clusters", "start_at_clusters"]

MIN_SPREAD = 1e-3  # smallest standard deviation of a component
MAX_CLUSTERED = 4000  # cells that clusters of counts are made from, spread evenly over the data set
MAX_GENES = 1000  # genes that distances between these cells are computed from: those with the largest variance


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


@torch.no_grad()
def start_at_clusters(head: Any, k: int, cells: Cells) -> None:
    """Set the first k columns of the weights of a linear layer to the log shares of k clusters, less its bias.

    Of values that are not counts, they are the differences of the means of the clusters from the mean of all cells.
    """
    if cells.real:
        x, member = _clustered(cells, k)
        start = (member.T @ x + x.mean(0)) / (member.sum(0).unsqueeze(-1) + 1) - x.mean(0)
        start = start.to(head.weight)
    else:
        start = clustered_shares(cells, k).log()
    head.weight[:, :k] = start.T - head.bias.unsqueeze(-1)


@torch.no_grad()
def clustered_shares(cells: Cells, k: int) -> Tensor:
    """Share of every gene in the counts of k clusters of cells [k, g]; with fewer different cells, of k random cells.

    Clusters come from k-means on the logarithms of counts scaled to the mean size, of the most variable genes. Each
    cluster contains one pseudo-cell, with the average profile, so that no share is 0. The starts of k-means come from
    torch's generator: fits with several seeds have several starts.
    """
    if cells.real:
        raise ValueError("profiles are shares of counts, and these cells hold other values: use decoder=Linear()")
    x, member = _clustered(cells, k)
    counts = member.T @ x + x.mean(0) + 1 / len(x)  # the pseudo-cell has every gene
    return (counts / counts.sum(-1, keepdim=True)).to(cells.device, cells.dtype)


def _clustered(cells: Cells, k: int) -> tuple[Tensor, Tensor]:
    """Counts or values of some cells [n, g], and the cluster of each, one-hot [n, k]."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    some = cells.subset(torch.linspace(0, len(cells) - 1, min(len(cells), MAX_CLUSTERED)).long(), hops=0)
    x = some.filled(cells.dims.average()).cpu().double()
    size = x.sum(-1, keepdim=True)
    scaled = x if cells.real else (x * (size.mean() / size.clamp(min=1))).log1p()
    seed, chosen = int(torch.randint(2**31, ())), torch.randint(len(x), (k,))
    member = one_hot(chosen, len(x)).double().T
    scaled = scaled[:, scaled.var(0).nan_to_num().topk(min(MAX_GENES, x.shape[1])).indices]
    if len(scaled.unique(dim=0)) >= k:
        with threadpool_limits(1):
            labels = KMeans(k, n_init=3, random_state=seed).fit(scaled.numpy()).labels_
        member = one_hot(torch.as_tensor(labels).long(), k).double()
    return x, member
