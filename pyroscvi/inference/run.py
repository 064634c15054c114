"""One run of training: everything that changes while a guide is fitted, so that it can be written down and taken up again."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.handlers import temper
from pyroscvi.inference.diagnosis import NonFiniteLoss, explain
from pyroscvi.inference.elbo import negative_elbo
from pyroscvi.inference.schedules import Patience, Schedule
from pyroscvi.inference.seeds import generator_state, seeded, set_generator_state
from pyroscvi.program import Guide, Model

__all__ = ["Objective", "Run", "evaluate"]

Objective = Callable[[Model, Guide, Cells], Tensor]


@dataclass
class Run:
    """The state of a fit, and how it takes one step and one epoch.

    ``train`` and ``held_out`` lie on the device of model and guide. Call everything inside ``seeded``.
    """

    model: Model
    guide: Guide
    train: Cells
    held_out: Cells | None
    epochs: int
    batch_size: int
    lr: float
    warmup: Schedule
    patience: Patience | None
    clip: float
    objectives: Sequence[Objective]
    seed: int

    epoch: int = 0  # epochs finished
    step: int = 0  # minibatches done in the epoch that is under way
    loss: float = 0.0  # their summed loss
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int | None = None
    stopped_early: bool = False

    def __post_init__(self) -> None:
        extra = [objective for objective in self.objectives if isinstance(objective, nn.Module)]
        self.trained = nn.ModuleDict({"model": self.model, "guide": self.guide, "objectives": nn.ModuleList(extra)})
        self.parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.lr, fused=True)
        self.shuffle = torch.Generator().manual_seed(self.seed)
        self.shuffled_from = self.shuffle.get_state()
        steps = math.ceil(len(self.train) / self.batch_size)
        self.size = math.ceil(len(self.train) / steps)  # minibatches of one size, rather than a small one at the end
        self.steps = math.ceil(len(self.train) / self.size)
        self.glance = self.train.subset(
            torch.randperm(len(self.train), generator=self.shuffle)[: max(len(self.train) // 10, 1)]
        )

    @property
    def progress(self) -> float:
        return (self.epoch + self.step / self.steps) / self.epochs

    @property
    def beta(self) -> float:
        return self.warmup(self.progress)

    @property
    def done(self) -> bool:
        return self.epoch >= self.epochs or self.stopped_early

    def advance(self) -> None:
        """One epoch, or what is left of it."""
        began = time.monotonic() - self.seconds
        hops = self.guide.encoder.hops
        if self.step == 0:
            self.shuffled_from = self.shuffle.get_state()
            self.loss = 0.0
        self.trained.train()
        beta = self.beta
        total = torch.zeros((), dtype=self.train.dtype, device=self.train.device)
        batches = self.train.minibatches(self.size, self.shuffle, hops)
        for batch in islice(batches, self.step, None):
            beta = self.beta
            total += self._descend(batch, beta) * len(batch)
            self.step += 1
        self.loss += total.item()
        self.step = 0
        self.epoch += 1
        self.seconds = time.monotonic() - began
        self._look(beta)
        self.seconds = time.monotonic() - began

    def _descend(self, batch: Cells, beta: float) -> Tensor:
        """One step of the optimiser on one minibatch; its loss per cell."""
        with temper(beta), pyro.validation_enabled(False):
            loss = negative_elbo(self.model, self.guide, batch) / len(self.train)
        for objective in self.objectives:
            loss = loss + objective(self.model, self.guide, batch).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if not torch.isfinite(loss.detach() + norm):
            raise NonFiniteLoss(
                explain(self.model, self.guide, batch, self.trained, float(loss), self.epoch, self.step)
            )
        self.optimiser.step()
        return loss.detach()

    def _look(self, beta: float) -> None:
        """What this epoch did to the bound, un-annealed and without dropout, on cells seen and unseen."""
        row = {
            "epoch": self.epoch,
            "loss": self.loss / len(self.train),
            "elbo_train": evaluate(self.model, self.guide, self.glance, len(self.train), self.seed),
            "elbo_held_out": math.nan,
            "kl_weight": beta,
            "seconds": self.seconds,
        }
        settled = self.epoch / self.epochs >= self.warmup.settled
        if self.held_out is not None:
            row["elbo_held_out"] = evaluate(self.model, self.guide, self.held_out, len(self.train), self.seed)
        self.history.append(row)
        if self.patience is None or self.held_out is None or not settled:
            return
        if self.best_epoch is None or row["elbo_held_out"] > self._best_bound() + self.patience.least:
            self.best_epoch = self.epoch
            self.best = {name: t.detach().clone() for name, t in self.trained.state_dict().items()}
        self.stopped_early = self.epoch - self.best_epoch >= self.patience.epochs and self.epoch < self.epochs

    def _best_bound(self) -> float:
        assert self.best_epoch is not None
        return self.history[self.best_epoch - 1]["elbo_held_out"]

    def settings(self) -> dict[str, Any]:
        """What the run was asked for; two runs that agree in it, and in their cells, are the same run."""
        asked = ("epochs", "batch_size", "lr", "warmup", "patience", "clip", "seed")
        return {name: value if isinstance(value := getattr(self, name), int | float) else repr(value) for name in asked}

    def finish(self) -> None:
        """Take up the best state, if one was kept."""
        if self.best is not None:
            self.trained.load_state_dict(self.best)
        self.trained.eval()

    # Written down and taken up again

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain numbers from which ``restore`` goes on bitwise as if nothing had happened (on a processor)."""
        tensors = {f"trained.{name}": t for name, t in self.trained.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in (self.best or {}).items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": t for name, t in moments.items()}
        tensors["generator.shuffle"] = self.shuffled_from if self.step else self.shuffle.get_state()
        tensors["generator.cpu"] = torch.get_rng_state()
        tensors["generator.device"] = generator_state(self.train.device)
        names = ("epoch", "step", "loss", "seconds", "history", "best_epoch", "stopped_early")
        return tensors, {name: getattr(self, name) for name in names}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.trained.load_state_dict(under("trained."))
        self.best = under("best.") or None
        moments: dict[int, dict[str, Tensor]] = {}
        for name, t in under("optimiser.").items():
            i, moment = name.split(".", 1)
            moments.setdefault(int(i), {})[moment] = t
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for name, value in numbers.items():
            setattr(self, name, value)
        self.shuffle.set_state(tensors["generator.shuffle"])
        torch.set_rng_state(tensors["generator.cpu"])
        set_generator_state(self.train.device, tensors["generator.device"])


@torch.no_grad()
def evaluate(model: Model, guide: Guide, cells: Cells, total: int, seed: int, batch_size: int = 1024) -> float:
    """The un-annealed ELBO per cell, the same draws every time; shared latents count as in a data set of ``total`` cells."""
    training = model.training, guide.training
    model.eval(), guide.eval()
    summed = torch.zeros((), dtype=torch.float64)
    with seeded(seed, cells.device), pyro.validation_enabled(False):
        for batch in replace(cells, total=total).minibatches(batch_size, hops=guide.encoder.hops):
            summed -= negative_elbo(model, guide, batch).cpu().double() * len(batch) / total
    model.train(training[0]), guide.train(training[1])
    return summed.item() / len(cells)
