"""Random numbers in a captured graph: the same as in the eager step, from the same generators in the same order.

PyTorch fills tensors with noise in place (dropout asks for ``torch.empty_like(h).bernoulli_(p)``). Inductor 2.13 may
read such a tensor before it is filled. So each such call is replaced with one operator that returns a new tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.library.custom_op("pyroscvi::noise", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def noise(like: Tensor, kind: str, parameters: list[float]) -> Tensor:
    """A new tensor of the shape of ``like``, filled by its in-place method ``kind`` with these parameters."""
    return getattr(torch.empty_like(like), kind)(*parameters)


@noise.register_fake
def _(like: Tensor, kind: str, parameters: list[float]) -> Tensor:
    return torch.empty_like(like)


def _in_place(kind: str, *default: float) -> Callable[..., Tensor]:
    def fill(like: Tensor, *parameters: float, generator: torch.Generator | None = None) -> Tensor:
        if generator is not None:
            raise ValueError("a captured step draws from the global generator")
        return like.copy_(noise(like, kind, [*parameters, *default[len(parameters) :]]))

    return fill


aten = torch.ops.aten
TABLE = {
    aten.bernoulli_.float: _in_place("bernoulli_", 0.5),
    aten.uniform_.default: _in_place("uniform_", 0.0, 1.0),
    aten.normal_.default: _in_place("normal_", 0.0, 1.0),
    aten.exponential_.default: _in_place("exponential_", 1.0),
}
