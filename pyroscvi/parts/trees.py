"""Trees over genes: which gene depends on which."""

from typing import Any

import torch
from torch import Tensor

from pyroscvi.data.cells import Cells

MAX_SURVEYED = 10_000  # cells that a tree is made from, spread evenly over the data set
LOWEST = -4.0  # log mean of a low level at the start, relative to the mean of the gene: below, gradients vanish


def star(genes: int) -> Tensor:
    """The tree in which every gene depends on the first one [g]; the parent of the root is -1."""
    parent = torch.zeros(genes, dtype=torch.long)
    parent[0] = -1
    return parent


def high(cells: Cells) -> tuple[Tensor, Tensor]:
    """Counts of the cells [n, g], and whether each is above the median of its gene [n, g]."""
    rows = torch.linspace(0, len(cells) - 1, min(len(cells), MAX_SURVEYED)).long()
    x = cells.subset(rows).filled(cells.dims.average())
    return x, x > x.median(0).values


def chow_liu(high: Tensor) -> Tensor:
    """The tree of largest mutual information between genes that are high or not [n, g], as parents [g].

    Of all trees it is the one with the largest likelihood for these binary variables [Chow & Liu, 1968]. Its root is
    the gene with the largest information about all others.
    """
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    information = mutual_information(high).fill_diagonal_(0)
    weights = (information.max() + 1 - information).fill_diagonal_(0)  # above zero: csgraph takes a zero for no edge
    tree = minimum_spanning_tree(weights.cpu().numpy())
    root = int(information.sum(0).argmax())
    parent = torch.as_tensor(breadth_first_order(tree, root, directed=False)[1]).long()
    return torch.where(parent < 0, -1, parent).to(high.device)


def mutual_information(high: Tensor) -> Tensor:
    """The mutual information of every two binary variables, in nats [g, g]; half a cell is added to every count."""
    one = high.double()
    both, n = one.T @ one, len(one)
    first, second = one.sum(0).unsqueeze(1), one.sum(0).unsqueeze(0)
    table = torch.stack([both, first - both, second - both, n - first - second + both]) + 0.5  # 11, 10, 01, 00
    p = table / table.sum(0)
    row, column = p[0] + p[1], p[0] + p[2]
    independent = torch.stack([row * column, row * (1 - column), (1 - row) * column, (1 - row) * (1 - column)])
    return (p * (p / independent).log()).sum(0)


@torch.no_grad()
def start_tree(parent: Tensor, T: Tensor, head: Any, cells: Cells) -> None:
    """Set a tree of genes to that of Chow and Liu, and its parameters to those of genes that are high or not.

    parent  the parent of every gene [g]
    T       log p(level of a gene | level of its parent) [g, levels, levels]
    head    linear layer with a column for each level: log means, relative to the mean of the gene

    The upper half of the levels are those of a high gene, and share its probability equally.
    """
    x, is_high = high(cells)
    parent.copy_(chow_liu(is_high))
    levels = T.shape[-1]
    if levels == 1:
        return
    half = torch.arange(levels, device=T.device) * 2 // levels  # 0 for a low level, 1 for a high one
    one = torch.stack([~is_high, is_high]).double()  # [2, n, g]
    above = one[:, :, parent.clamp(min=0)]
    above[:, :, parent < 0] = 0.5  # a root has no parent: both rows are the same
    counts = torch.einsum("ing,jng->gij", above, one) + 0.5
    rows = (counts / counts.sum(-1, keepdim=True))[:, half][:, :, half]
    T.copy_((rows / rows.sum(-1, keepdim=True)).log())
    mean = x.double().mean(0) + (0.0 if cells.real else 1e-6)
    means = ((one * x).sum(1) + mean) / (one.sum(1) + 1)  # a cell with the mean count is added [2, g]
    apart = torch.linspace(-0.5, 0.5, levels, device=T.device)  # levels of one half start apart, too
    start = means - mean if cells.real else (means / mean).log().clamp(min=LOWEST)
    head.weight[:, :levels] = start[half].T + apart
