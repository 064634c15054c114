"""``Fit``: a model, the guide fitted to it, and everything that a user does next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyroscvi.data.cells import Cells, Dims
from pyroscvi.program import Guide, Model

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from pyroscvi.analysis.describe import Description
    from pyroscvi.calibration import Calibration, Check
    from pyroscvi.evidence.data_evidence import DataEvidence


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

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, or their numbers where they came without names."""
        return self._named or tuple(map(str, range(self.dims.genes)))

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(getattr(self.fields, "genes", None) or self.record.get("genes") or ())

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Names of the levels of every categorical field, or their numbers where they came without names."""
        names = getattr(self.fields, "levels", None) or self.record.get("levels", {})
        return {name: tuple(names.get(name, map(str, range(n)))) for name, n in self.dims.levels.items()}

    def read(self, data: Cells | AnnData) -> Cells:
        """A data set of its own on the device of the model, from cells or an AnnData."""
        if not isinstance(data, Cells):
            if self.fields is None:
                raise TypeError(f"this fit does not know how to read {type(data).__name__}: hand over Cells")
            data = self.fields.read(data)
        if not len(data):
            raise ValueError("there are no cells to look at")
        self._recognise(data)
        like = next(iter(self.guide.parameters()))
        return replace(data, index=None, total=None).to(like.device, like.dtype)

    def _recognise(self, cells: Cells) -> None:
        """ValueError where a column or a code of these cells means something else than it did in training."""
        genes, known = cells.counts.shape[1], self.dims.genes
        if genes != known:
            raise ValueError(
                f"the fit knows {known} genes, and these cells have {genes}: read them with fit.read(adata)"
            )
        if cells.genes is not None and self._named and cells.genes != self.genes:
            here, there = next(pair for pair in zip(cells.genes, self.genes, strict=True) if pair[0] != pair[1])
            raise ValueError(
                f"these cells have gene {here!r} where the fit has {there!r}: read them with fit.read(adata)"
            )
        for name, levels in cells.levels.items():
            mine = self.levels.get(name, levels)
            if levels != mine[: len(levels)]:
                told = f"these cells have the levels {', '.join(levels)} of {name!r}, the fit {', '.join(mine)}"
                raise ValueError(f"{told}: read them with fit.read(adata)")

    def latent(self, cells: Cells | AnnData, samples: int | None = None, site: str = "z", **options: Any) -> np.ndarray:
        """Posterior mean of every cell [n, d], or posterior draws [samples, n, d]: ``analysis.latent``."""
        from pyroscvi.analysis.latent import latent

        return latent(self, cells, samples, site, **options)

    def denoise(self, cells: Cells | AnnData, **options: Any) -> np.ndarray:
        """Posterior mean of every gene's rate [n, g], under other conditions if named: ``analysis.denoise``."""
        from pyroscvi.analysis.denoise import denoise

        return denoise(self, cells, **options)

    def generate(self, cells: Cells | AnnData | None = None, **options: Any) -> np.ndarray:
        """Counts [n, g] of these cells once more, or of ``n`` new ones: ``analysis.generate``."""
        from pyroscvi.analysis.generate import generate

        return generate(self, cells, **options)

    def loadings(self) -> pd.DataFrame:
        """What a step along each latent dimension does to every gene, for linear decoders: ``analysis.loadings``."""
        from pyroscvi.analysis.loadings import loadings

        return loadings(self)

    def describe(self, cells: Cells | AnnData, **options: Any) -> Description:
        """Latents, divergences, likelihood and counts of these cells under names: ``analysis.describe``."""
        from pyroscvi.analysis.describe import describe

        return describe(self, cells, **options)

    def probabilities(self, cells: Cells | AnnData, site: str, **options: Any) -> Any:
        """Posterior probabilities of an enumerated site or of a condition: ``analysis.probabilities``."""
        from pyroscvi.analysis.probabilities import probabilities

        return probabilities(self, cells, site, **options)

    def log_evidence(self, cells: Cells | AnnData, **options: Any) -> np.ndarray:
        """log p(x_n) of every cell [n], in nats: ``evidence.table``."""
        from pyroscvi.evidence.table import log_evidence

        return log_evidence(self, cells, **options)

    def data_evidence(self, cells: Cells | AnnData, **options: Any) -> DataEvidence:
        """log p(x_1 .. x_N) of all cells together, latents that they share integrated: ``evidence.data_evidence``."""
        from pyroscvi.evidence.data_evidence import data_evidence

        return data_evidence(self, cells, **options)

    def certify(self, cells: Cells | AnnData, **options: Any) -> Any:
        """How far off ``log_evidence`` can be at the same options: ``evidence.certificate``."""
        from pyroscvi.evidence.certificate import certify

        return certify(self, cells, **options)

    def calibrate(self, cells: Cells | AnnData | None = None, **options: Any) -> Calibration:
        """Are its posteriors right? Ranks of the truth, on cells of its own making: ``calibration``."""
        from pyroscvi.calibration import calibrate

        return calibrate(self, cells, **options)

    def predictive_check(self, cells: Cells | AnnData, **options: Any) -> Check:
        """Does it make cells like these? Statistics of them and of their replicates: ``calibration``."""
        from pyroscvi.calibration import predictive_check

        return predictive_check(self, cells, **options)

    def to_arviz(self, cells: Cells | AnnData, **options: Any) -> Any:
        """Posterior, posterior predictive and data as ArviZ knows them: ``report.inference_data``."""
        from pyroscvi.report.inference_data import to_arviz

        return to_arviz(self, cells, **options)

    def save(self, path: str | Path) -> None:
        """Write the fit into one file: safetensors and JSON, nothing that could execute."""
        from pyroscvi.fitting.checkpoints import save

        save(self, path)

    def __repr__(self) -> str:
        return f"Fit({self.model!r}, {self.guide!r}; {self._story()})"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self.model))}<br>{escape(repr(self.guide))}</code><br>{escape(self._story())}"

    def _story(self) -> str:
        if self.history.empty:
            return "not trained here"
        best = self.record.get("best_epoch") or len(self.history)
        bound = self.history["elbo_held_out"].iloc[best - 1]
        told = f", of which {best} count" if best < len(self.history) else ""
        seen = f", held-out ELBO {bound:.2f} nats a cell" if pd.notna(bound) else ""
        return f"{len(self.history)} epochs{told}{seen}"
