"""One pass over the counts: log p(x | mu, theta, gate) of every cell, and its gradients on the way.

The work is cut into blocks of cells that stay in a processor's cache. In each block the softmax is taken, every gene's
term and slope are found (``terms``), and the terms are summed. Gradients are complete when the forward pass ends, as in
a fused cross-entropy: nothing but they is kept, and when no gradient is asked for, nothing is.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from pyroscvi.distributions.shares import Shares
from pyroscvi.distributions.terms import Means, Where, terms

__all__ = ["log_prob"]

# Counts in a block: a megabyte of float32 on a processor; on an accelerator, where each call costs more, much more.
BLOCK = {"cpu": 2**18}
LARGE_BLOCK = 2**26

# Beyond these the limit is reached in either precision. They are powers of two, so that dividing by theta and multiplying
# by it again is exact, and theta = infinity is the Poisson exactly.
THETA_MIN, THETA_MAX, MU_MAX = 2.0**-60, 2.0**80, 2.0**60


def log_prob(
    x: Tensor, log_mu: Tensor | Shares, log_theta: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    """log p(x) of whole count vectors [...]; x, log_mu, log_theta and gate broadcast to [..., g].

    log_mu     log mean, or the shares it is made of
    log_theta  log inverse dispersion; None is the Poisson
    gate       logits of the probability of an extra zero; None is no zero inflation
    """
    logits, log_size = log_mu if isinstance(log_mu, Shares) else (log_mu, None)
    given = [t for t in (logits, log_size, log_theta, gate) if t is not None]
    dtype = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    logits, log_size, log_theta, gate = (
        None if t is None else t.to(dtype) for t in (logits, log_size, log_theta, gate)
    )
    slopes = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    return CountLogProb.apply(x.detach().to(dtype), logits, log_size, log_theta, gate, slopes)


class CountLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, logits: Tensor, log_size: Tensor | None, log_theta: Tensor | None, gate: Tensor | None,
        slopes: bool,
    ) -> Tensor:  # fmt: skip
        given = [t for t in (x, logits, log_size, log_theta, gate) if t is not None]
        shape = torch.broadcast_shapes(*(t.shape for t in given))
        theta = None if log_theta is None else log_theta.exp().clamp_(THETA_MIN, THETA_MAX).expand(shape)
        x, h = x.expand(shape), logits.expand(shape)
        total = h.new_empty(shape[:-1])
        d_logits = h.new_empty(shape) if slopes else None
        d_log_size = h.new_empty(shape[:-1]) if slopes and log_size is not None else None
        d_log_theta = h.new_empty(shape) if slopes and theta is not None else None
        d_gate = h.new_empty(shape) if slopes and gate is not None else None
        size = None if log_size is None else log_size.expand(*shape[:-1], 1)
        gate_full = None if gate is None else gate.expand(shape)

        found: dict[Any, Where] = {}  # particles share their counts: these are searched for once
        for block in blocks(shape, BLOCK.get(h.device.type, LARGE_BLOCK)):
            x_b, h_b = x[block], h[block]
            key = (x_b.storage_offset(), x_b.shape)
            where = found.get(key) or found.setdefault(key, Where.of(x_b))
            if size is None:
                rho, means = None, Means(h_b.clamp(max=41).exp_(), h_b, None)
            else:
                rho = torch.softmax(h_b, -1)
                # log sum exp, from the largest share
                offset = size[block] - (h_b.amax(-1, keepdim=True) - rho.amax(-1, keepdim=True).log_())
                means = Means(rho * size[block].exp().clamp_(max=MU_MAX), h_b, offset)
            t = terms(
                where,
                means,
                None if theta is None else theta[block],
                None if gate_full is None else gate_full[block],
                slopes,
            )
            total[block] = t.log_p.sum(-1)
            if not slopes:
                continue
            d = t.log_mu
            if rho is not None:
                s = d.sum(-1, keepdim=True)
                d_log_size[block] = s.squeeze(-1)
                d = torch.addcmul(d, rho, s, value=-1, out=d_logits[block])
            else:
                d_logits[block] = d
            if d_log_theta is not None:
                d_log_theta[block] = t.log_theta
            if d_gate is not None:
                d_gate[block] = t.gate
        ctx.shapes = [None if t is None else t.shape for t in (logits, log_size, log_theta, gate)]
        ctx.save_for_backward(d_logits, None if d_log_size is None else d_log_size.unsqueeze(-1), d_log_theta, d_gate)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:5]
        gradients = [
            weigh(weight, d, shape) if need else None
            for d, shape, need in zip(ctx.saved_tensors, ctx.shapes, needed)
        ]
        return None, *gradients, None


def weigh(weight: Tensor, slope: Tensor, shape: Size) -> Tensor:
    """weight [...] times slope [..., g], summed over the axes that were broadcast from ``shape``."""
    if shape.numel() == slope.shape[-1]:  # one value for each gene: a matrix-vector product
        return (weight.reshape(-1) @ slope.reshape(-1, slope.shape[-1])).reshape(shape)
    return (weight.unsqueeze(-1) * slope).sum_to_size(shape)


def blocks(shape: Size, limit: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut the leading axes of ``shape`` into blocks of about ``limit`` counts, whole cells each."""
    room = max(1, limit // max(1, shape[-1]))
    cuts = []
    for size in reversed(shape[:-1]):
        pieces = -(-size // room)
        step = -(-size // max(1, pieces))
        room //= max(1, step)
        room = max(1, room)
        cuts.append([slice(i, min(i + step, size)) for i in range(0, size, max(1, step))])
    return product(*reversed(cuts))
