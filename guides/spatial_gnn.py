"""Spatial GNN: a cell is read together with its neighbours in the tissue.

    h_n(0) = f(log(1 + x_n))
    a_mn   = softmax_m a(h_n, h_m, r_mn)             attention to each neighbour m at distance r_mn
    h_n(t) = h_n(t-1) + relu(sum_m a_mn V h_m(t-1))                               t = 1 .. hops
    q(z_n | x_n, x_N(n)) = Normal(mu(h_n), L(h_n) L(h_n)')

Other choices are ``ReadNeighbours(convolution=MeanAggregation())`` and ``Equivariant()``, of ``parts.neighbours``.
The guide uses distances, not coordinates, so rotating, mirroring or shifting the slide does not change it. The model
does not change: given its parameters, cells are independent. Neighbours help to infer the state of a cell, and do not
enter the probability of its counts. For a cell without neighbours this is the guide ``FullCovariance``.

Example: what the encoder returns for a cell depends on its 3 nearest neighbours.

    >>> import torch
    >>> from pyroscvi.models import SCVI
    >>> from pyroscvi.data import Fields, Nearest, simulated
    >>> cells = Fields(spatial="spatial", graph=Nearest(3)).read(simulated(cells=20, genes=5, sections=1))
    >>> guide = SpatialGNN().sized(SCVI(latent=2).sized(cells.dims), cells).eval()
    >>> torch.equal(guide.encoder(cells), guide.encoder.cell(cells))  # with neighbours, and alone
    False

References
    Brody, S. et al. (2022) How attentive are graph attention networks? ICLR. arXiv:2105.14491
    Hamilton, W. L. et al. (2017) Inductive representation learning on large graphs. NeurIPS. arXiv:1706.02216
"""

from pyroscvi.guides.full_covariance import FullCovariance
from pyroscvi.parts.encoders import Encoder
from pyroscvi.parts.neighbours import ReadNeighbours

__all__ = ["SpatialGNN"]


class SpatialGNN(FullCovariance):
    encoder: Encoder = ReadNeighbours()
