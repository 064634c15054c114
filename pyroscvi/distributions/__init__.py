"""Distributions over the whole count vector of a cell, exact at every count, mean and dispersion.

    Poisson, NegativeBinomial, ZeroInflatedPoisson, ZeroInflatedNegativeBinomial    counts
    Log1pNormal                                                                     a Gaussian on log(1 + x)
    NormalValues                                                                    values that are not counts
    LatentTree                                                                      counts given states on a tree
    ProteinCounts                                                                   proteins: background or foreground
    Annotation                                                                      the label of a cell, given its type

``kernel`` evaluates blocks of cells; it calls ``terms`` for their genes, ``terms`` calls ``deviance`` for counts above
zero, and ``deviance`` calls ``stirling``. ``native`` does the same in C++.
"""

from pyroscvi.distributions.annotation import Annotation
from pyroscvi.distributions.count_families import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyroscvi.distributions.count_vector import CountVector
from pyroscvi.distributions.latent_tree import LatentTree
from pyroscvi.distributions.log1p_normal import Log1pNormal
from pyroscvi.distributions.normal_values import NormalValues
from pyroscvi.distributions.parameters import Shares
from pyroscvi.distributions.protein_counts import ProteinCounts

__all__ = [
    "Annotation", "CountVector", "LatentTree", "Log1pNormal", "NegativeBinomial", "NormalValues", "Poisson",
    "ProteinCounts", "Shares", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson",
]  # fmt: skip
