"""The private things of Pyro that this library uses; ``tests/test_internals.py`` fails if they change.

Pyro keeps its handlers, its open plates and its validation flags in global variables, which all threads share; torch
does the same with its random generator. So only one thread at a time may run a model: ``alone``.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from pyro.distributions import util as distribution_settings
from pyro.infer import util as inference_settings
from pyro.poutine import runtime
from pyro.poutine import util as handler_settings

from pyroscvi.torch_internals import Distribution, set_gradients

__all__ = ["HANDLERS", "alone", "enumerated_dim"]

P = ParamSpec("P")
T = TypeVar("T")

HANDLERS: list[Any] = runtime._PYRO_STACK  # the handlers that are active, outermost first
PLATES: list[str | None] = runtime._DIM_ALLOCATOR._stack  # names of the open plates, from dimension -1 to the left
FLAGS: tuple[Any, ...] = (distribution_settings, inference_settings, handler_settings)  # one _VALIDATION_ENABLED each
LOCK = threading.RLock()


def enumerated_dim(site: Any) -> int | None:
    """The dimension in which Pyro enumerates a sample site, or None if it does not."""
    return (site["infer"] or {}).get("_enumerate_dim")


def alone(work: Callable[P, T]) -> Callable[P, T]:
    """``work``, run by one thread at a time, with the global state of Pyro and torch restored afterwards.

    A second thread waits until the first one returns; a call inside a call does not wait. Restored are Pyro's handlers,
    open plates and validation flags, torch's gradient mode and its CPU generator, also after an error or Ctrl-C.
    """

    @wraps(work)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with LOCK:
            handlers, plates = list(HANDLERS), list(PLATES)
            of_arguments, (first, second, third) = Distribution._validate_args, (f._VALIDATION_ENABLED for f in FLAGS)
            gradients, generator = torch.is_grad_enabled(), torch.default_generator.get_state()
            try:
                return work(*args, **kwargs)
            finally:  # Python can raise KeyboardInterrupt after any call, so assignments come first
                HANDLERS[:] = handlers
                PLATES[:] = plates
                distribution_settings._VALIDATION_ENABLED = first
                inference_settings._VALIDATION_ENABLED = second
                handler_settings._VALIDATION_ENABLED = third
                Distribution._validate_args = of_arguments
                try:
                    set_gradients(gradients)
                finally:
                    torch.default_generator.set_state(generator)

    return guarded
