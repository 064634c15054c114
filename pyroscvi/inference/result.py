"""``Fit``: a model, the guide fitted to it, and everything that a user does next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.program import Guide, Model

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData


__all__ = ["Fit"]


@dataclass(eq=False, repr=False)
class Fit:
    """What ``fit`` returns. Wherever cells are taken, an AnnData is read through the fields of the fit.

    model, guide  sized and in evaluation mode
    fields        the fields that the cells were read through; None where they were made by hand
    dims          sizes and moments of the cells that the fit saw
    history       one row an epoch: loss, held-out ELBO, KL weight, seconds ...
    record        how it was made: seed, epochs, the last KL weight, levels and genes by name, versions ...
    """

    model: Model
    guide: Guide
    fields: Any
    dims: Dims
    history: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)

    def read(self, data: Cells | AnnData) -> Cells:
        """Cells on the device of the model, from cells or an AnnData."""
        if not isinstance(data, Cells):
            if self.fields is None:
                raise TypeError(f"this fit does not know how to read {type(data).__name__}: hand over Cells")
            data = self.fields.read(data)
        genes = data.counts.shape[1]
        if genes != self.dims.genes:
            raise ValueError(
                f"the fit knows {self.dims.genes} genes, these cells have {genes}: read them with fit.fields"
            )
        like = next(iter(self.guide.parameters()))
        return data.to(like.device, like.dtype)

    def latent(
        self,
        cells: Cells | AnnData,
        samples: int | None = None,
        site: str = "z",
        *,
        seed: int = 0,
        batch_size: int = 1024,
    ) -> np.ndarray:
        """Posterior mean of every cell [n, d], or posterior draws [samples, n, d]."""
        from pyroscvi.analysis.latent import latent

        return latent(self, cells, samples, site, seed=seed, batch_size=batch_size)

    def save(self, path: str | Path) -> None:
        """Write the fit into one file: safetensors and JSON, nothing that could execute."""
        from pyroscvi.inference.checkpoints import save

        save(self, path)

    def __repr__(self) -> str:
        return f"Fit({self.model!r}, {self.guide!r}; {self._summary()})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self.model))}</code><br><code>{escape(repr(self.guide))}</code><br>{escape(self._summary())}"

    def _summary(self) -> str:
        if self.history.empty:
            return "not trained here"
        bound = self.history["elbo_held_out"].max()
        epochs = len(self.history)
        known = f", held-out ELBO {bound:.2f} nats a cell" if bound == bound else ""
        return f"{epochs} epoch{'s' * (epochs != 1)}{known}"
