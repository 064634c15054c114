"""The private things of torch that this library uses; ``tests/test_internals.py`` fails if they change.

Compilers are imported when they are first used: importing them takes seconds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, LowRankMultivariateNormal
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "Distribution", "TorchDispatchMode", "compiled", "compiler_cache", "covariance_factors", "recorded", "recording",
    "set_class", "set_gradients", "shared_library", "standard_gamma", "vector_instructions",
]  # fmt: skip

set_gradients = torch._C._set_grad_enabled  # unlike torch.set_grad_enabled a function of C, which Ctrl-C does not enter
standard_gamma = torch._standard_gamma  # Gamma(theta, 1), without a copy and a check of theta


def recording() -> bool:
    """Whether ``make_fx`` or ``torch.compile`` records the operations of this call."""
    return torch.compiler.is_compiling() or get_proxy_mode() is not None


def recorded(step: Callable[..., Any], operators: Any, arguments: Sequence[Tensor]) -> Any:
    """The graph of ``step`` at tensors of these shapes, with some operators replaced; it may use tensors of its own."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(step, operators, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)


def compiled(graph: Any, arguments: Sequence[Tensor]) -> Any:
    """A graph compiled by Inductor; random numbers are those that eager torch draws."""
    from torch import _inductor

    return _inductor.compile(graph, list(arguments), options={"fallback_random": True})


def shared_library(source: str) -> Any:
    """C++ source, compiled and loaded as Inductor does it with its own kernels, through Inductor's cache."""
    from torch._inductor.codecache import CppCodeCache

    return CppCodeCache.load(source, "cpu")


def compiler_cache() -> Path:
    """The folder in which Inductor keeps what it has compiled."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


def vector_instructions() -> Any:
    """The vector instructions that Inductor found on this machine; false if it found none."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return pick_vec_isa()


def set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Make a module one of another class that has the same state; its parameters, buffers and hooks stay."""
    module.__class__ = kind


def covariance_factors(q: LowRankMultivariateNormal) -> tuple[Tensor, Tensor]:
    """W [..., d, rank] and D [..., d] of the covariance W W' + diag(D), in the shapes in which they were given."""
    return q._unbroadcasted_cov_factor, q._unbroadcasted_cov_diag
