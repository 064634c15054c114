"""Batch norm over the cells of a whole minibatch whose shards lie on several ranks.

torch's ``SyncBatchNorm`` needs GPUs. This version needs only a sum over ranks, so it also works on CPUs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyroscvi.torch_internals import set_class


class AcrossRanks(nn.BatchNorm1d):
    """``BatchNorm1d`` of h [rows, units], with the mean and variance over the rows of all ranks."""

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return super().forward(h)
        count = SumOverRanks.apply(h.new_full((1,), len(h)))
        mean = SumOverRanks.apply(h.sum(0)) / count
        variance = SumOverRanks.apply((h - mean).square().sum(0)) / count
        running: Any = self
        with torch.no_grad():  # update the running mean and variance by exponential averaging
            running.num_batches_tracked += 1
            running.running_mean.lerp_(mean, running.momentum)
            running.running_var.lerp_(variance * count / (count - 1), running.momentum)
        return (h - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks. Every rank's loss depends on it, so its gradient is summed over ranks too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return SumOverRanks.apply(gradient)


def across_ranks(module: nn.Module, wanted: bool) -> None:
    """Switch every ``BatchNorm1d`` of the module to the rows of all ranks, or back; parameters and moments are kept."""
    before, after = (nn.BatchNorm1d, AcrossRanks) if wanted else (AcrossRanks, nn.BatchNorm1d)
    for norm in module.modules():
        if type(norm) is before:
            set_class(norm, after)
