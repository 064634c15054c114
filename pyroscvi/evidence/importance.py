"""Evidence: log p(x_n) of a fitted model, integrated over the latents of the cell, by importance sampling.

    p(x_n) ~ 1/S sum_s  p(x_n, u_s) / q(u_s),      u_s ~ q(u | x_n)

The parameters are plugged in; discrete sites are summed exactly; everything is in double precision. The logarithm of the
average is too low in expectation, by about half the squared Monte Carlo error, and by more than any number in the sample
tells where a proposal misses part of a posterior: without a certificate, an evidence is "uncertified".

    log_evidence(fit, held_out)             one number a cell
    evidence_table(fit, held_out)           with its Monte Carlo error, effective sample size and k-hat

Whatever has a log-density can be integrated in the same way, a problem written by hand among it:

    log_w = log_weights(log_joint, StudentT()(Elliptical(loc, scale_tril), log_joint), Streams(0, rows), 1000)
    estimate(log_w).log_evidence

References
    Burda, Y. et al. (2016) Importance weighted autoencoders. ICLR. arXiv:1509.00519
    Owen, A. B. (2013) Monte Carlo theory, methods and examples. Chapter 9.
"""

import copy
from collections.abc import Callable, Iterator
from math import log
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.pareto import k_hat
from pyroscvi.evidence.proposals import Draws, GuideDraws, LogJoint, Proposal, together
from pyroscvi.evidence.streams import Streams
from pyroscvi.parts.priors import StandardNormal

__all__ = ["Estimate", "Read", "estimate", "evidence_table", "log_evidence", "log_weights", "reading"]

CELLS = 128  # cells that are read at once, if their genes leave room
ROOM = 2**22  # numbers in one array of predictors [levels, s, n, g]: 32 MB


def log_evidence(
    fit: Any,
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    proposal: Proposal | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """log p(x_n) of every cell in nats [n], float64.

    fit         a Fit, or a pair (model, guide)
    cells       cells that the fit has not seen: Cells, or an AnnData to be read through ``fit.fields``
    particles   draws for each cell
    proposal    where to draw from; the page's closed form if it has one, and otherwise ``GuideDraws()``
    batch_size  cells at once, and ``chunk`` draws at once: they bound the memory, and the result does not depend on them

    Raises ValueError where cells share a latent, for then they have one evidence together and none each. What the
    numbers are probabilities of is ``fit.model.estimand``.
    """
    table = evidence_table(fit, cells, particles, seed, proposal=proposal, batch_size=batch_size, chunk=chunk)
    return table["log_evidence"].to_numpy()


def evidence_table(
    fit: Any,
    cells: Any,
    particles: int = 1000,
    seed: int = 0,
    *,
    proposal: Proposal | None = None,
    batch_size: int | None = None,
    chunk: int | None = None,
) -> pd.DataFrame:
    """The evidence of every cell and what is known of its error; arguments as in ``log_evidence``.

    log_evidence           log p(x_n), in nats
    monte_carlo_se         standard error over draws
    effective_sample_size  draws from the posterior that would have been as good
    k_hat                  weight of the tail: above 0.7 the three columns before mean little
    method                 "exact" or "importance"
    certificate            "exact" or "uncertified"
    """
    model, _ = pair(fit)
    rows: list[Estimate] = []
    methods: list[str] = []
    for read in reading(fit, cells, seed, proposal, batch_size):
        known = None if proposal is not None else closed_form(read)
        exact = known is not None or read.joint.size == 0
        if known is not None:
            found = certain(known)
        elif exact:
            found = certain(read.joint(read.draws.loc.unsqueeze(0))[0])
        else:
            found = estimate(log_weights(read.joint, read.draws, read.streams, particles, chunk or read.chunk))
        rows.append(found)
        methods += ["exact" if exact else "importance"] * len(read.joint.cells)
    columns = {
        name: torch.cat(parts).cpu().numpy()
        for name, parts in zip(Estimate._fields, zip(*rows, strict=True), strict=True)
    }
    names = as_cells(fit, cells).names
    table = pd.DataFrame(columns, index=None if names is None else pd.Index(names, name="cell"))
    table["method"] = methods
    table["certificate"] = ["exact" if method == "exact" else "uncertified" for method in methods]
    estimand = getattr(model, "estimand", "p(x)")
    table.attrs = {"estimand": estimand, "particles": particles, "seed": seed, "note": caveat(estimand)}
    return table


class Estimate(NamedTuple):
    """What importance weights say of the evidence of every cell, each [n]."""

    log_evidence: Tensor
    monte_carlo_se: Tensor
    effective_sample_size: Tensor
    k_hat: Tensor


@torch.no_grad()
def log_weights(
    log_joint: LogJoint, draws: Draws, streams: Streams, particles: int, chunk: int | None = None
) -> Tensor:
    """log p(x_n, u_s) - log q(u_s) for draws u_s of every cell [particles, n], ``chunk`` of them at a time."""
    if particles < 1:
        raise ValueError(f"particles must be at least 1, not {particles}")
    pieces = []
    for start in range(0, particles, chunk or particles):
        u = draws.sample(streams, min(chunk or particles, particles - start))
        pieces.append(log_joint(u) - draws.log_prob(u))
    log_w = torch.cat(pieces)
    if log_w.isnan().any():
        first = streams.rows[int(log_w.isnan().any(0).nonzero()[0])]
        raise ValueError(f"log p(x, z) is not a number for cell {first}: the parameters or the counts are not finite")
    return log_w


def estimate(log_w: Tensor) -> Estimate:
    """Evidence from log weights [s, n]. All weights are averaged together, however they were drawn."""
    s = len(log_w)
    value = log_w.logsumexp(0) - log(s)
    square = (2 * (log_w - value)).exp().mean(0)  # of weights whose mean is one
    error = ((square - 1).clamp(min=0) / (s - 1)).sqrt() if s > 1 else torch.full_like(value, torch.nan)
    return Estimate(value, error, s / square, k_hat(log_w))


def certain(log_p: Tensor) -> Estimate:
    """An evidence that is known: no error, and no draws."""
    return Estimate(
        log_p, torch.zeros_like(log_p), torch.full_like(log_p, torch.inf), torch.full_like(log_p, -torch.inf)
    )


class Read(NamedTuple):
    """A minibatch ready to be integrated: its joint density, where to draw, and the random numbers of its cells."""

    joint: Joint
    draws: Any
    streams: Streams
    chunk: int  # draws at once that fit into the room


def reading(
    fit: Any,
    cells: Any,
    seed: int = 0,
    proposal: Proposal | None = None,
    batch_size: int | None = None,
    within: Callable[[], Any] | None = None,
) -> Iterator[Read]:
    """Minibatches in order, in double precision, read by the guide."""
    cells = as_cells(fit, cells)
    if not len(cells):
        raise ValueError("there are no cells to take the evidence of")
    model, guide, cells = doubled(*pair(fit), cells)
    hops = getattr(getattr(guide, "encoder", None), "hops", 0)
    with torch.no_grad():
        states = Joint(model, guide.sites, cells.take(torch.arange(1), hops)).states()
    width = cells.counts.shape[1] * states
    size = batch_size or max(1, min(CELLS, ROOM // width))
    for minibatch in cells.minibatches(size, hops=hops):
        joint = Joint(model, guide.sites, minibatch)
        with torch.no_grad():
            q = together(guide.posteriors(minibatch), len(minibatch))
        streams = Streams(seed, minibatch.index)
        draws = (proposal or GuideDraws())(q, joint)
        yield Read(joint, draws, streams, max(1, ROOM // (width * len(minibatch))))


def closed_form(read: Read) -> Tensor | None:
    """log p(x_n) [n] by the page's own ``log_evidence``, which holds for a page as it is written and a Gaussian z."""
    model = read.joint.model
    if not hasattr(model, "log_evidence") or not isinstance(model.prior, StandardNormal) or am_i_wrapped():
        return None
    with torch.no_grad():
        return model.log_evidence(read.joint.cells.x)


def doubled(model: Any, guide: Any, cells: Cells) -> tuple[Any, Any, Cells]:
    """Copies in float64, with dropout off and batch norms frozen.

    The pair is copied at once: a prior may be made of the guide's own posteriors. An accelerator without float64 is left.
    """
    device = torch.device("cpu") if cells.device.type == "mps" else cells.device
    programs = copy.deepcopy((model, guide))
    for program in programs:
        if isinstance(program, nn.Module):
            program.to(device, torch.float64).eval()
    return *programs, cells.to(device, torch.float64)


def pair(fit: Any) -> tuple[Any, Any]:
    """Model and guide of a Fit, or the two as they were given."""
    model, guide = fit if isinstance(fit, tuple) else (fit.model, fit.guide)
    if not hasattr(guide, "sites"):
        raise ValueError("the guide has no parameters yet: size it on the model, guide.sized(model, cells)")
    return model, guide


def as_cells(fit: Any, cells: Any) -> Cells:
    """Cells as they are; anything else is read as the training data was."""
    if isinstance(cells, Cells):
        return cells
    fields = getattr(fit, "fields", None)
    if fields is None:
        raise TypeError(
            f"cells are Cells, not {type(cells).__name__}: this fit has no Fields to read anything else through"
        )
    return fields.read(cells)


def caveat(estimand: str) -> str:
    """What to print beside an evidence."""
    if "| l" not in estimand:
        return f"log {estimand} in nats a cell"
    return f"log {estimand} in nats a cell, conditional on the observed total: no density over x"
