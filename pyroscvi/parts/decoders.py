"""Decoders: from a state to the linear predictors eta, one for each head that the likelihood needs."""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as times

from pyroscvi.data.cells import Dims
from pyroscvi.part import Part
from pyroscvi.parts.activations import ELU, Activation, ReLU
from pyroscvi.parts.clusters import clustered_shares
from pyroscvi.parts.gene_sets import AllGenes, Factors
from pyroscvi.parts.layers import Layers, affine
from pyroscvi.parts.loadings import Learned, Loadings
from pyroscvi.parts.norms import LayerNorm, NoNorm, Norm
from pyroscvi.parts.weights import NormalWeights, Weights
from pyroscvi.ranges import Dropout, PositiveInt, Widths

__all__ = ["MLP", "Additive", "Blend", "Decoder", "Linear", "Profile"]

MIN_SHARE = 1e-10  # share of a gene in a profile: a count of it is improbable, and not impossible
CLOSED = -3.0  # logit of the gate at the start: a twentieth of the counts are structural zeros


class Decoder(Part):
    """A slot from a state z [..., latent] and a design row d [n, c] to predictors {head: eta [..., g]}."""

    of_proportions: ClassVar[bool] = False  # whether z must be a row of proportions

    def build(self, dims: Dims, *, latent: int, conditions: int, heads: tuple[str, ...]) -> None: ...

    def forward(self, z: Tensor, d: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class Linear(Decoder):
    """eta = W z + C d + b: one loading for every gene and latent dimension [Svensson et al., 2020].

    loadings   W is a parameter (``Learned()``), or a latent shared by all cells (``NormalLoadings(s=0.5)``)
    factors    the genes that each dimension has an effect on: all, or those of ``GeneSets({"name": [genes]})``
    """

    bias: bool = True
    norm: Norm = NoNorm()
    loadings: Loadings = Learned()
    factors: Factors = AllGenes()

    def build(self, dims, *, latent, conditions, heads):
        self.register_buffer("mask", self.factors.mask(dims, latent))
        self.loadings = self.loadings.sized(dims.genes, latent, heads)
        inputs = conditions + (latent if isinstance(self.loadings, Learned) else 0)
        with warnings.catch_warnings(action="ignore"):  # of torch, about a layer with no inputs, which is only a bias
            self.heads = nn.ModuleDict({head: nn.Linear(inputs, dims.genes, self.bias) for head in heads})
        self.norms = nn.ModuleDict({head: self.norm.sized(dims.genes) for head in heads})
        if self.bias:
            _start(self.heads, dims)

    def forward(self, z, d):
        return {head: self.norms[head](self._affine(head, layer, z, d)) for head, layer in self.heads.items()}

    def _affine(self, head: str, layer: Any, z: Tensor, d: Tensor) -> Tensor:
        W = self.loadings(head)
        if W is None and self.mask is None:
            return affine(layer, z, d)
        of_d = layer(d) if W is not None else times(d, layer.weight[:, z.shape[-1] :], layer.bias)
        W = layer.weight[:, : z.shape[-1]] if W is None else W
        W = W if self.mask is None else W * self.mask
        # Several samples of W have shape [..., 1, g, latent]: the 1 is the dimension of the plate over cells.
        return z @ (W if W.dim() == 2 else W.squeeze(-3)).mT + of_d


class Profile(Decoder):
    """eta = C d + b: cells under the same conditions have the same expected shares, and their state has no effect.

    A baseline for pages in which it does: ``SCVI(decoder=Profile())`` is the average of the cells, and
    ``Perturbed(decoder=Profile())`` adds the effects of perturbations to it.
    """

    def build(self, dims, *, latent, conditions, heads):
        self.heads = Linear().sized(dims, latent=0, conditions=conditions, heads=heads).heads

    def forward(self, z, d):
        shape = torch.broadcast_shapes(z.shape[:-1], d.shape[:-1])
        return {head: layer(d).expand(*shape, -1) for head, layer in self.heads.items()}


class Additive(Decoder):
    """eta = sum_j f_j(z_j) + C d + b: the effect of every latent dimension is a curve of its own, and effects add up.

    f_j(z_j) = V_j (h(a_j z_j + c_j) - h(c_j)) has ``units`` hidden units, and is 0 at z_j = 0. A dimension is then one
    process, as in ``Linear``, but its genes may respond late, or saturate [Moinfar & Theis, 2024,
    doi:10.1101/2024.11.06.622266].
    """

    units: PositiveInt = 16
    weights: Weights = NormalWeights()
    activation: Activation = ELU()

    def build(self, dims, *, latent, conditions, heads):
        self.a = nn.Parameter(torch.randn(latent, self.units))
        self.c = nn.Parameter(torch.randn(latent, self.units))
        inputs = latent * self.units + conditions
        self.heads = nn.ModuleDict({head: nn.Linear(inputs, dims.genes) for head in heads})
        _start(self.heads, dims)

    def forward(self, z, d):
        h = (self.activation(z.unsqueeze(-1) * self.a + self.c) - self.activation(self.c)).flatten(-2)
        return {head: affine(layer, h, d) for head, layer in self.heads.items()}

    def log_prior(self):
        return self.weights(layer.weight for layer in self.heads.values())


class Blend(Decoder):
    """eta = log(z B) + V d: a cell blends profiles B [latent, g], whose rows are shares of genes, in proportions z.

    Shares are added, where ``Linear`` adds their logarithms. Other heads than rho are linear. Profiles start at those
    of clusters of cells.
    """

    of_proportions: ClassVar[bool] = True

    def build(self, dims, *, latent, conditions, heads):
        start = torch.zeros(dims.genes) if dims.profile is None else dims.profile.log()
        self.raw_B = nn.Parameter(start + 0.5 * torch.randn(latent, dims.genes))
        self.V = nn.Linear(conditions, dims.genes, bias=False) if conditions else None
        self.others = Linear().sized(dims, latent=latent, conditions=conditions, heads=tuple(set(heads) - {"rho"}))

    @property
    def B(self) -> Tensor:
        """Profiles [latent, g]: each row adds up to one."""
        return self.raw_B.softmax(-1)

    def fix(self, shares: Tensor) -> None:
        """Set the profiles to these shares [latent, g], and keep them in a fit."""
        with torch.no_grad():
            self.raw_B.copy_((shares / shares.sum(-1, keepdim=True)).clamp(min=MIN_SHARE).log())
        self.raw_B.requires_grad_(False)

    def begin(self, cells):
        self.raw_B.copy_(clustered_shares(cells, len(self.raw_B)).log())

    def single(self):
        return [self.raw_B]

    def forward(self, z, d):
        rho = (z @ self.B).log()
        return {"rho": rho if self.V is None else rho + self.V(d), **self.others(z, d)}


class MLP(Decoder):
    """eta = W h(z, d) + b, with hidden layers h.

    everywhere   d enters every hidden layer, not only the first
    weights      the prior of the weights of all layers
    """

    widths: Widths = 128
    norm: Norm = LayerNorm()
    dropout: Dropout = 0.0
    everywhere: bool = False
    weights: Weights = NormalWeights()
    activation: Activation = ReLU()

    def build(self, dims, *, latent, conditions, heads):
        hidden = Layers(self.widths, self.norm, self.dropout, self.everywhere, self.activation)
        self.layers = hidden.sized(latent, conditions)
        self.heads = nn.ModuleDict({head: nn.Linear(self.layers.width, dims.genes) for head in heads})
        _start(self.heads, dims)

    def forward(self, z, d):
        h = self.layers(z, d)
        return {head: layer(h) for head, layer in self.heads.items()}

    @torch.no_grad()
    def start_equal(self, latent: int) -> None:
        """Set the weights of d in the first layer to 0: the decoder starts equal under all conditions."""
        first: Any = self.layers.linear[0]
        first.weight[:, latent:] = 0

    def log_prior(self):
        return self.weights(layer.weight for layer in [*self.layers.linear, *self.heads.values()])


def _start(heads: Any, dims: Dims) -> None:
    """Start at the average profile and with an almost closed gate: a network would need many steps to get there."""
    with torch.no_grad():
        if dims.profile is not None and "rho" in heads:
            heads["rho"].bias.copy_(dims.profile.log())
        if "gate" in heads:
            heads["gate"].bias.fill_(CLOSED)
