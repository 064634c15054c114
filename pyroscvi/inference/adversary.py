"""An adversary: a network that predicts the batch of a cell from its latents, which the guide learns to prevent."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.part import Part
from pyroscvi.parts.layers import Layers
from pyroscvi.program import Guide, Model
from pyroscvi.ranges import PositiveFloat, Widths

__all__ = ["Adversary"]


class Adversary(Part):
    """Batch correction by a discriminator [Ganin et al., 2016, arXiv:1505.07818].

    A network predicts the level of ``field`` from the latents of a cell. It is trained to minimise its cross-entropy,
    and the guide to maximise ``weight`` times it, by reversing the gradient. Cells of unknown level are left out.

    Latents then contain little information about the batch. If batches have different types of cells, differences
    between these types are lost too.
    A page that is conditioned on the batch corrects without an adversary.
    """

    field: str = "batch"
    weight: PositiveFloat = 1.0
    site: str = "z"
    widths: Widths = 64

    def build(self, guide: Guide, dims: Dims) -> None:
        levels = dims.count(self.field)
        if levels < 2:
            raise ValueError(f"Adversary: the cells have one level of {self.field!r}, so there is nothing to predict")
        if self.site not in guide.sites:
            raise KeyError(f"Adversary: the guide has no site {self.site!r}; it has {', '.join(guide.sites) or 'none'}")
        self.hidden = Layers(self.widths).sized(guide.sites[self.site].size)
        self.out = nn.Linear(self.hidden.width, levels)

    def forward(self, model: Model, guide: Guide, cells: Cells) -> Tensor:
        """Cross-entropy of every cell [n], with a gradient that is reversed, and weighted, for the guide."""
        u = guide.posteriors(cells)[self.site].rsample()
        u = (1 + self.weight) * u.detach() - self.weight * u  # the value of u, and -weight times its gradient
        code = cells.categories[self.field]
        loss = cross_entropy(self.out(self.hidden(u, u[..., :0])), code.clamp(min=0), reduction="none")
        return torch.where(code >= 0, loss, 0.0)
