"""Evidence: log p(x_n) of a fitted model for every cell, its latents integrated out.

    log_evidence(fit, held_out)              one number a cell
    evidences(Reader(fit, held_out)).table   with its Monte Carlo error, effective sample size and k-hat

Parameters and latents that cells share are plugged in, discrete sites are summed exactly, and the model runs in double
precision unless single is asked for. An estimate without a certificate is called "uncertified".
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.certificate import Certificate, certificate_of
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.importance import Estimate
from pyroscvi.evidence.ladder import MAX_DRAWS, Ladder
from pyroscvi.evidence.reader import MEMORY, Compile, Reader
from pyroscvi.inference.progress import counted
from pyroscvi.parts.sizes import SizeFactor
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone

TYPICAL = 2000  # draws of a cell until its error is within the tolerance
ROUNDING = 1e-5  # relative: size factors may have been stored in single precision


class Evidences(NamedTuple):
    """The table of ``evidences``, and the certificate that was computed for it, if any."""

    table: pd.DataFrame
    certificate: Certificate | None = None


@alone
def log_evidence(
    fit: Fitted | Pair, cells: Cells | AnnData, particles: int = MAX_DRAWS, seed: int = 0, *,
    estimator: Estimator = Ladder(), batch_size: int | None = None, chunk: int | None = None,
    memory: int | str = MEMORY, compile: Compile = "auto", dtype: torch.dtype | None = None,
    progress: bool | str = True,
) -> NDArray[np.float64]:  # fmt: skip
    """log p(x_n) of every cell in nats [n], float64; ``evidences`` names the probability.

    fit         a Fit, or a pair (model, guide)
    cells       Cells that the fit has not seen, or an AnnData, which is read through ``fit.fields``
    particles   draws of a cell at most; ``Importance`` makes exactly so many
    estimator   ``Ladder()``: the page's closed form if it has one, and otherwise for every cell the cheapest estimator
                that can be trusted, with as many draws as a standard error of 0.05 nats takes
                (``Ladder(tolerance=0.05)``). Or one estimator for all cells: ``Importance()``,
                ``Importance(Adaptive())``, ``Importance(Refined())``, ``Importance(GuideDraws())``, ``Annealed()``
    memory      bytes for intermediate results, as a number or as "2GB", beside the model and the data. Or set the
                number of cells (``batch_size``) and of draws (``chunk``) at once. None of them changes the result
    compile     score counts with the kernel in C++: the same to rounding. "auto": if it has been compiled before, or if
                there is so much to score that compiling it (ten seconds, once) pays. True: in any case. Where compiling
                fails the usual kernel is used; True also warns
    dtype       precision of the model. None: torch.float32, which is twice as fast, if the fit has it and the
                log-densities of the largest cells are wrong by less than 1e-3 nats; otherwise torch.float64. Latents,
                weights and their average are in float64 in either case
    progress    show a bar, on a terminal or in a notebook; a text is its label

    Latents that cells share, such as effects of donors, are held at the centre of their posterior, as parameters are
    plugged in. ``data_evidence`` integrates over them.
    """
    reader = Reader(fit, cells, memory=memory, batch_size=batch_size, chunk=chunk, dtype=dtype, compile=compile)
    table = evidences(reader, particles, seed, estimator=estimator, progress=progress).table
    return table["log_evidence"].to_numpy(copy=True)


@alone
def evidences(
    reader: Reader, particles: int = MAX_DRAWS, seed: int = 0, *, estimator: Estimator = Ladder(),
    certify: bool = False, simulated: int = 64, progress: bool | str = True,
) -> Evidences:  # fmt: skip
    """The evidence of every cell of a reader and its error; other arguments as in ``log_evidence``.

    certify   simulate cells from the fit, so many as ``simulated``, and measure how far off an evidence is:
              ``pyroscvi.certify``

    The table has one row a cell and these columns:

    log_evidence           log p(x_n), in nats
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior that would have been as good
    k_hat                  how heavy the tail of the weights is: above 0.7 the other columns mean little
    method                 "exact", or the estimator of this cell: "importance", "adaptive", "refined", "annealed"
    certificate            "exact", "certified (gap 0.01)", "uncertified (gap 3.2)"; "uncertified" without ``certify``
    estimand               what it is the logarithm of, such as "p(x)" or "p(x | l)": ``Model.estimand``
    """
    pieces, cells = [], reader.cells
    label = progress if isinstance(progress, str) else f"evidence of {type(reader.model).__name__}"
    with reader.kernel(min(particles, TYPICAL)), counted(label, len(cells), bool(progress)) as done:
        for target in reader.targets(seed, particles):
            known = estimator.exact(target.joint)
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
            certificate = certificate_of(reader, particles, seed, estimator=estimator, simulated=simulated)
    words = "uncertified" if certificate is None else certificate.words
    table["certificate"] = table["method"].where(table["method"] == "exact", words)
    table["estimand"] = estimand(reader.model, cells)
    if cells.names is not None:
        table.index = pd.Index(cells.names, name="cell")
    return Evidences(table, certificate)


def estimand(model: Any, cells: Cells) -> str:
    """What an evidence of these cells is a probability of: "p(x)", "p(x | l)", "p(x, label | l)", ...

    Labels are part of it if the label of at least one cell is known, and proteins if one of them was measured in at
    least one cell: what is unknown has probability one. Of values that are not counts it is a density: "p(values)".
    It is conditional on l also if the model reads a size factor that is the total of the cell's own counts, or
    proportional to it. A size factor that was computed from the counts in another way is not noticed.
    """
    name = str(getattr(model, "estimand", "p(x)"))
    if "label" in name and bool((cells.label_weights(len(cells.levels.get("label", (0,)))) == 1).all()):
        name = name.replace("x, label", "x")
    if "proteins" in name and bool(cells.protein_counts(1).isnan().all()):
        name = name.replace("x, proteins", "x")
    if cells.real:
        name = name.replace("x", "values", 1)
    sized = not cells.real and any(isinstance(part, SizeFactor) for part in getattr(model, "modules", list)())
    if not sized or "| l" in name or not _is_own_total(cells):
        return name
    return name.replace(" | ", " | l, ") if " | " in name else f"{name[:-1]} | l)"


def _is_own_total(cells: Cells) -> bool:
    if cells.size_factor is None:
        return False
    counted = cells.library.squeeze(-1) > 0
    factor, total = cells.size_factor[counted].double(), cells.library.squeeze(-1)[counted].double()
    if not len(total):
        return False
    ratio = factor / total
    proportional = bool(total.max() > total.min() and ratio.max() <= (1 + ROUNDING) * ratio.min())
    return proportional or torch.allclose(factor, total, rtol=ROUNDING)
