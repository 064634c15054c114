"""Which cells a split holds out: a fraction of every group, or whole groups."""

import torch
from torch import Tensor


def stratified(group: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """A mask [n] with ``fraction`` of every group, rounded up or down; every cell has the same chance to be in it."""
    n = len(group)
    order = torch.randperm(n, generator=generator)
    order = order[group[order].argsort(stable=True)]
    # Systematic sampling: cells are sorted by group, at random within a group, and every (1 / fraction)-th is chosen,
    # from a random start on. The start is moved if all cells or none would be chosen.
    start = torch.rand((), dtype=torch.float64, generator=generator)
    if n * fraction < 1:
        start = 1 - (1 - start) * n * fraction
    elif n * (1 - fraction) < 1:
        start = start * n * (1 - fraction)
    passed = (torch.arange(n + 1, dtype=torch.float64) * fraction + start).floor()
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[order[passed.diff() > 0]] = True
    return chosen


def whole_groups(group: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """A mask [n] of whole groups, in random order as many as bring the number of cells nearest to ``fraction``.

    At least one group is chosen, and at least one is not: ValueError if there is only one.
    """
    groups, sizes = group.unique(return_counts=True)
    if len(groups) < 2:
        raise ValueError("all cells belong to one group, and it cannot be on one side of a split alone")
    order = torch.randperm(len(groups), generator=generator)
    off = (sizes[order].cumsum(0) - fraction * len(group)).abs()
    return torch.isin(group, groups[order[: int(off[:-1].argmin()) + 1]])
