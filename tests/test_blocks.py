"""Blocks of the kernel: its memory, equal results of two evaluations, and graphs that are recorded for a compiler."""

import math
from unittest.mock import Mock

import pytest
import torch
from reference.likelihoods import (
    COUNTS,
    draws,
    made,
    parameters,
)
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyroscvi.distributions import (
    Shares,
    blocks,
    kernel,
)

every_count = pytest.mark.parametrize("name", COUNTS)


class Watch(TorchDispatchMode):
    """Records the operations that run, and the size of the largest tensor that they create."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = set(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.operations.add(operation.overloadpacket.__name__)
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, t.numel())
        return result


@every_count
@pytest.mark.parametrize("cells", [8, 3, 16])
def test_the_largest_tensor_is_a_block_and_not_all_particles(name, cells, monkeypatch):
    s, n, g = 40, 8, 50
    logits, log_size, log_theta, gate = (t.detach().float() for t in parameters((s, n, g), (n, 1), (g,), (g,)))
    d, x = made(name, Shares(logits, log_size), log_theta, gate), draws(n, g, dtype=torch.float32)
    whole = d.log_prob(x)
    monkeypatch.setattr(blocks, "ON_PROCESSOR", cells * g)
    searched = Mock(side_effect=kernel.find)
    monkeypatch.setattr(kernel, "find", searched)
    with Watch() as watch:
        cut = d.log_prob(x)
    assert watch.largest <= max(cells * g, s * n) < logits.numel()
    assert searched.call_count == math.ceil(n / cells)  # not once for each particle
    assert not {"lgamma", "digamma"} & watch.operations
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 5, 3, 11), (64, 11), (1, 11), (11,), (3, 0, 11), (200, 1, 11)])
@pytest.mark.parametrize("room", [1, 4, 9, 10_000])
def test_blocks_cover_every_count_once_and_are_contiguous(shape, room, monkeypatch):
    monkeypatch.setattr(blocks, "ON_PROCESSOR", room * shape[-1])
    seen = torch.zeros(shape)
    for block in blocks.blocks(seen.shape, seen.device):
        assert seen[block].is_contiguous()
        assert seen[block].numel() <= room * shape[-1]
        seen[block] += 1
    assert (seen == 1).all()


@every_count
def test_two_evaluations_are_equal_in_every_digit(name):
    logits, log_size, log_theta, gate = parameters((64, 300), (64, 1), (300,), (64, 300))
    x = draws(64, 300)

    def run() -> list[Tensor]:
        d = made(name, Shares(logits, log_size), log_theta, gate)
        log_p = d.log_prob(x)
        return [log_p, *torch.autograd.grad(log_p.sum(), [t for t in d.parameters if t is not None])]

    assert all(map(torch.equal, run(), run()))


@every_count
def test_a_recorded_graph_is_right_for_other_counts(name):
    logits, log_size, log_theta, gate = parameters((4, 30), (4, 1), (30,), (4, 30))

    def step(x: Tensor, h: Tensor, t: Tensor, z: Tensor) -> list[Tensor]:
        log_p = made(name, Shares(h, log_size.detach()), t, z).log_prob(x)
        return [log_p.detach(), *torch.autograd.grad(log_p.sum(), h)]

    graph = make_fx(step)(torch.zeros(4, 30, dtype=torch.float64), logits, log_theta, gate)
    x = draws(4, 30)
    with torch.no_grad():
        recorded = graph(x, logits, log_theta, gate)
    for got, expected in zip(recorded, step(x, logits, log_theta, gate), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
