"""Surface proteins: from the state of a cell to the distribution of the counts of its proteins."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.advice import field
from pyroscvi.data.cells import Dims
from pyroscvi.distributions import NegativeBinomial, ProteinCounts
from pyroscvi.part import Part
from pyroscvi.parts.decoders import MLP, Decoder

__all__ = ["Surface"]

CLUSTER_ROUNDS = 20  # of two-means clustering
MIN_GAIN = 0.1  # smallest log ratio of foreground to background at the start


class Surface(Part):
    """A slot from a state z [..., latent] and a design row d [n, c] to the distribution of protein counts [..., p].

    b = exp(V d + c)                  background: antibodies that stick to cells without the protein
    a = softplus(f_a(z, d) + c_a)     log ratio of foreground to background, above 0
    pi = sigmoid(f_pi(z, d))          probability of foreground

    decoder   f_a and f_pi; c and c_a start at the lower and upper cluster of the log counts of each protein
    """

    decoder: Decoder = MLP()

    def build(self, dims: Dims, latent: int, conditions: int) -> None:
        if not dims.proteins:
            raise ValueError(f"no proteins were read: name their table in obsm, {field('proteins')}")
        proteins = self.proteins = dims.proteins
        of_proteins = replace(dims, genes=proteins, profile=None)
        self.decoder = self.decoder.sized(of_proteins, latent=latent, conditions=conditions, heads=("a", "pi"))
        self.V = nn.Linear(conditions, proteins, bias=False) if conditions else None
        self.c = nn.Parameter(torch.zeros(proteins))
        self.c_a = nn.Parameter(torch.ones(proteins))
        self.log_theta = nn.Parameter(torch.zeros(2, proteins))  # of background and of foreground

    def begin(self, cells):
        background, foreground = two_means(cells.protein_counts(self.proteins).log1p())
        self.c.copy_(background)
        self.c_a.copy_((foreground - background).clamp(min=MIN_GAIN).expm1().log())  # the inverse of softplus

    def single(self):
        return [self.c, self.c_a, self.log_theta, *([] if self.V is None else self.V.parameters())]

    def forward(self, z: Tensor, d: Tensor) -> ProteinCounts:
        eta = self.decoder(z, d)
        log_b = self.c if self.V is None else self.V(d) + self.c
        background, foreground = self.log_theta
        log_f = log_b + softplus(eta["a"] + self.c_a)
        return ProteinCounts(
            eta["pi"], NegativeBinomial(log_b.expand_as(log_f), background), NegativeBinomial(log_f, foreground)
        )


def two_means(y: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the lower and the upper of two clusters of each column of y [n, p], NaN left out: [p] and [p]."""
    known = ~y.isnan()
    y = y.nan_to_num()
    at = (y.sum(0) / known.sum(0).clamp(min=1)).expand(2, -1)
    for _ in range(CLUSTER_ROUNDS):
        upper = y > at.mean(0)
        groups = torch.stack([known & ~upper, known & upper])
        number = groups.sum(1)
        at = torch.where(number > 0, (groups * y).sum(1) / number.clamp(min=1), at)
    return at[0], at[1]
