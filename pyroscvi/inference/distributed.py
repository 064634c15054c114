"""One fit in several processes: ``torchrun`` starts them, torch's ``DistributedDataParallel`` averages their gradients.

Every process (a rank) holds the same parameters and all the cells, and of each minibatch it reads a shard, every W-th
cell (``data.loader``). With b_r of the B cells of a minibatch on rank r, what is differentiated there is

    loss_r = - (W b_r / B) sum_n (N / b_r) f_n - shared          n: cells of the shard, f_n: their terms of the ELBO

whose mean over ranks, which is what DistributedDataParallel steps along, is the loss of the whole minibatch

    loss   = - (N / B) sum_n f_n - shared                        n: cells of the minibatch

for shards of any size, with the latents that cells share counted once. So ``batch_size`` is that of the minibatch and
a fit is the same fit on any number of ranks: the number of steps, the learning rate, the checkpoint.
"""

import atexit
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyroscvi.data.cells import Cells
from pyroscvi.inference.seeds import reseed
from pyroscvi.inference.sync_batch_norm import AcrossRanks, across_ranks

T = TypeVar("T")


class Ranks:
    """This process among those that share a fit. In a fit of one process, methods return their argument unchanged."""

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world = rank, world
        self.interrupted = False

    @classmethod
    def here(cls, wanted: bool = True) -> "Ranks":
        """The process group, which is joined first if torchrun started this process; otherwise one process alone."""
        if not (wanted and dist.is_available()):
            return cls()
        if not dist.is_initialized():
            if not dist.is_torchelastic_launched() or os.environ.get("WORLD_SIZE") == "1":
                return cls()
            dist.init_process_group("cpu:gloo,cuda:nccl" if dist.is_nccl_available() else "gloo")
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank: one GPU each."""
        if self.alone or device.type == "cpu" or device.index is not None:
            return device
        if device.type != "cuda":
            raise ValueError(f"a fit is shared between processors (gloo) or GPUs (nccl), not {device.type!r}: "
                             "ask for device='cpu'")  # fmt: skip
        local, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if local >= there:
            raise ValueError(f"process {local + 1} on this machine finds {there} GPUs: start one process a GPU "
                             "(torchrun --nproc-per-node), or ask for device='cpu'")  # fmt: skip
        return torch.device("cuda", local)

    # Shards and gradients

    def size(self, cells: int, size: int) -> int:
        """Cells in a minibatch: at most ``size``, such that the last one has at least two for every rank, too."""
        least = 2 * self.world
        if self.alone:
            return size
        for fitting in range(min(size, cells), least - 1, -1):
            if cells % fitting == 0 or cells % fitting >= least:
                return fitting
        raise ValueError(f"minibatches of {size} of {cells} cells leave {self.world} ranks with less than two cells "
                         "each: raise batch_size, or start fewer processes")  # fmt: skip

    def weight(self, own: int, whole: int) -> float:
        """The weight W b_r / B of this rank's cells in its loss."""
        return self.world * own / whole

    def part(self, cells: Cells | None) -> Cells | None:
        """This rank's cells of a data set, as a data set of its own; None where there are none for it."""
        if self.alone or cells is None:
            return cells
        return cells.subset(torch.arange(self.rank, len(cells), self.world)) if len(cells) > self.rank else None

    def wrap(self, loss: nn.Module, some: Cells) -> nn.Module:
        """The module whose backward pass leaves the mean gradient on every rank; all start where the first one does.

        Batch norms see the whole minibatch, so that their running moments are the same on all ranks. Parameters that a
        loss does not reach are looked for at every step only where it does not reach some already with these cells.
        """
        if self.alone:
            return loss
        trained = [p for p in loss.parameters() if p.requires_grad]
        reached = torch.autograd.grad(loss.eval()(some, 1.0), trained, allow_unused=True)
        across_ranks(loss.train(), True)
        return DistributedDataParallel(loss, find_unused_parameters=any(slope is None for slope in reached))

    def uncaptured(self, loss: nn.Module, size: int, accumulate: int) -> str:
        """Why a step of ``size`` cells cannot be captured in a shared fit; "" if it can.

        A captured step has the loss and gradients of this rank's cells alone, all with weight 1.
        """
        if self.alone:
            return ""
        if any(isinstance(module, AcrossRanks) for module in loss.modules()):
            return "batch norms read the cells of all processes"
        if size % (self.world * accumulate):
            return f"{size} cells of a minibatch cannot be divided equally among {self.world} processes"
        return ""

    def unwrap(self, trained: nn.Module) -> None:
        """Make the trained module usable by one process alone, with bitwise equal tensors on all ranks."""
        if self.alone:
            return
        across_ranks(trained, False)
        for tensor in trained.state_dict().values():
            dist.broadcast(tensor, 0)

    def draw_apart(self, device: torch.device, *where: int) -> None:
        """Reseed all ranks but the first, by rank and by position in the run, so that their noise differs.

        A resumed run then draws the same numbers, although the state of these generators is not saved.
        """
        if not self.first:
            digest = hashlib.blake2b(repr((self.rank, *where)).encode(), digest_size=4).digest()
            reseed(int.from_bytes(digest, "big"), device)

    # Agreement

    def mean(self, loss: Tensor) -> Tensor:
        """The mean over ranks []; KeyboardInterrupt on all of them where any was interrupted."""
        if self.alone:
            if self.interrupted:
                raise KeyboardInterrupt
            return loss
        sums = torch.stack([loss, loss.new_full((), float(self.interrupted))])
        dist.all_reduce(sums)
        if sums[1].item() > 0:
            raise KeyboardInterrupt
        return sums[0] / self.world

    def averaged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Means over ranks of gradients that no DistributedDataParallel has averaged."""
        if self.alone:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = (flat / self.world).split([gradient.numel() for gradient in gradients])
        return [piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True)]

    def average(self, value: float, weight: int, device: torch.device) -> float:
        """The weighted mean over ranks."""
        if self.alone:
            return value
        kind = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.tensor([value * weight if weight else 0.0, weight], dtype=kind, device=device)
        dist.all_reduce(sums)
        return (sums[0] / sums[1]).item()

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, call: Callable[[], T]) -> T:
        """The result of this call on the first rank, returned on all ranks; an error is raised on all of them."""
        if self.alone:
            return call()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = call()
            except Exception as error:
                outcome[1] = error
        mine = outcome[1]
        dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise mine or outcome[1]
        return outcome[0]

    def check_same(self, asked: Callable[[], dict[str, Any]]) -> None:
        """Raise ValueError on all ranks if one was given other settings than the first."""
        settings = [{}] if self.alone else self.gathered(asked())
        for rank, other in enumerate(settings):
            for name, value in settings[0].items():
                if other[name] != value:
                    raise ValueError(
                        f"rank {rank} was given {name} {other[name]}, and rank 0 {value}: every process of a "
                        "shared fit needs the same settings; for a fit of its own, give distributed=False"
                    )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note Ctrl-C, which ``mean`` raises in the next step: on all ranks at the same one, and never half-way.

        Raised anywhere else, it could be lost (in code that Python runs when an object is deleted), end the process (in
        Python that C++ has called) or leave a state that is half of a step. Pressed twice, it is raised at once. A
        process that ignores it, as one that a shell started in the background, goes on ignoring it.
        """
        before = signal.getsignal(signal.SIGINT)
        is_heard = not self.alone or callable(before)
        if threading.current_thread() is not threading.main_thread() or not is_heard:
            yield
            return

        def note(*given: Any) -> None:
            if self.alone and self.interrupted and callable(before):
                before(*given)
            self.interrupted = True

        self.interrupted = False
        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
