"""The posterior of some cells as a table, which a fit without counts has in place of an encoder."""

from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from scipy import sparse
from torch import nn

from pyroscvi.data.cells import Cells
from pyroscvi.program import Fitted, Guide, free_sites
from pyroscvi.ranges import PositiveInt


class Remembered(Guide):
    """The posterior of ``n`` cells: means and Cholesky factors of the covariances of their latents.

    It holds the sizes and conditions of these cells, too, and none of their counts.
    """

    without_counts: ClassVar[bool] = True

    n: PositiveInt = 1

    def build(self, model, cells):
        self.models = (model,)
        self.register_buffer("panels", torch.ones(0, cells.dims.genes, dtype=torch.bool), persistent=False)
        self.sites, self.heads = free_sites(model, cells), nn.ModuleDict()
        for name, site in self.sites.items():
            rows = (self.n, site.size) if site.local else (site.size,)
            self.register_buffer(f"mean_{name}", torch.zeros(rows))
            self.register_buffer(f"factor_{name}", torch.zeros(*rows, site.size))
        self.register_buffer("size", torch.ones(self.n))
        self.register_buffer("size_factor", torch.ones(self.n))
        self.register_buffer("covariates", torch.zeros(self.n, cells.dims.covariates))
        for field in cells.levels:
            self.register_buffer(f"code_{field}", torch.full((self.n,), -1))

    def posteriors(self, cells):
        rows = torch.arange(len(cells)) if cells.index is None else cells.index
        if len(rows) and int(rows.max()) >= self.n:
            raise ValueError(f"a minified fit knows {self.n:,} cells and no others: give its .cells")
        rows = rows.to(self.size.device)
        q: dict[str, Any] = {}
        for name, site in self.sites.items():
            mean, factor = getattr(self, f"mean_{name}"), getattr(self, f"factor_{name}")
            mean, factor = (mean[rows], factor[rows]) if site.local else (mean, factor)
            q[name] = dist.MultivariateNormal(mean, scale_tril=factor)
        return q

    def cells(self, fit: Fitted) -> Cells:
        """Names, sizes and conditions of the cells. All counts of a cell are in one gene: only their sum is known."""
        n, names = self.n, fit.record.get("cell_names")
        counts = sparse.csr_matrix(
            (self.size.cpu().numpy(), np.zeros(n, int), np.arange(n + 1)), shape=(n, fit.dims.genes)
        )
        return Cells(
            counts,
            {field: getattr(self, f"code_{field}") for field in fit.levels},
            self.covariates if self.covariates.shape[-1] else None,
            size_factor=self.size_factor,
            levels=fit.levels,
            names=None if names is None else np.array(names, dtype=object),
            genes=tuple(fit.genes),
            dtype=self.size.dtype,
        )
