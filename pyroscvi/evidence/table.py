"""Evidence: log p(x_n) of a fitted model for every cell, its latents integrated out.

    log_evidence(fit, held_out)      one number a cell
    evidence_table(fit, held_out)    with its Monte Carlo error, effective sample size and k-hat

Parameters are plugged in, discrete sites are summed exactly, and the model runs in double precision unless single is
asked for. An estimate without a certificate is called "uncertified".
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.certificate import Certificate, certificate_of
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.exact import known_exactly
from pyroscvi.evidence.importance import Estimate
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.reader import MEMORY, Reader
from pyroscvi.inference.progress import counted
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Evidences", "evidence_table", "evidences", "log_evidence"]


class Evidences(NamedTuple):
    """The table of ``evidence_table``, and the certificate that was computed for it, if any."""

    table: pd.DataFrame
    certificate: Certificate | None = None


@alone
def log_evidence(
    fit: Fitted | Pair,
    cells: "Cells | AnnData",
    particles: int = 1000,
    seed: int = 0,
    *,
    estimator: Estimator = Ladder(),
    batch_size: int | None = None,
    chunk: int | None = None,
    memory: int | str = MEMORY,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool | str = True,
) -> NDArray[np.float64]:
    """log p(x_n) of every cell in nats [n], float64; ``evidence_table`` names the probability.

    fit         a Fit, or a pair (model, guide)
    cells       Cells that the fit has not seen, or an AnnData, which is read through ``fit.fields``
    particles   draws for every cell
    estimator   ``Ladder()``: the page's closed form if it has one, and otherwise for every cell the cheapest estimator
                that can be trusted. Or one estimator for all cells: ``Importance()``, ``Importance(Adaptive())``,
                ``Importance(Refined())``, ``Importance(GuideDraws())``, ``Annealed()``
    memory      bytes for intermediate results, as a number or as "2GB", beside the model and the data. Or set the
                number of cells (``batch_size``) and of draws (``chunk``) at once. None of them changes the result
    compile     score counts with the kernel in C++, which is compiled at its first use: the same to rounding. Where
                compiling fails, a warning says why and the usual kernel is used
    dtype       precision of the model: torch.float32 is twice as fast, and wrong by some 1e-4 nats. Latents, weights
                and their average are in float64 in either case
    progress    show a bar, on a terminal or in a notebook; a text is its label

    Raises ValueError where cells share a latent: they have one evidence together, and none each.
    """
    reader = Reader(fit, cells, memory=memory, batch_size=batch_size, chunk=chunk, dtype=dtype, compile=compile)
    table = evidences(reader, particles, seed, estimator=estimator, progress=progress).table
    return table["log_evidence"].to_numpy(copy=True)


@alone
def evidence_table(
    fit: Fitted | Pair,
    cells: "Cells | AnnData",
    particles: int = 1000,
    seed: int = 0,
    *,
    estimator: Estimator = Ladder(),
    certify: bool = False,
    batch_size: int | None = None,
    chunk: int | None = None,
    memory: int | str = MEMORY,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool | str = True,
) -> pd.DataFrame:
    """The evidence of every cell and its error, one row a cell; arguments as in ``log_evidence``.

    certify   simulate 64 cells from the fit and measure how far off an evidence is: ``pyroscvi.certify``

    log_evidence           log p(x_n), in nats
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior that would have been as good
    k_hat                  how heavy the tail of the weights is: above 0.7 the other columns mean little
    method                 "exact", or the estimator of this cell: "importance", "adaptive", "refined", "annealed"
    certificate            "exact", "certified (gap 0.01)", "uncertified (gap 3.2)"; "uncertified" without ``certify``
    estimand               what it is the logarithm of, such as "p(x)" or "p(x | l)": ``Model.estimand``
    """
    reader = Reader(fit, cells, memory=memory, batch_size=batch_size, chunk=chunk, dtype=dtype, compile=compile)
    return evidences(reader, particles, seed, estimator=estimator, certify=certify, progress=progress).table


def evidences(
    reader: Reader,
    particles: int,
    seed: int,
    *,
    estimator: Estimator,
    certify: bool = False,
    progress: bool | str = True,
) -> Evidences:
    """``evidence_table`` of the fit and the cells of this reader, and its certificate."""
    pieces, cells = [], reader.cells
    label = progress if isinstance(progress, str) else f"evidence of {type(reader.model).__name__}"
    with reader.kernel(), counted(label, len(cells), bool(progress)) as done:
        for target in reader.targets(seed, particles):
            known = known_exactly(target.joint, estimator)
            if known is None:
                estimate, method, _ = estimator(target, particles)
            else:
                estimate, method = Estimate.exact(known), "exact"
            piece = pd.DataFrame({name: value.cpu().numpy() for name, value in estimate._asdict().items()})
            pieces.append(piece.assign(method=method))
            done(len(piece))
        table = pd.concat(pieces, ignore_index=True)
        certificate = None
        if certify and not (table["method"] == "exact").all():
            certificate = certificate_of(reader, particles, seed, estimator=estimator)
    words = "uncertified" if certificate is None else certificate.words
    table["certificate"] = table["method"].where(table["method"] == "exact", words)
    table["estimand"] = reader.estimand
    if cells.names is not None:
        table.index = pd.Index(cells.names, name="cell")
    return Evidences(table, certificate)
