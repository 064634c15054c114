"""The parts that a page is assembled from, and the slots that they fit."""

from pyroscvi.parts.activations import ELU, GELU, Activation, Identity, LeakyReLU, ReLU, SiLU, Tanh
from pyroscvi.parts.car import CAR
from pyroscvi.parts.clusters import KMeans, Random, Start
from pyroscvi.parts.component_weights import DirichletWeights, LearnedWeights, StickBreaking
from pyroscvi.parts.conditions import (
    Condition,
    Continuous,
    Dose,
    Embedding,
    Interaction,
    Nothing,
    OneHot,
    Perturbation,
)
from pyroscvi.parts.coupling import Coupling
from pyroscvi.parts.decoders import MLP, Additive, Blend, Decoder, Linear, Profile
from pyroscvi.parts.dispersions import (
    Dispersion,
    GammaDispersion,
    PerBatch,
    PerCell,
    PerGene,
    PerLabel,
    RandomDispersion,
)
from pyroscvi.parts.encoders import Counts, Encoder, Features, Log1p, LogShare, ReadCell, ReadEmbedding
from pyroscvi.parts.field import Field, Kernel, Matern12, Matern32
from pyroscvi.parts.gene_sets import AllGenes, GeneSets
from pyroscvi.parts.likelihoods import NB, ZINB, ZIP, Likelihood, Log1pNormal, Normal, Poisson
from pyroscvi.parts.links import Exponential, Link, Softmax, Softplus
from pyroscvi.parts.loadings import (
    ARDLoadings,
    HorseshoeLoadings,
    LaplaceLoadings,
    Learned,
    Loadings,
    NormalLoadings,
    SpikeAndSlab,
)
from pyroscvi.parts.norms import BatchNorm, Chain, LayerNorm, NoNorm, Norm
from pyroscvi.parts.priors import (
    Dirichlet,
    FlowPrior,
    Laplace,
    LogisticNormal,
    Mixture,
    Prior,
    StandardNormal,
    VampPrior,
)
from pyroscvi.parts.sizes import LatentSize, ObservedSize, Size, SizeFactor, UnitSize
from pyroscvi.parts.sparse import Sparse
from pyroscvi.parts.weights import ARDWeights, FlatWeights, NormalWeights, Weights

__all__ = [
    "CAR", "ELU", "GELU", "MLP", "NB", "ZINB", "ZIP", "ARDLoadings", "ARDWeights", "Activation", "Additive", "AllGenes",
    "BatchNorm", "Blend", "Chain", "Condition", "Continuous", "Counts", "Coupling", "Decoder", "Dirichlet",
    "DirichletWeights", "Dispersion", "Dose", "Embedding", "Encoder", "Exponential", "Features", "Field", "FlatWeights",
    "FlowPrior", "GammaDispersion", "GeneSets", "HorseshoeLoadings", "Identity", "Interaction", "KMeans", "Kernel",
    "Laplace", "LaplaceLoadings", "LatentSize", "LayerNorm", "LeakyReLU", "Learned", "LearnedWeights", "Likelihood",
    "Linear", "Link", "Loadings", "Log1p", "Log1pNormal", "LogShare", "LogisticNormal", "Matern12", "Matern32",
    "Mixture", "NoNorm", "Norm", "Normal", "NormalLoadings", "NormalWeights", "Nothing", "ObservedSize", "OneHot",
    "PerBatch", "PerCell", "PerGene", "PerLabel", "Perturbation", "Poisson", "Prior", "Profile", "Random",
    "RandomDispersion", "ReLU", "ReadCell", "ReadEmbedding", "SiLU", "Size", "SizeFactor", "Softmax", "Softplus",
    "Sparse", "SpikeAndSlab", "StandardNormal", "Start", "StickBreaking", "Tanh", "UnitSize", "VampPrior", "Weights",
]  # fmt: skip
