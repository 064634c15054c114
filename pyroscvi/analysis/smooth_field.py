"""The smooth field of a tissue, which the prior ``Field`` has summed out."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.parts.field import Field
from pyroscvi.program import Fitted
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS_AT_ONCE = 2048


@alone
@torch.no_grad()
def smooth_field(fit: Fitted, cells: Cells | AnnData) -> "NDArray[np.float64]":
    """The mean of the smooth field at every cell [n, latent], given the states of all cells. Its clusters are domains.

    fit    a fit of a model with the prior ``Field``
    cells  all cells of their sections, with predecessors

    z = u + e, and e has the variance 1 - a. So E[u | z] = z - (1 - a) Q z, where Q is the inverse of the covariance of
    z, which is sparse under Vecchia's approximation. The states z are the means of the guide.
    """
    prior = getattr(fit.model, "prior", None)
    if not isinstance(prior, Field):
        raise ValueError(f"the field is that of the prior Field(), and this model has {prior!r}")
    cells = fit.read(cells)
    prior.begin(cells)
    z = np.asarray(fit.latent(cells), dtype=np.float64)  # type: ignore[attr-defined]
    own = 1 - prior.strengths.double().cpu().numpy()
    precise = [Q @ z[:, j] for j, Q in enumerate(precisions(prior, cells))]
    return z - own * np.stack(precise, 1)


@torch.no_grad()
def precisions(prior: Field, cells: Cells) -> list[sparse.csr_matrix]:
    """The inverse covariance of z over the cells, for every dimension of z [n, n].

    Vecchia's approximation says that z - W z = e with independent e of variance v, where row n of W has the weights of
    the predecessors of cell n. So the inverse covariance is (I - W)' diag(1 / v) (I - W).
    """
    pieces = [prior.conditional(cells.take(rows, 0)) for rows in torch.arange(len(cells)).split(CELLS_AT_ONCE)]
    predecessors = cells.predecessors.cpu().numpy()
    rows, places = (predecessors >= 0).nonzero()
    n, inverses = len(cells), []
    for j in range(len(prior.loc)):
        weights = _joined([w[j] for w, _ in pieces], predecessors.shape[1])[rows, places]
        variance = _joined([v[j] for _, v in pieces])
        residual = sparse.identity(n, format="csr") - sparse.csr_matrix(
            (weights, (rows, predecessors[rows, places])), shape=(n, n)
        )
        inverses.append(sparse.csr_matrix(residual.T @ sparse.diags_array(1 / variance) @ residual))
    return inverses


def _joined(pieces: list[Tensor], width: int | None = None) -> np.ndarray:
    """Pieces of a table as one array; rows of fewer than ``width`` numbers end in zeros."""
    more = [piece if width is None else torch.nn.functional.pad(piece, (0, width - piece.shape[1])) for piece in pieces]
    return torch.cat(more).double().cpu().numpy()
