"""Priors p(z): programs that sample z, and the latents that z depends on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from pyro.poutine import block
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyroscvi.data.cells import Cells
from pyroscvi.part import Part
from pyroscvi.parts.clusters import MIN_SPREAD, KMeans, Start
from pyroscvi.parts.component_weights import ComponentWeights, LearnedWeights
from pyroscvi.ranges import Fraction, PositiveFloat, PositiveInt
from pyroscvi.torch_internals import covariance_factors

__all__ = ["Dirichlet", "FlowPrior", "Laplace", "LogisticNormal", "Mixture", "Prior", "StandardNormal", "VampPrior"]


class Prior(Part):
    """A slot that samples z [..., latent] inside the plate over cells; ``loc`` is a vector of zeros [latent]."""

    proportions: ClassVar[bool] = False  # whether the state is a row of proportions

    def build(self, latent: int) -> None:
        self.register_buffer("loc", torch.zeros(latent))

    def forward(self) -> Tensor:
        raise NotImplementedError

    @contextmanager
    def among(self, cells: Cells) -> Iterator[None]:
        """Within this block, z belongs to these cells: a prior may depend on where they lie."""
        outside = vars(self).get("cells")  # a guide may run the model inside the model
        object.__setattr__(self, "cells", cells)
        try:
            yield
        finally:
            object.__setattr__(self, "cells", outside)

    def state(self, z: Tensor) -> Tensor:
        """What the decoder gets, for values z of the site [..., latent]."""
        return z


class StandardNormal(Prior):
    """z ~ Normal(0, I)."""

    def forward(self):
        return pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


class Laplace(Prior):
    """z ~ Laplace(0, b): only few dimensions of a cell are far from zero."""

    b: PositiveFloat = 1.0

    def forward(self):
        return pyro.sample("z", dist.Laplace(self.loc, self.b).to_event(1))


class LogisticNormal(Prior):
    """z ~ Normal(0, s). The site z is the Gaussian; the decoder gets softmax(z), proportions [Aitchison, 1982]."""

    proportions: ClassVar[bool] = True

    s: PositiveFloat = 1.0

    def forward(self):
        return self.state(pyro.sample("z", dist.Normal(self.loc, self.s).to_event(1)))

    def state(self, z):
        return z.softmax(-1)


class Dirichlet(Prior):
    """z ~ Dirichlet(a, .., a): proportions. With a < 1 most proportions of a cell are near 0."""

    proportions: ClassVar[bool] = True

    a: PositiveFloat = 0.5

    def forward(self):
        return pyro.sample("z", dist.Dirichlet(self.a + self.loc))


class Mixture(Prior):
    """A Gaussian mixture; the component is summed out exactly.

    k ~ Categorical(w)
    z ~ Normal(m[k], s[k])

    start   what happens in the first half of a fit, once the latent space separates cells: ``KMeans()`` sets m and s to
            those of k-means clusters of cells, ``Random()`` keeps them
    equal   the fraction of a fit during which all weights w stay equal, whatever their gradients are
    weights  w is a parameter (``LearnedWeights()``), or a latent (``StickBreaking()``, ``DirichletWeights()``)
    """

    components: PositiveInt = 8
    start: Start = KMeans()
    equal: Fraction = 0.0
    weights: ComponentWeights = LearnedWeights()

    def build(self, latent):
        self.weights = self.weights.sized(self.components)
        self.learns = isinstance(self.weights, LearnedWeights)
        if self.learns:
            self.w = nn.Parameter(torch.zeros(self.components))
        self.m = nn.Parameter(torch.randn(self.components, latent))
        self.raw_s = nn.Parameter(torch.zeros(self.components, latent))

    @property
    def s(self) -> Tensor:
        return softplus(self.raw_s) + MIN_SPREAD

    def settle(self, z):
        w = self.w if self.learns else torch.zeros(self.components)
        self.start(w, self.m, self.raw_s, z)

    def held(self, progress):
        return [self.w] if self.learns and progress < self.equal else []

    def forward(self):
        w = dist.Categorical(logits=self.w) if self.learns else dist.Categorical(probs=self.weights())
        k = pyro.sample("k", w, infer={"enumerate": "parallel"})
        return pyro.sample("z", dist.Normal(self.m[k], self.s[k]).to_event(1))


class FlowPrior(Prior):
    """z = T(e), e ~ Normal(0, I): a prior of any shape, from the standard normal that it is at the start.

    T is a masked autoregressive flow of ``steps`` steps [Papamakarios et al., 2017, arXiv:1705.07057], each with a
    network of one hidden layer. The density of a state takes one pass, a new state one pass for each dimension.
    """

    steps: PositiveInt = 3
    hidden: PositiveInt = 64

    def build(self, latent):
        super().build(latent)
        orders: list[Any] = [torch.arange(latent), torch.arange(latent).flip(0)]
        networks = [
            ConditionalAutoRegressiveNN(latent, 1, [max(self.hidden, latent)], permutation=orders[t % 2])
            for t in range(self.steps if latent > 1 else 0)  # of one number a step could only shift and scale it
        ]
        for network in networks:  # its last layer is zero: a step starts as the identity
            for parameter in network.layers[-1].parameters():
                nn.init.zeros_(parameter)
        self.to_noise = nn.ModuleList([ConditionalAffineAutoregressive(network) for network in networks])

    def forward(self):
        nothing = self.loc[:1]  # a step has a context, of which this prior makes no use; it keeps no values of a run
        steps: Any = self.to_noise
        from_noise = [step.condition(nothing).inv for step in reversed(steps)]
        noise = dist.Normal(self.loc, 1.0).to_event(1)
        return pyro.sample("z", dist.TransformedDistribution(noise, from_noise) if from_noise else noise)


class VampPrior(Prior):
    """A mixture of the guide's own posteriors at learned pseudo-cells u [Tomczak & Welling, 2018, arXiv:1705.07120].

    k ~ Categorical(w)
    z ~ q(z | u[k])

    Sizing a guide on the model connects this prior to the guide; before that, components are standard normal.
    """

    components: PositiveInt = 32

    def build(self, latent):
        self.w = nn.Parameter(torch.zeros(self.components))
        self.register_buffer("loc", torch.zeros(self.components, latent))
        object.__setattr__(self, "guide", None)  # not a submodule: its parameters belong to the guide

    def follow(self, guide, cells):  # pseudo-cells start as cells of the data, evenly spaced in their order
        object.__setattr__(self, "guide", guide)
        chosen = cells.subset(torch.linspace(0, len(cells) - 1, self.components).long())
        self.real = chosen.real
        self.raw_u = nn.Parameter(chosen.x.clone() if self.real else chosen.x.log1p())
        self.conditions, self.levels = list(chosen.categories), chosen.levels  # an encoder may read these
        for field, codes in chosen.categories.items():
            self.register_buffer(f"code_{field}", codes)
        self.register_buffer("covariates", chosen.covariates)

    @property
    def u(self) -> Tensor:
        """Pseudo-counts, or values if the cells have these [k, g]."""
        return self.raw_u if self.real else softplus(self.raw_u, beta=8.0).expm1()

    def forward(self):
        k = pyro.sample("k", dist.Categorical(logits=self.w), infer={"enumerate": "parallel"})
        if self.guide is None:
            return pyro.sample("z", dist.Normal(self.loc[k], 1.0).to_event(1))
        codes = {field: getattr(self, f"code_{field}") for field in self.conditions}
        pseudo = Cells(
            self.u, codes, self.covariates, levels=self.levels, real=self.real, dtype=self.u.dtype, device=self.u.device
        )
        with block(hide_types=["read"]):  # an intervention on cells does not change the conditions of pseudo-cells
            q = self.guide.posteriors(pseudo)["z"]
        return pyro.sample("z", _pick(q, k))


def _pick(q: Any, k: Tensor) -> dist.TorchDistribution:
    """The k-th distribution of a batch: indexes every parameter that has a batch dimension."""
    if isinstance(q, dist.Independent):
        return dist.Independent(_pick(q.base_dist, k), q.reinterpreted_batch_ndims)
    if isinstance(q, dist.Normal):
        return dist.Normal(q.loc[k], q.scale[k])
    if isinstance(q, dist.LowRankMultivariateNormal):
        W, D = covariance_factors(q)
        return dist.LowRankMultivariateNormal(q.loc[k], W[k], D[k])
    if isinstance(q, dist.MultivariateNormal):
        return dist.MultivariateNormal(q.loc[k], scale_tril=q.scale_tril[k])
    raise ValueError(
        "VampPrior needs a guide whose posteriors are Gaussian: MeanField(), LowRank() or FullCovariance()"
    )
