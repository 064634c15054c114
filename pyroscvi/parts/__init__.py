"""The parts that a page is assembled from, and the slots that they fit."""

from pyroscvi.parts.activations import ELU, GELU, Activation, LeakyReLU, ReLU, SiLU, Tanh
from pyroscvi.parts.clusters import KMeans, Random, Start
from pyroscvi.parts.conditions import Condition, Continuous, Embedding, Nothing, OneHot
from pyroscvi.parts.decoders import MLP, Blend, Decoder, Linear
from pyroscvi.parts.dispersions import (
    Dispersion,
    GammaDispersion,
    PerBatch,
    PerCell,
    PerGene,
    PerLabel,
    RandomDispersion,
)
from pyroscvi.parts.encoders import Counts, Encoder, Features, Log1p, LogShare, ReadCell
from pyroscvi.parts.likelihoods import NB, ZINB, ZIP, Likelihood, Log1pNormal, Normal, Poisson
from pyroscvi.parts.links import Exponential, Link, Softmax, Softplus
from pyroscvi.parts.loadings import LaplaceLoadings, Learned, Loadings, NormalLoadings
from pyroscvi.parts.norms import BatchNorm, Chain, LayerNorm, NoNorm, Norm
from pyroscvi.parts.priors import Dirichlet, Laplace, LogisticNormal, Mixture, Prior, StandardNormal, VampPrior
from pyroscvi.parts.sizes import LatentSize, ObservedSize, Size, SizeFactor, UnitSize
from pyroscvi.parts.weights import FlatWeights, NormalWeights, Weights

__all__ = [
    "ELU", "GELU", "MLP", "NB", "ZINB", "ZIP", "Activation", "BatchNorm", "Blend", "Chain", "Condition",
    "Continuous", "Counts", "Decoder", "Dirichlet", "Dispersion", "Embedding", "Encoder", "Exponential", "Features",
    "FlatWeights", "GammaDispersion", "KMeans", "Laplace", "LaplaceLoadings", "LatentSize", "LayerNorm",
    "LeakyReLU", "Learned", "Likelihood", "Linear", "Link", "Loadings", "Log1p", "Log1pNormal", "LogShare",
    "LogisticNormal", "Mixture", "NoNorm", "Norm", "Normal", "NormalLoadings", "NormalWeights", "Nothing",
    "ObservedSize", "OneHot", "PerBatch", "PerCell", "PerGene", "PerLabel", "Poisson", "Prior", "Random",
    "RandomDispersion", "ReLU", "ReadCell", "SiLU", "Size", "SizeFactor", "Softmax", "Softplus", "StandardNormal",
    "Start", "Tanh", "UnitSize", "VampPrior", "Weights",
]  # fmt: skip
