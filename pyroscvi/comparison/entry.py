"""An entry of a comparison: the fits of one declaration with several seeds, and the cells that they have scored."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyroscvi.comparison.cache import cached
from pyroscvi.comparison.refits import Refitted, joined
from pyroscvi.comparison.result import FitSummary
from pyroscvi.comparison.usage import Usage, usage_of
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.reader import Reader, pair
from pyroscvi.evidence.table import Evidences, evidences
from pyroscvi.program import Fitted, Pair

RECORDED = ("seed", "epochs", "best_epoch", "cells", "stopped_early")


class Entry:
    """The fits of one declaration.

    name     of the declaration
    fits     one for each seed
    cells    held-out cells, as these fits read them
    folders  where evidences are cached, in the order of the seeds; empty to cache none
    options  of ``Reader``
    """

    def __init__(
        self,
        name: str,
        fits: Sequence[Fitted | Pair],
        cells: Cells,
        folders: Sequence[Path] = (),
        options: Mapping[str, Any] | None = None,
    ):
        for other in fits[1:]:
            if repr(pair(other)) != repr(pair(fits[0])):
                raise ValueError(f"the fits of {name!r} differ by their seed alone, and {pair(other)} is another model")
        self.name, self.fits, self.cells = name, fits, cells
        self.readers = [Reader(fit, cells, **(options or {})) for fit in fits]
        self.folders = [*folders, *[None] * len(fits)][: len(fits)]
        self.rows = np.empty(0, dtype=int)  # of the cells that are scored, in order; ``scores`` has their evidences
        self._rows: list[np.ndarray] = []
        self._pieces: list[list[Evidences]] = [[] for _ in fits]

    def called(self, place: int) -> str:
        """The name of the fit with the first seed, or with one of the others."""
        return f"{self.name}, refit {place}" if place else self.name

    def score(self, rows: np.ndarray, how: Mapping[str, Any], progress: bool) -> None:
        """Compute the evidences of these cells under the fits of all seeds, or read them where they are cached.

        how  the arguments of ``evidences``; a certificate is made with the first cells only
        """
        settings = {**how, "certify": how["certify"] and not len(self.rows)}
        cells = self._taken(self.cells, rows)
        for place, (fit, reader, folder) in enumerate(zip(self.fits, self.readers, self.folders, strict=True)):
            label = f"evidence of {self.called(place)}" if progress else False
            of_rows = reader.of(self._taken(reader.cells, rows))

            def compute(reader: Reader = of_rows, label: str | bool = label) -> Evidences:
                return evidences(reader, **settings, progress=label)

            dtype = {"dtype": reader.cells.dtype}
            self._pieces[place].append(cached(folder, fit, cells, {**settings, **dtype}, compute))
        self._rows.append(rows)
        every = np.concatenate(self._rows)
        order = every.argsort()
        self.rows, self.scored_cells = every[order], self._taken(self.cells, every[order])
        self.scores = Refitted([joined(of_seed, order) for of_seed in self._pieces])

    def _taken(self, cells: Cells, rows: np.ndarray) -> Cells:
        """These cells, with the neighbours that the guide reads; each keeps its random numbers."""
        return cells if len(rows) == len(cells) else cells.take(torch.as_tensor(rows), self.readers[0].hops)

    def usage(self, seed: int) -> Usage:
        """How much of the model is used on the scored cells: the mean over its fits."""
        readers = [reader.of(self._taken(reader.cells, self.rows)) for reader in self.readers]
        return Usage(*np.mean([usage_of(reader, seed) for reader in readers], axis=0).tolist())

    @cached_property
    def record(self) -> dict[str, Any]:
        """How the fits were made: columns of the table of ``compare``."""
        records = [getattr(fit, "record", {}) for fit in self.fits]
        converged = [getattr(fit, "converged", None) for fit in self.fits]
        return {
            "seeds": len(self.fits),
            "converged": None if None in converged and False not in converged else all(converged),
            "kl_weight": np.fmin.reduce([record.get("kl_weight") or np.nan for record in records]),
            "parameters": sum(p.numel() for p in self.readers[0].model.parameters()),
            "seconds": np.mean([record.get("seconds") or np.nan for record in records]),
        }

    @property
    def summary(self) -> FitSummary:
        """The declaration of the fits, and how each was made, as far as it was recorded."""
        model, guide = pair(self.fits[0])
        records = [getattr(fit, "record", {}) for fit in self.fits]
        seeds = [{name: record[name] for name in RECORDED if name in record} for record in records]
        return FitSummary(repr(model), repr(guide), getattr(model, "latent", None), seeds)
