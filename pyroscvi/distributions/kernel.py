"""log p(x | mu, theta, gate) of every cell, and its gradients, in one pass over the counts.

For each block of cells the kernel takes the softmax, computes the term and slope of every gene (``terms``), and sums
the terms. Gradients are complete after the forward pass, as in a fused cross-entropy, and are all that it stores.
Without gradients it stores only log p, so that a thousand particles need the memory of one block and of their result.
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


def log_prob(x: Tensor, given: Parameters) -> Tensor:
    """log p(x) of count vectors x [..., g]  [...]; x and the parameters broadcast."""
    present = [t for t in given if t is not None]
    dtype = reduce(torch.promote_types, (t.dtype for t in present), torch.float32)
    dtype = torch.promote_types(dtype, x.dtype)
    x, given = x.detach().to(dtype), given.map(lambda t: t.to(dtype))
    slopes_wanted = torch.is_grad_enabled() and any(t.requires_grad for t in present)
    return CountLogProb.apply(x, slopes_wanted, *given)


class CountLogProb(torch.autograd.Function):
    """From x, whether slopes are wanted, and each parameter, to log p(x) [...]."""

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
        x, given = x.expand(shape), given.with_shape(shape, Tensor.expand)
        slopes = given.with_shape(shape, Tensor.new_empty) if slopes_wanted else None
        log_p = x.new_empty(shape[:-1])

        nonzero: dict[Any, Counts] = {}  # particles share the counts of a block, so they are searched once
        for block in [...] if recording() else blocks(shape, x.device):
            part, d = given.map(itemgetter(block)), slopes and slopes.map(itemgetter(block))
            key = x[block].storage_offset(), x[block].shape
            if key not in nonzero:
                nonzero[key] = find(x[block])
            means = Means.of(part.mean, part.size)
            log_p[block] = terms(nonzero[key], means, part.dispersion, part.gate, d).sum(-1)
            if d and means.rho is not None:  # chain rule of the softmax: d/d logits = d/d log mu - rho sum(d/d log mu)
                total = torch.sum(d.mean, -1, keepdim=True, out=d.size)
                d.mean.addcmul_(means.rho, total, value=-1)

        ctx.save_for_backward(*(slopes or ()))
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        parameters = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(_weighted(weight, slope, shape) if need else None for slope, shape, need in parameters)


def _weighted(weight: Tensor, slope: Tensor, shape: Size) -> Tensor:
    """weight [...] times slope [..., g], summed over the axes along which a parameter of this shape broadcasts."""
    genes = slope.shape[-1]
    if shape[-1:] == (genes,) and shape.numel() == genes:  # one value for each gene
        return (weight.reshape(-1) @ slope.reshape(-1, genes)).reshape(shape)
    return (weight.unsqueeze(-1) * slope).sum_to_size(shape)
