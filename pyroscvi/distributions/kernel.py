"""One pass over the counts: log p(x | mu, theta, gate) of every cell, and its gradients on the way.

In each block of cells the softmax is taken, every gene's term and slope are found (``terms``), and the terms are summed.
Gradients are complete when the forward pass ends, as in a fused cross-entropy: nothing but they is kept, and when no
gradient is asked for nothing is, so that a thousand particles need no more memory than one block and their answer.
"""

from functools import reduce
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from pyroscvi.distributions.blocks import blocks
from pyroscvi.distributions.counts import NonZero
from pyroscvi.distributions.shares import Shares
from pyroscvi.distributions.terms import Means, Slopes, terms

__all__ = ["MU_MAX", "THETA_MAX", "THETA_MIN", "log_prob"]

# Beyond these the limit has been reached in either precision. They are powers of two, so that to divide by theta and to
# multiply by it again is exact, and theta = infinity is the Poisson, digit for digit.
THETA_MIN, THETA_MAX, MU_MAX = 2.0**-60, 2.0**80, 2.0**60


def log_prob(
    x: Tensor, log_mu: Tensor | Shares, log_theta: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    """log p(x) of whole count vectors [...]; x and the parameters broadcast to [..., g].

    log_mu     log mean, or the shares it is made of
    log_theta  log inverse dispersion; None is the Poisson
    gate       logits of the probability of an extra zero; None is no zero inflation
    """
    logits, log_size = log_mu if isinstance(log_mu, Shares) else (log_mu, None)
    given = [t for t in (logits, log_size, log_theta, gate) if t is not None]
    dtype = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    slopes = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    parameters = (None if t is None else t.to(dtype) for t in (logits, log_size, log_theta, gate))
    return CountLogProb.apply(x.detach().to(dtype), *parameters, slopes)


class CountLogProb(torch.autograd.Function):
    """x, logits, log_size, log_theta, gate, are slopes wanted -> log p(x) [...]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, logits: Tensor, log_size: Tensor | None, log_theta: Tensor | None, gate: Tensor | None,
        wanted: bool,
    ) -> Tensor:  # fmt: skip
        shape = torch.broadcast_shapes(*(t.shape for t in (x, logits, log_size, log_theta, gate) if t is not None))
        theta = None if log_theta is None else log_theta.exp().clamp_(THETA_MIN, THETA_MAX)
        x, logits_, theta, gate_ = (None if t is None else t.expand(shape) for t in (x, logits, theta, gate))
        log_size_ = None if log_size is None else log_size.expand(*shape[:-1], 1)

        log_p = logits.new_empty(shape[:-1])
        slopes, d_log_size = None, None
        if wanted:
            slopes = Slopes(*(None if t is None else logits.new_empty(shape) for t in (logits_, theta, gate_)))
            d_log_size = None if log_size is None else logits.new_empty(*shape[:-1], 1)

        found: dict[Any, NonZero] = {}  # particles share their counts, which are searched for once
        for block in blocks(shape, logits.device):

            def part(t: Tensor | None, block: tuple[slice, ...] = block) -> Any:
                return None if t is None else t[block]

            x_, key = x[block], (x[block].storage_offset(), x[block].shape)
            counts = found.get(key) or found.setdefault(key, NonZero.of(x_))
            here = Slopes(*map(part, slopes)) if slopes else None
            rho, means = _means(logits_[block], part(log_size_))
            log_p[block] = terms(counts, means, part(theta), part(gate_), here).sum(-1)
            if here and rho is not None:  # through the softmax: d/d logits = d/d log mu - rho sum(d/d log mu)
                total = torch.sum(here.log_mu, -1, keepdim=True, out=d_log_size[block])
                here.log_mu.addcmul_(rho, total, value=-1)

        ctx.shapes = [None if t is None else t.shape for t in (logits, log_size, log_theta, gate)]
        if slopes:
            ctx.save_for_backward(slopes.log_mu, d_log_size, slopes.log_theta, slopes.gate)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        every = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[1:], strict=False)
        return None, *(_weighted(weight, slope, shape) if need else None for slope, shape, need in every), None


def _means(logits: Tensor, log_size: Tensor | None) -> tuple[Tensor | None, Means]:
    """rho and mu = l rho of a block, where rho = softmax(logits); without a size, mu = exp(logits) and no rho."""
    if log_size is None:
        return None, Means(logits.exp().clamp_(max=MU_MAX), logits)
    rho = torch.softmax(logits, -1)
    log_sum_exp = logits.amax(-1, keepdim=True) - rho.amax(-1, keepdim=True).log_()  # the largest share says it
    return rho, Means(rho * log_size.exp().clamp_(max=MU_MAX), logits, log_size - log_sum_exp)


def _weighted(weight: Tensor, slope: Tensor, shape: Size) -> Tensor:
    """weight [...] times slope [..., g], summed over the axes that had been broadcast from ``shape``."""
    genes = slope.shape[-1]
    if shape.numel() == genes:  # one value for each gene
        return (weight.reshape(-1) @ slope.reshape(-1, genes)).reshape(shape)
    return (weight.unsqueeze(-1) * slope).sum_to_size(shape)
