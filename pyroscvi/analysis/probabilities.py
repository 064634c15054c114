"""Probabilities of the component, the type or the condition of a cell, by Bayes' rule.

    p(c | x_n) = p(c) p(x_n | c) / sum_c' p(c') p(x_n | c')

The state of the cell is integrated out of p(x_n | c), by importance sampling from the guide. A comparison of the
reconstructions of the cell under each c would be no substitute: it uses one state only, the one that the guide gives.
"""

from math import log

import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import ArrayLike
from torch import Tensor

from pyroscvi.analysis.posterior import Intervention
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.importance import drawn
from pyroscvi.evidence.proposals import Proposal, StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.handlers import intervene
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone


@alone
def probabilities(
    fit: Fitted | Pair, cells: Cells | AnnData, site: str, particles: int = 200, seed: int = 0, *,
    prior: ArrayLike | None = None, proposal: Proposal = StudentT(),
) -> pd.DataFrame:  # fmt: skip
    """p(c | x_n) of every level c [n, levels]; rows add up to one.

    fit        a Fit, or a pair (model, guide)
    site       an enumerated site of the model ("k", "y"), or a field that it reads ("batch", "perturbation"); the
               recorded values of the field are then not used
    particles  draws of the state of every cell
    prior      p(c) of a field [levels]; equal weights by default. A site has its own
    proposal   draws the states

    Raises KeyError where the model neither enumerates nor reads ``site``.
    """
    return as_table(reader := Reader(fit, cells), site, log_joint(reader, site, particles, seed, prior, proposal))


def log_joint(
    reader: Reader, site: str, particles: int, seed: int, prior: ArrayLike | None, proposal: Proposal
) -> Tensor:
    """log p(x_n, c) of every level c [n, levels], up to a constant if the weights of the prior do not add up to one."""
    sites, fields = sites_and_fields(reader)
    if site in sites:
        if prior is not None:
            raise ValueError(
                f"{site!r} has its prior in the model: prior= is for a field that cells are conditioned on"
            )
        return _of_site(reader, site, particles, seed, Importance(proposal))
    if site in fields:
        log_p = _of_field(reader, site, particles, seed, Importance(proposal))
        weights = torch.full((log_p.shape[-1],), 1 / log_p.shape[-1]) if prior is None else torch.as_tensor(prior)
        return log_p + weights.double().log()
    raise KeyError(
        f"the model neither enumerates nor reads {site!r}: sites {', '.join(sites) or 'none'}; "
        f"fields {', '.join(sorted(fields)) or 'none'}"
    )


def as_table(reader: Reader, site: str, log_p: Tensor) -> pd.DataFrame:
    return as_frame(log_p, reader.cells, site)


def as_frame(log_p: Tensor, cells: Cells, site: str) -> pd.DataFrame:
    """Probabilities of the levels of a site [n, levels], with the names of cells and levels."""
    index = None if cells.names is None else pd.Index(cells.names, name="cell")
    return pd.DataFrame(log_p.softmax(-1).cpu().numpy(), index, _columns(cells, site, log_p.shape[-1]))


@torch.no_grad()
def _of_site(reader: Reader, site: str, particles: int, seed: int, estimator: Importance) -> Tensor:
    """log p(x_n, k) [n, levels]: every draw is weighted at every level."""
    rows = []
    for target in reader.targets(seed):
        draws = estimator.draws(target)
        pieces = [
            (target.joint.by_level(u, site) - draws.log_prob(u)).logsumexp(1)
            for u in drawn(draws, target.streams, particles, target.chunk)
        ]
        rows.append(torch.stack(pieces).logsumexp(0).T - log(particles))
    return torch.cat(rows).cpu()


def _of_field(reader: Reader, field: str, particles: int, seed: int, estimator: Importance) -> Tensor:
    """log p(x_n | c) [n, levels]: an evidence for every level.

    A guide that reads the field is run at each level separately, so that each level has its own states. A guide that
    does not read the field draws the same states for all levels.
    """
    columns = []
    for level in range(len(reader.cells.levels[field])):
        with intervene(**{field: level}):
            rows = [estimator(target, particles).estimate.log_evidence for target in reader.targets(seed)]
        columns.append(torch.cat(rows).cpu())
    return torch.stack(columns, -1)


@torch.no_grad()
def sites_and_fields(reader: Reader) -> tuple[list[str], set[str]]:
    """The sites that the model enumerates, and the fields that it reads."""
    with Intervention(reader.first.cells, {}) as recorder:
        sites = reader.first.levels()
    return list(sites), recorder.fields & set(reader.cells.levels)


def _columns(cells: Cells, site: str, levels: int) -> list[str]:
    """The names of the levels of a field; for the type y of a cell, the names of the labels."""
    names = cells.levels.get("label" if site == "y" else site, ())
    return list(names) if len(names) == levels else list(map(str, range(levels)))
