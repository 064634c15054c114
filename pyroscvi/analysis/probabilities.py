"""Probabilities: which component, which type, which condition a cell is of, by Bayes' rule.

    p(c | x_n) = p(c) p(x_n | c) / sum_c' p(c') p(x_n | c')

The state of the cell is integrated out of p(x_n | c), by importance sampling from the guide. To ask how well the cell
is reconstructed under each c would be to ask at the one state that the guide has picked.
"""

from typing import Any

import pandas as pd
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.importance import drawn, estimate, log_weights
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.evidence.reading import as_cells, reading
from pyroscvi.handlers import intervene
from pyroscvi.pyro_internals import alone

__all__ = ["probabilities"]


@alone
def probabilities(
    fit: Any,
    cells: Any,
    site: str,
    particles: int = 200,
    seed: int = 0,
    *,
    prior: Any = None,
    proposal: Proposal | None = None,
) -> pd.DataFrame:
    """p(c | x_n) of every level c [n, levels]; rows add up to one.

    fit        a Fit, or a pair (model, guide)
    site       an enumerated site of the model ("k", "y"), or a field that it reads ("batch", "perturbation"), whose
               recorded values are then not looked at
    particles  draws of the state of every cell
    prior      p(c) of a field [levels]; equal weights by default. A site has its own

    Raises KeyError where the model neither enumerates nor reads ``site``.
    """
    cells = as_cells(fit, cells)
    sites, fields = _known(fit, cells)
    if site in sites:
        if prior is not None:
            raise ValueError(
                f"{site!r} has its prior in the model: prior= is for a field that cells are conditioned on"
            )
        log_p = _of_site(fit, cells, site, particles, seed, proposal)
    elif site in fields:
        log_p = _of_field(fit, cells, site, particles, seed, proposal)
        if prior is not None:
            log_p = log_p + torch.as_tensor(prior, dtype=torch.float64).log()
    else:
        raise KeyError(
            f"the model neither enumerates nor reads {site!r}: sites {', '.join(sites) or 'none'}; "
            f"fields {', '.join(sorted(fields)) or 'none'}"
        )
    index = None if cells.names is None else pd.Index(cells.names, name="cell")
    return pd.DataFrame(log_p.softmax(-1).numpy(), index, _columns(cells, site, log_p.shape[-1]))


@torch.no_grad()
def _of_site(fit: Any, cells: Cells, site: str, particles: int, seed: int, proposal: Proposal | None) -> Tensor:
    """log p(x_n, k) up to a constant [n, levels]: every draw is weighed at every level."""
    rows = []
    for read in reading(fit, cells, seed, proposal):
        pieces = [
            (read.joint.by_level(u, site) - read.draws.log_prob(u)).logsumexp(1)
            for u in drawn(read.draws, read.streams, particles, read.chunk)
        ]
        rows.append(torch.stack(pieces).logsumexp(0).T)
    return torch.cat(rows).cpu()


def _of_field(fit: Any, cells: Cells, field: str, particles: int, seed: int, proposal: Proposal | None) -> Tensor:
    """log p(x_n | c) [n, levels]: an evidence for every level.

    A guide that reads the field is asked afresh at each level, so that no level is judged by the states of another; one
    that does not read it draws the same states for all.
    """
    columns = []
    for level in range(len(cells.levels[field])):
        with intervene(**{field: level}):
            found = [
                estimate(log_weights(read.joint, read.draws, read.streams, particles, read.chunk)).log_evidence
                for read in reading(fit, cells, seed, proposal)
            ]
        columns.append(torch.cat(found).cpu())
    return torch.stack(columns, -1)


@torch.no_grad()
def _known(fit: Any, cells: Cells) -> tuple[list[str], set[str]]:
    """The sites that the model enumerates, and the fields that it reads."""
    read = next(reading(fit, cells.subset(torch.arange(1))))
    with Asked() as asked:
        sites = read.joint.levels()
    return list(sites), asked.fields & set(cells.levels)


class Asked(Messenger):
    """Remembers which fields were read."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: set[str] = set()

    def _pyro_read(self, message: Any) -> None:
        self.fields.add(message["args"][1])


def _columns(cells: Cells, site: str, levels: int) -> list[str]:
    """The names of the levels: of a field as they were read, and those of the labels for the type y of a cell."""
    names = cells.levels.get("label" if site == "y" else site, ())
    return list(names) if len(names) == levels else list(map(str, range(levels)))
