"""Batch norm over the cells of a whole minibatch whose shards lie on several ranks.

torch's ``SyncBatchNorm`` does this on GPUs alone; this does it wherever tensors can be added up.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyroscvi.torch_internals import set_class

__all__ = ["across_ranks"]


class AcrossRanks(nn.BatchNorm1d):
    """``BatchNorm1d`` of h [rows, units], with the mean and variance of the rows of all ranks."""

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return super().forward(h)
        count = Added.apply(h.new_full((1,), len(h)))
        mean = Added.apply(h.sum(0)) / count
        variance = Added.apply((h - mean).square().sum(0)) / count
        with torch.no_grad():
            self._follow(mean, variance * count / (count - 1))
        return (h - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """The running moments, by exponential averaging."""
        running: Any = self
        running.num_batches_tracked += 1
        running.running_mean.lerp_(mean, running.momentum)
        running.running_var.lerp_(variance, running.momentum)


class Added(torch.autograd.Function):
    """The sum of a tensor over ranks; every rank's loss depends on it, and so their gradients are added up too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _added(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # type: ignore[override]
        return _added(slope)


def _added(x: Tensor) -> Tensor:
    x = x.clone()
    dist.all_reduce(x)
    return x


def across_ranks(module: nn.Module, wanted: bool) -> None:
    """Have every ``BatchNorm1d`` in the module look at all ranks, or at its own process again; its state is left."""
    before, after = (nn.BatchNorm1d, AcrossRanks) if wanted else (AcrossRanks, nn.BatchNorm1d)
    for norm in module.modules():
        if type(norm) is before:
            set_class(norm, after)
