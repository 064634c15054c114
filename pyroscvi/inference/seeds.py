"""Random numbers from a seed, which leave torch's generators as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw from ``seed`` inside the block, on the processor and on this device; numpy and Python are not touched."""
    device = torch.device(device)
    before = torch.get_rng_state(), generator_state(device)
    try:
        reseed(seed, device)
        yield
    finally:
        torch.set_rng_state(before[0])
        set_generator_state(device, before[1])


def reseed(seed: int, device: torch.device) -> None:
    """Draw from ``seed`` from now on, on the processor and on this device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def generator_state(device: torch.device) -> torch.Tensor:
    """State of the generator that draws on this device."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def set_generator_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
