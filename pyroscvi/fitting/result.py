"""``Fit``: a model, the guide fitted to it, and everything that is computed from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyroscvi.analysis.abundance import abundance
from pyroscvi.analysis.annotate import annotate
from pyroscvi.analysis.decode import decode
from pyroscvi.analysis.decontaminated import decontaminated
from pyroscvi.analysis.denoise import denoise
from pyroscvi.analysis.describe import describe
from pyroscvi.analysis.differential import differential
from pyroscvi.analysis.domains import domains
from pyroscvi.analysis.effect import effect
from pyroscvi.analysis.effect_curve import effect_curve
from pyroscvi.analysis.effect_scores import effect_scores
from pyroscvi.analysis.generate import generate
from pyroscvi.analysis.latent import latent
from pyroscvi.analysis.loadings import loadings
from pyroscvi.analysis.probabilities import probabilities
from pyroscvi.analysis.proportions import presence, proportions
from pyroscvi.analysis.proteins import proteins
from pyroscvi.analysis.smooth_field import smooth_field
from pyroscvi.calibration.predictive import predictive_check
from pyroscvi.calibration.simulation_based import calibrate
from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.fields import Fields
from pyroscvi.evidence.certificate import certify
from pyroscvi.evidence.data_evidence import data_evidence
from pyroscvi.evidence.table import log_evidence
from pyroscvi.inference.convergence import has_converged
from pyroscvi.part import hops_of
from pyroscvi.program import Guide, Model
from pyroscvi.report.inference_data import to_arviz

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(eq=False, repr=False)
class Fit:
    """A fitted model, which ``fit`` returns. Its methods take cells, or an AnnData, which they read with ``read``.

    model, guide  sized and in evaluation mode
    fields        the fields with which the cells were read; None if the cells were not read from an AnnData
    dims          sizes and moments of the cells that the model was fitted to
    history       one row per epoch: loss, held-out ELBO, KL weight, seconds ...
    record        how the fit was made: seed, epochs, the last KL weight, names of levels and genes, versions ...
    """

    model: Model
    guide: Guide
    fields: Fields | None
    dims: Dims
    history: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def hops(self) -> int:
        """How many edges away from its cells a minibatch has a halo of neighbours, which model and guide read."""
        return hops_of(self.model, self.guide)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, or their numbers if they have no names."""
        return self._named or tuple(map(str, range(self.dims.genes)))

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple((self.fields and self.fields.genes) or self.record.get("genes") or ())

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Names of the levels of every categorical field, or their numbers if they have no names."""
        names = (self.fields and self.fields.levels) or self.record.get("levels", {})
        return {name: tuple(names.get(name, map(str, range(n)))) for name, n in self.dims.levels.items()}

    @property
    def covariates(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation in training of every covariate; 0 and 1 if it was not standardised."""
        if self.fields is not None and len(self.fields.covariates) == self.dims.covariates:
            return {name: (self.fields.moments or {}).get(name, (0.0, 1.0)) for name in self.fields.covariates}
        return {f"covariate{i}": (0.0, 1.0) for i in range(self.dims.covariates)}

    @property
    def converged(self) -> bool | None:
        """Whether the bound no longer rose when training ended; None if that is not known: ``convergence``.

        The bound is that of the held-out cells. Without any, that of the training cells shows only fits that are far
        from their end, because it rises where a fit overfits, too. A fit that was interrupted has not converged.
        """
        if self.record.get("stopped_early"):
            return True
        return False if self.record.get("interrupted") else has_converged(self.record.get("mean_bounds", {}))

    def read(self, data: Cells | AnnData) -> Cells:
        """Cells as one data set on the device of the model, from cells or an AnnData."""
        if not isinstance(data, Cells):
            if self.fields is None:
                raise TypeError(f"this fit has no fields to read {type(data).__name__} with: give Cells")
            data = self.fields.read(data)
        if not len(data):
            raise ValueError("there are no cells")
        self.recognise(data)
        like = next(iter(self.model.parameters()))
        fields = data.fields or self.fields  # these have the names of covariates
        return replace(data, index=None, total=None, fields=fields).to(like.device, like.dtype)

    def recognise(self, cells: Cells) -> None:
        """Raise ValueError if a gene or a level of these cells has another place than in training."""
        genes, known, remedy = cells.counts.shape[1], self.dims.genes, "read them with fit.read(adata)"
        if genes != known:
            raise ValueError(f"the fit knows {known} genes, and these cells have {genes}: {remedy}")
        if cells.genes is not None and self._named and cells.genes != self.genes:
            theirs, ours = next(pair for pair in zip(cells.genes, self.genes, strict=True) if pair[0] != pair[1])
            raise ValueError(f"these cells have gene {theirs!r} where the fit has {ours!r}: {remedy}")
        for name, levels in cells.levels.items():
            mine = self.levels.get(name, levels)
            if levels != mine[: len(levels)]:
                both = f"these cells have the levels {', '.join(levels)} of {name!r}, the fit {', '.join(mine)}"
                raise ValueError(f"{both}: {remedy}")

    # What is computed from a fit: each of these functions takes the fit first, and so is a method of it

    latent = latent
    denoise = denoise
    decontaminated = decontaminated
    decode = decode
    generate = generate
    loadings = loadings
    describe = describe
    differential = differential
    abundance = abundance
    annotate = annotate
    effect = effect
    effect_curve = effect_curve
    effect_scores = effect_scores
    probabilities = probabilities
    proportions = proportions
    presence = presence
    proteins = proteins
    smooth_field = smooth_field
    domains = domains
    log_evidence = log_evidence
    data_evidence = data_evidence
    certify = certify
    calibrate = calibrate
    predictive_check = predictive_check
    to_arviz = to_arviz

    def adapted(self, cells: Cells | AnnData, **options: Any) -> Fit:
        """This fit with its guide trained further on these cells; the model does not change: ``fitting.adapted``."""
        from pyroscvi.fitting.adapted import adapted

        return adapted(self, cells, **options)

    def with_neighbours(self, guide: Guide, cells: Cells | AnnData, *, frozen: bool = False) -> tuple[Model, Guide]:
        """This model, and a guide that reads neighbours with this fit's encoder of cells: ``fitting.adapted``."""
        from pyroscvi.fitting.adapted import with_neighbours

        return with_neighbours(self, guide, cells, frozen=frozen)

    def minified(self, cells: Cells | AnnData) -> Fit:
        """This fit with the posterior moments of these cells in place of their counts: ``fitting.minified``."""
        from pyroscvi.fitting.minified import minified

        return minified(self, cells)

    @property
    def cells(self) -> Cells:
        """The cells of a minified fit, without counts."""
        if not hasattr(self.guide, "without_counts"):
            raise AttributeError("only a minified fit holds cells: fit.minified(cells).cells")
        return self.guide.cells(self)

    def extended(self, adata: AnnData, field: str = "batch", **options: Any) -> Fit:
        """This fit with weights of their own for levels that it has not seen: ``fitting.extended``."""
        from pyroscvi.fitting.extended import extended

        return extended(self, adata, field, **options)

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
        elbo = self.history["elbo_held_out"].iloc[best - 1]
        state = f", the state of epoch {best} kept" if best < len(self.history) else ""
        held_out = f", held-out ELBO {elbo:.2f} nats a cell" if pd.notna(elbo) else ""
        return f"{len(self.history)} epochs{state}{held_out}"
