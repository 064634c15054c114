"""Evidence: log p(x_n) of a fitted model, integrated over the latents of the cell, by importance sampling.

    p(x_n) ~ 1/S sum_s  p(x_n, u_s) / q(u_s),      u_s ~ q(u | x_n)

Parameters are plugged in, discrete sites are summed exactly, and everything is in double precision unless single is
asked for. The logarithm of an average is too low in expectation: by half its squared Monte Carlo error, and by more
than anything in the sample tells where the proposal misses part of the posterior. An evidence that nothing else vouches
for is therefore "uncertified".

    log_evidence(fit, held_out)      one number a cell
    evidence_table(fit, held_out)    with its Monte Carlo error, effective sample size and k-hat

Whatever has a log-density can be integrated in the same way, a problem written by hand among it:

    draws = Elliptical(loc, scale_tril, df=5.0)
    estimate(log_weights(log_joint, draws, Streams(seed, rows), particles=1000)).log_evidence

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519
    Owen, A. B. (2013) Monte Carlo theory, methods and examples. Chapter 9.
"""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from math import log
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyroscvi.evidence.compiled import compiled
from pyroscvi.evidence.pareto import k_hat
from pyroscvi.evidence.proposals import Draws, GuideDraws, LogJoint, Proposal
from pyroscvi.evidence.reading import MEMORY, Read, as_cells, pair, reading
from pyroscvi.evidence.streams import Streams
from pyroscvi.inference.progress import counted
from pyroscvi.parts.priors import StandardNormal
from pyroscvi.pyro_internals import alone

__all__ = ["Estimate", "drawn", "estimate", "evidence_table", "log_evidence", "log_weights", "sampled"]


@alone
def log_evidence(
    fit: Any,
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    method: Any = None,
    proposal: Proposal | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
    memory: int | str = MEMORY,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool | str = True,
) -> np.ndarray:
    """log p(x_n) of every cell in nats [n], float64; what it is a probability of is ``fit.model.estimand``.

    fit         a Fit, or a pair (model, guide)
    cells       Cells that the fit has not seen, or an AnnData, which is read through ``fit.fields``
    particles   draws for every cell
    method      "auto": the page's closed form if it has one, and otherwise a ladder on which every cell climbs as far
                as it must (``Ladder``). Or by name "importance", "adaptive", "refined", "annealed"; or an ``Estimator``
    proposal    importance sampling alone, from here: ``StudentT()``, ``Refined()``, ``Adaptive()``, ``GuideDraws()``
    memory      what may be held at once beside the model and the data, in bytes or as "2GB"; or, by hand, so many cells
                at once (``batch_size``) and draws (``chunk``). None of them enters the result
    compile     score counts by the kernel in C++, which is compiled when it is first asked for: the same to rounding.
                Where that fails a warning says why, and everything goes on without it
    dtype       precision of the model: torch.float32 is twice as fast, and wrong by some 1e-4 nats. Latents, weights
                and their average are in float64 whatever it is
    progress    a bar, on a terminal or in a notebook; a text is what it says

    Raises ValueError where cells share a latent: they have one evidence together, and none each.
    """
    how: dict[str, Any] = {"method": method, "proposal": proposal, "batch_size": batch_size, "chunk": chunk}
    how |= {"memory": memory, "compile": compile, "dtype": dtype, "progress": progress}
    return evidence_table(fit, cells, particles, seed, **how)["log_evidence"].to_numpy()


def evidence_table(
    fit: Any,
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    method: Any = None,
    proposal: Proposal | None = None,
    certify: bool = False,
    batch_size: int | None = None,
    chunk: int | None = None,
    memory: int | str = MEMORY,
    compile: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool | str = True,
) -> pd.DataFrame:
    """The evidence of every cell, and what is known of its error; arguments as in ``log_evidence``.

    certify   simulate 64 cells from the fit and measure how far off an evidence is: ``pyroscvi.certify``

    log_evidence           log p(x_n), in nats
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior that would have been as good
    k_hat                  how heavy the tail of the weights is: above 0.7 the other columns mean little
    method                 "exact", or what this cell was estimated by: "importance", "adaptive", "refined", "annealed"
    certificate            "exact", "certified (gap 0.01)", "uncertified (gap 3.2)"; "uncertified" if nobody asked
    """
    from pyroscvi.evidence.certificate import certify as certified
    from pyroscvi.evidence.estimator import Target
    from pyroscvi.evidence.ladder import named, takes_closed_forms

    model, _ = pair(fit)
    cells = as_cells(fit, cells)
    estimator = named(method, proposal)
    where: dict[str, Any] = {"batch_size": batch_size, "memory": memory}
    pieces = []
    told = progress if isinstance(progress, str) else f"evidence of {type(model).__name__}"
    with compiled(fit, cells, dtype) if compile else nullcontext(), counted(told, len(cells), bool(progress)) as done:
        for read in reading(fit, cells, seed, GuideDraws(), particles=particles, dtype=dtype, **where):
            known = known_exactly(read) if takes_closed_forms(estimator) or not read.joint.size else None
            if known is None:
                found, method, _ = estimator(Target.of(read, chunk), particles)
            else:
                found, method = certain(known), "exact"
            piece = pd.DataFrame({name: value.cpu().numpy() for name, value in found._asdict().items()})
            pieces.append(piece.assign(method=method))
            done(len(piece))
        table = pd.concat(pieces, ignore_index=True)
        certificate = None
        if certify and not (table["method"] == "exact").all():
            certificate = certified(fit, cells, particles, seed, method=estimator, chunk=chunk, dtype=dtype, **where)
    words = "uncertified" if certificate is None else certificate.words
    table["certificate"] = table["method"].where(table["method"] == "exact", words)
    if cells.names is not None:
        table.index = pd.Index(cells.names, name="cell")
    estimand = getattr(model, "estimand", "p(x)")
    table.attrs = {"estimand": estimand, "note": note(estimand), "particles": particles, "seed": seed}
    if certificate is not None:
        table.attrs["certificate"] = asdict(certificate)
    return table


class Estimate(NamedTuple):
    """What importance weights say of the evidence of every cell, each [n]."""

    log_evidence: Tensor
    monte_carlo_se: Tensor
    effective_sample_size: Tensor
    k_hat: Tensor


def sampled(read: Read, particles: int, chunk: int | None = None) -> Estimate:
    """The evidence of a minibatch by importance sampling."""
    return estimate(log_weights(read.joint, read.draws, read.streams, particles, chunk or read.chunk))


@torch.no_grad()
def log_weights(
    log_joint: LogJoint, draws: Draws, streams: Streams, particles: int, chunk: int | None = None
) -> Tensor:
    """log p(x_n, u_s) - log q(u_s) for draws u_s of every cell [particles, n], ``chunk`` of them at a time."""
    log_w = torch.cat([log_joint(u) - draws.log_prob(u) for u in drawn(draws, streams, particles, chunk)])
    if log_w.isnan().any():
        row = streams.rows[int(log_w.isnan().any(0).nonzero()[0])]
        raise ValueError(f"log p(x, z) is not a number for cell {row}: its counts or the parameters are not finite")
    return log_w


def drawn(draws: Draws, streams: Streams, particles: int, chunk: int | None = None) -> Iterator[Tensor]:
    """The draws u [<= chunk, n, d] of every cell, piece by piece."""
    if particles < 1:
        raise ValueError(f"particles must be at least 1, not {particles}")
    step = chunk or particles
    for start in range(0, particles, step):
        yield draws.sample(streams, min(step, particles - start))


def estimate(log_w: Tensor) -> Estimate:
    """Evidence from log weights [s, n]: one average over all of them, in however many pieces they were drawn."""
    s = len(log_w)
    value = log_w.logsumexp(0) - log(s)
    square = (2 * (log_w - value)).exp().mean(0)  # of weights scaled to mean one
    error = ((square - 1).clamp(min=0) / (s - 1)).sqrt() if s > 1 else torch.full_like(value, torch.nan)
    return Estimate(value, error, s / square, k_hat(log_w))


@torch.no_grad()
def known_exactly(read: Read) -> Tensor | None:
    """log p(x_n) [n] where there is nothing to integrate, or where the page can; None elsewhere."""
    model: Any = read.joint.model
    if read.joint.size == 0:  # every latent is discrete, and summed out
        return read.joint(read.joint.origin())[0]
    # A page's closed form is for the page as it is written, under no handler, and for a Gaussian z.
    if hasattr(model, "log_evidence") and isinstance(model.prior, StandardNormal) and not am_i_wrapped():
        return copy.deepcopy(model).double().log_evidence(read.joint.cells.x.double())
    return None


def certain(log_p: Tensor) -> Estimate:
    """An evidence that is known: as good as any number of draws."""
    return Estimate(
        log_p, torch.zeros_like(log_p), torch.full_like(log_p, torch.inf), torch.full_like(log_p, -torch.inf)
    )


def note(estimand: str) -> str:
    """What to print beside an evidence."""
    if "| l" not in estimand:
        return f"log {estimand} in nats a cell"
    return (
        f"log {estimand} in nats a cell, conditional on the observed total: no density over x "
        "(size=LatentSize() gives one)"
    )
