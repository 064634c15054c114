"""One pass over the counts: log p(x | mu, theta, gate) of every cell, and its gradients on the way.

In each block of cells the softmax is taken, every gene's term and slope are found (``terms``), and the terms are
summed. Gradients are complete when the forward pass ends, as in a fused cross-entropy: nothing but they is kept. When
no gradient is asked for nothing is, so that a thousand particles need no more memory than one block and their answer.
"""

from functools import reduce
from operator import itemgetter
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from pyroscvi.distributions import native
from pyroscvi.distributions.blocks import blocks
from pyroscvi.distributions.counts import Counts, find
from pyroscvi.distributions.parameters import Parameters
from pyroscvi.distributions.terms import Means, terms
from pyroscvi.torch_internals import recording

__all__ = ["log_prob"]


def log_prob(x: Tensor, given: Parameters) -> Tensor:
    """log p(x) of whole count vectors [...]; x and the parameters broadcast to [..., g]."""
    present = [t for t in given if t is not None]
    dtype = reduce(torch.promote_types, (t.dtype for t in present), torch.float32)
    dtype = torch.promote_types(dtype, x.dtype)
    x, given = x.detach().to(dtype), given.each(lambda t: t.to(dtype))
    slopes_wanted = torch.is_grad_enabled() and any(t.requires_grad for t in present)
    return CountLogProb.apply(x, slopes_wanted, *given)


class CountLogProb(torch.autograd.Function):
    """x, whether slopes are wanted, and the parameters one by one -> log p(x) [...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes_wanted: bool, *parameters: Any) -> Tensor:
        given = Parameters(*parameters)
        ctx.shapes = [None if t is None else t.shape for t in given]
        shape = torch.broadcast_shapes(x.shape, *(s for s in ctx.shapes if s is not None))
        given = given.with_theta()
        if native.active(x):
            log_p, slopes = native.evaluate(x, given, slopes_wanted)
            ctx.save_for_backward(*(slopes or ()))
            return log_p
        x, given = x.expand(shape), given.spread(shape, Tensor.expand)
        slopes = given.spread(shape, Tensor.new_empty) if slopes_wanted else None
        log_p = x.new_empty(shape[:-1])

        found: dict[Any, Counts] = {}  # particles share their counts, which are searched for once
        for block in [...] if recording() else blocks(shape, x.device):
            here, d = given.each(itemgetter(block)), slopes and slopes.each(itemgetter(block))
            key = x[block].storage_offset(), x[block].shape
            if key not in found:
                found[key] = find(x[block])
            means = Means.of(here.mean, here.size)
            log_p[block] = terms(found[key], means, here.dispersion, here.gate, d).sum(-1)
            if d and means.rho is not None:  # through the softmax: d/d logits = d/d log mu - rho sum(d/d log mu)
                total = torch.sum(d.mean, -1, keepdim=True, out=d.size)
                d.mean.addcmul_(means.rho, total, value=-1)

        ctx.save_for_backward(*(slopes or ()))
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        every = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(_weighted(weight, slope, shape) if need else None for slope, shape, need in every)


def _weighted(weight: Tensor, slope: Tensor, shape: Size) -> Tensor:
    """weight [...] times slope [..., g], summed over the axes that had been broadcast from ``shape``."""
    genes = slope.shape[-1]
    if shape[-1:] == (genes,) and shape.numel() == genes:  # one value for each gene
        return (weight.reshape(-1) @ slope.reshape(-1, genes)).reshape(shape)
    return (weight.unsqueeze(-1) * slope).sum_to_size(shape)
