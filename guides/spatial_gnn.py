"""Spatial GNN: a cell is read together with its neighbours in the tissue.

    h_n(0) = f(log(1 + x_n))
    a_mn   = softmax over neighbours m of a(h_n, h_m, r_mn)                       attention, r_mn the distance
    h_n(t) = h_n(t-1) + relu(sum_m a_mn V h_m(t-1))                               t = 1 .. hops
    q(z_n | x_n, x_N(n)) = Normal(mu(h_n), L(h_n) L(h_n)')

Only distances are used, never coordinates, so the guide does not change when the slide is turned, mirrored or shifted.
The model stays what it is, one cell independent of the next given its parameters: a neighbour helps to read a cell and
does not enter the probability of its counts. Without edges this is the per-cell guide.

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
