"""Where the components of a Gaussian mixture begin: among the cells, rather than where nobody has looked."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["NARROWEST", "lay_out"]

NARROWEST = 1e-3  # standard deviation of a component


@torch.no_grad()
def lay_out(w: Tensor, m: Tensor, raw_s: Tensor, z: Tensor) -> None:
    """Set means m [k, d] and spreads softplus(raw_s) + 1e-3 to those of k clusters of places z [n, d], weights w alike.

    Clusters are those of k-means, the best of ten starts, the same ones every time. One cell more, with the variance of
    a cluster, is counted into each, so that a cluster of one cell has a width. Weights say nothing yet: how large a
    cluster is, its own gradients tell soon enough, and a small one is not written off. With fewer cells than components
    all stays where it is.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(z) < len(m):
        return
    with threadpool_limits(1):  # several would add up in any order, and one start be better than another by rounding
        found = KMeans(len(m), n_init=10, random_state=0).fit(z.cpu().double().numpy())
    member = one_hot(torch.as_tensor(found.labels_, device=z.device).long(), len(m)).to(z)
    cells = member.sum(0).unsqueeze(-1)
    means = member.T @ z / cells.clamp(min=1)
    square = (z - member @ means).square()
    s = ((member.T @ square + square.mean(0)) / (cells + 1)).sqrt()
    w.zero_()
    m.copy_(means)
    raw_s.copy_((s - NARROWEST).clamp(min=NARROWEST).expm1().log())  # the inverse of softplus
