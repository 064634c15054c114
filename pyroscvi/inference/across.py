"""Batch norm over the cells of a whole minibatch whose shards lie on several ranks.

torch's ``SyncBatchNorm`` does this on GPUs alone; this does it wherever tensors can be added up. Moments are sums over
ranks through ``torch.distributed.nn``, whose backward pass adds the gradients up likewise.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn, stack

__all__ = ["across_ranks"]


class AcrossRanks(nn.BatchNorm1d):
    """``BatchNorm1d`` of h [rows, units], with the mean and variance of the rows of all ranks."""

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return super().forward(h)
        from torch.distributed.nn.functional import all_reduce

        count = h.new_full((h.shape[-1],), len(h))
        dist.all_reduce(count)
        mean = all_reduce(h.sum(0)) / count
        variance = all_reduce((h - mean).square().sum(0)) / count
        self._follow(stack([mean, variance * count / (count - 1)]).detach())
        return (h - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _follow(self, moments: Tensor) -> None:
        """The running moments, by exponential averaging."""
        running: Any = self
        running.num_batches_tracked += 1
        running.running_mean.lerp_(moments[0], running.momentum)
        running.running_var.lerp_(moments[1], running.momentum)


def across_ranks(module: nn.Module, wanted: bool) -> None:
    """Have every ``BatchNorm1d`` in the module look at all ranks, or at its own process again; its state is left."""
    before, after = (nn.BatchNorm1d, AcrossRanks) if wanted else (AcrossRanks, nn.BatchNorm1d)
    for norm in module.modules():
        if type(norm) is before:
            norm.__class__ = after
