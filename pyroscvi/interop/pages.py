"""The guides of scvi-tools, and its SCANVI where it differs from our page, as parts of this library."""

from dataclasses import replace

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyroscvi import parts
from pyroscvi.distributions.mixed_gaussians import MixedGaussians
from pyroscvi.models import SCANVI
from pyroscvi.parts.layers import Layers
from pyroscvi.program import Guide


class ScviMeanField(Guide):
    """q(z | x) = Normal(m(h), v(h)) with variance v = exp(.) + 1e-4; a latent size has an encoder of its own."""

    encoder: parts.Encoder = parts.ReadCell(norm=parts.BatchNorm())
    size_encoder: parts.Encoder = parts.ReadCell(norm=parts.BatchNorm())

    def build(self, model, cells):
        super().build(model, cells)
        if "l" in self.sites:
            self.size_encoder = self.size_encoder.sized(cells.dims)

    def head(self, width, size):
        return nn.Linear(width, 2 * size)

    def posterior(self, parameters):
        m, log_v = parameters.chunk(2, -1)
        return dist.Normal(m, deviation(log_v)).to_event(1)

    def from_counts(self, cells):
        readers = {"z": self.encoder, "l": self.size_encoder}
        return {name: self.posterior(head(readers[name](cells))) for name, head in self.heads.items()}


class ScviTypes(ScviMeanField):
    """q(z | x) q(u | x), where u has a Gaussian for every type: sum_y q(y | m) q(u | m, y) at the mean m of q(z | x).

    scvi-tools has q(y | z) q(u | z, y) at draws of z. Latents of a cell are independent in the guides of this library.
    """

    classifier: Layers = Layers(norm=parts.BatchNorm())
    within: parts.MLP = parts.MLP(norm=parts.BatchNorm())

    def build(self, model, cells):
        super().build(model, cells)
        del self.heads["u"]
        self.types, latent = model.types, self.sites["z"].size
        self.classifier = self.classifier.sized(latent)
        self.scores = nn.Linear(self.classifier.width, self.types)
        state = replace(cells.dims, genes=latent, profile=None)
        self.within = self.within.sized(state, latent=latent, conditions=self.types, heads=("m", "v"))

    def of_types(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and deviations of u for every type [n, y, latent], and logits of the types [n, y]."""
        of_u = self.within(z.unsqueeze(-2), torch.eye(self.types).to(z))
        return of_u["m"], deviation(of_u["v"]), self.scores(self.classifier(z, z[..., :0]))

    def from_counts(self, cells):
        q = super().from_counts(cells)
        return q | {"u": MixedGaussians(*self.of_types(q["z"].mean))}


class ScviSCANVI(SCANVI):
    """The page SCANVI with exp(f_s / 2) as the deviation of z, at most exp(20)."""

    def deviation(self, raw):
        return (raw / 2).clamp(-20, 20).exp()


def deviation(log_v: Tensor) -> Tensor:
    """The square root of the variance exp(log_v) + 1e-4."""
    return (log_v.exp() + 1e-4).sqrt()
