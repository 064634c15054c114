"""One run of training: all state that changes while a guide is fitted, so that it can be saved and resumed."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyroscvi.advice import troubleshooting
from pyroscvi.data.cells import Cells
from pyroscvi.data.halo import padded
from pyroscvi.distributions import native
from pyroscvi.inference.average import Average
from pyroscvi.inference.captured import Captured, capture, decline, pays
from pyroscvi.inference.convergence import MeanBounds, State
from pyroscvi.inference.diagnosis import NonFiniteLoss, explain
from pyroscvi.inference.distributed import Ranks
from pyroscvi.inference.evaluation import evaluate, evaluating, two_samples
from pyroscvi.inference.loss import Loss, Objective
from pyroscvi.inference.schedules import CosineDecay, Patience, Schedule
from pyroscvi.inference.seeds import generator_state, set_generator_state
from pyroscvi.part import Part, hops_of, parts_of
from pyroscvi.program import Guide, Model

# Adam takes full steps along gradients of any size, except those far below eps. Genes that are hardly ever counted have
# such small gradients, which are mostly noise, and the model would overfit to them: with eps = 1e-8, held-out cells of
# the data sets that this was tried on lose up to four nats.
EPS = 0.01

# A dispersion is one number of a gene, and no weight of a network. It cannot overfit as weights do, but it may have far
# to go from its start. At the rate of the weights it does not arrive, and the evidence then depends on the start.
SINGLE_RATE, SINGLE_EPS = 5.0, 1e-4

MIN_CORRELATION = 0.8  # four fifths of the variance of z are between cells; at half, clusters may still be close

MAX_EVALUATED = 10_000  # cells to evaluate a bound on, the same ones in every epoch, so that its changes show

# A bound of few cells costs as much as a step: it is computed once in so many steps, but at least 30 times in a run.
STEPS_A_BOUND, BOUNDS = 20, 30


@dataclass(eq=False)
class Run:
    """The state of a fit, and how it takes a step. All methods are called inside ``seeded``.

    train, held_out   cells to fit to, and cells for early stopping, on the device of model and guide
    average           fraction of the run, at its end, whose states are averaged; with ``patience`` the best one is kept
    fresh             the model's parameters were drawn for this run, so that components may be moved
    """

    model: Model
    guide: Guide
    train: Cells
    held_out: Cells | None
    epochs: int
    batch_size: int
    lr: float
    decay: CosineDecay
    warmup: Schedule
    patience: Patience | None
    clip: float
    objectives: Sequence[Objective]
    seed: int
    average: float = 0.0
    ranks: Ranks = field(default_factory=Ranks)
    compile: bool | Literal["auto", "trace"] = False
    fresh: bool = False
    accumulate: int = 1  # pieces that a minibatch is read in

    epoch: int = 0  # epochs that are finished
    step: int = 0  # minibatches of the current epoch that are finished
    beta: float = math.nan  # KL weight of the last step
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False
    settled: bool = False  # components of mixtures have been set to clusters

    def __post_init__(self) -> None:
        extra = [objective for objective in self.objectives if isinstance(objective, nn.Module)]
        modules = {"model": self.model, "guide": self.guide, "objectives": nn.ModuleList(extra)}
        self.trained = nn.ModuleDict(modules)
        self.parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.parts = parts_of(self.trained)
        self.settling = [part for part in self.parts if type(part).settle is not Part.settle]
        self.hops = hops_of(self.model, self.guide)
        two = self.train.take(torch.arange(min(2, len(self.train))), self.hops)
        self.own_loss = Loss(self.trained, self.objectives, len(self.train))  # of this rank's cells
        self.loss = self.ranks.wrap(self.own_loss, two)
        self.optimiser = torch.optim.Adam(self._groups(), fused=True)
        n = len(self.train)
        size = math.ceil(n / math.ceil(n / self.batch_size))  # minibatches of one size, without a small one at the end
        self.size = self.ranks.size(n, size)
        self.steps = math.ceil(n / self.size)
        self.shuffle = torch.Generator().manual_seed(self.seed)
        self.sample = self.train.subset(
            torch.randperm(n, generator=self.shuffle)[: min(max(n // 10, 1), MAX_EVALUATED)], self.hops
        )
        self.evaluated = [self.ranks.part(cells) for cells in (self.sample, self.held_out)]  # the bound is, on these
        few = min(math.ceil(STEPS_A_BOUND / self.steps), self.epochs // BOUNDS)
        self.every = 1 if self.patience else max(few, 1)  # epochs between two bounds
        self.summed = torch.zeros((), dtype=self.train.dtype, device=self.train.device)  # loss of the current epoch
        self.best: dict[str, Tensor] | None = None
        self.mean = Average()
        self.means = MeanBounds(self.epochs * self.steps)
        self.sound, self.sound_epoch = self._copied(), 0  # the last state that is known to have a finite bound
        self.captured: dict[Any, Captured] = {}  # steps, by the sizes of the halo
        self.asked = self.compile is True
        reason = self.ranks.uncaptured(self.own_loss, self.size, self.accumulate)
        if not self.ranks.alone and self.train.graph is not None:
            reason = reason or "every process has another number of neighbours"
        if self.compile == "auto":
            self.compile = not reason and pays(self.train, self.epochs, self.steps)
        elif self.compile and reason:
            decline(reason)
            self.compile = False
        self.inductor = self.compile != "trace"
        self._minibatches: Iterator[Cells] | None = None
        if self.patience is not None and self.patience.watch is not None:
            self._watched(self.patience.watch)  # an error is raised now, and not after the warm-up

    @property
    def progress(self) -> float:
        return (self.epoch + self.step / self.steps) / self.epochs

    @property
    def done(self) -> bool:
        return self.epoch >= self.epochs or self.stopped_early

    def advance(self) -> None:
        """Train on one minibatch; after the last of an epoch, evaluate the epoch."""
        began = time.monotonic()
        if self._minibatches is None:
            self._begin()
        cells = next(self._minibatches)  # type: ignore[arg-type]
        whole = min(self.size, len(self.train) - self.step * self.size)  # the cells of all ranks
        self.beta = self.warmup(self.progress)
        self.summed += self._descend(cells, self.ranks.weight(len(cells), whole)) * whole
        self.step += 1
        self.means.add(self.epoch * self.steps + self.step, self._copied, self._bounds)
        if self.step == self.steps:
            self._end(self.seconds + time.monotonic() - began)
        self.seconds += time.monotonic() - began

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by their learning rate, for Adam."""
        single = {p for part in self.parts for p in part.single()}
        groups = [([p for p in self.parameters if p not in single], 1.0, EPS)]
        groups += [([p for p in self.parameters if p in single], SINGLE_RATE, SINGLE_EPS)] if single else []
        return [{"params": own, "lr": rate * self.lr, "full": rate * self.lr, "eps": eps} for own, rate, eps in groups]

    def _begin(self) -> None:
        if self.fresh and self.epoch == self.step == 0:
            with torch.no_grad():
                for part in self.parts:
                    part.begin(self.train)
        if self.fresh and self.settling and self.step == 0 and not self.settled:
            self.settled = self._settle()
        self.trained.train()
        self.shuffled_from = self.shuffle.get_state()
        which = (self.step, self.ranks.rank, self.ranks.world)
        self._minibatches = self.train.minibatches(self.size, self.shuffle, self.hops, *which)

    def _settle(self) -> bool:
        """Set components of mixtures to clusters of cells, once the latent space separates cells; whether it was done.

        It does when, in some dimension, two posterior samples of a cell are correlated by more than MIN_CORRELATION.
        """
        if not max(self.warmup.settled / 2, 0.05) <= self.progress < 0.5:
            return False
        subset = self.train.subset(
            torch.linspace(0, len(self.train) - 1, min(len(self.train), MAX_EVALUATED)).long(), self.hops
        )
        z = self.ranks.from_first(lambda: two_samples(self.guide, subset, self.seed).cpu()).to(self.train.device)
        centred = z - z.mean(1, keepdim=True)
        correlation = (centred[0] * centred[1]).sum(0) / centred.square().sum((0, 1)) * 2  # of the two samples [d]
        if not correlation.max() > MIN_CORRELATION:
            return False
        for part in self.settling:
            part.settle(z[0])
        return True

    def _descend(self, cells: Cells, weight: float) -> Tensor:
        """One step of the optimiser with this rank's part of a minibatch; returns the loss per cell of all ranks []."""
        self.ranks.draw_apart(self.train.device, self.seed, self.epoch, self.step)
        before = generator_state(self.train.device)
        loss = self.ranks.mean(self._accumulated(cells, weight))
        for part in self.parts:
            for parameter in part.held(self.progress):
                parameter.grad = None
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        loss_value, norm_value = torch.stack([loss, norm]).tolist()  # once: a GPU is waited for
        if not math.isfinite(loss_value + norm_value):
            set_generator_state(self.train.device, before)  # so that the explanation uses the same random numbers
            what, value = ("gradient", norm_value) if math.isfinite(loss_value) else ("loss", loss_value)
            explanations = self.ranks.gathered(explain(self.model, self.guide, cells, self.trained))
            why = max(explanations, key=len)  # the rank that has the cell has the longest
            raise NonFiniteLoss(
                f"the {what} became {value} at epoch {self.epoch + 1}, minibatch {self.step + 1}: {why}. "
                "It changed no parameter: the error's .fit is the last good state. Look at the counts of that cell, or "
                "lower lr. " + troubleshooting("the loss is NaN")
            )
        if norm_value > self.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = group["full"] * self.decay(self.progress)
        self.optimiser.step()
        return loss

    def _accumulated(self, cells: Cells, weight: float) -> Tensor:
        """The loss [] of this rank's cells, a piece of them after the other; gradients are stored in the parameters."""
        if self.accumulate == 1:
            return self._differentiate(cells, weight)
        total = torch.zeros((), dtype=cells.dtype, device=cells.device)
        sums: list[Tensor | None] = [None] * len(self.parameters)
        fewest = int(len(cells) / weight + 1e-9)  # cells of a rank, so that all ranks have as many pieces
        for rows in torch.arange(len(cells)).tensor_split(max(min(self.accumulate, fewest), 1)):
            share = len(rows) / len(cells)
            total = total + share * self._differentiate(cells.take(rows, self.hops), weight)
            slopes = [None if p.grad is None else share * p.grad for p in self.parameters]
            pairs = zip(sums, slopes, strict=True)
            sums = [new if old is None else old if new is None else old + new for old, new in pairs]
        for parameter, gradient in zip(self.parameters, sums, strict=True):
            parameter.grad = gradient
        return total

    @property
    def _piece(self) -> int:
        """Cells of this rank whose gradients are computed at once."""
        return math.ceil(self.size / self.ranks.world / self.accumulate)

    def _differentiate(self, cells: Cells, weight: float) -> Tensor:
        """The loss [] of this rank's cells; gradients are stored in the parameters."""
        equal = weight == 1.0 and len(cells) == self._piece  # on one rank and so on all
        cells = padded(cells)
        size = None if cells.graph is None else (cells.graph.shape, cells.graph.nnz)
        if self.compile and size not in self.captured and equal:
            captured = capture(self.own_loss, self.parameters, cells, self.beta, self.asked, self.inductor)
            self.compile = all(self.ranks.gathered(captured is not None))
            self.captured |= {size: captured} if self.compile and captured is not None else {}
        if size in self.captured and equal:
            loss, gradients = self.captured[size](cells, self.beta)
            for parameter, gradient in zip(self.parameters, self.ranks.averaged(gradients), strict=True):
                parameter.grad = gradient
            return loss
        with native.used(bool(self.captured)):
            loss = self.loss(cells, self.beta, weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def _end(self, seconds: float) -> None:
        """End an epoch; after some, compute the ELBO of both sets of cells at KL weight 1, without dropout."""
        loss = self.summed.item() / len(self.train)
        self.epoch, self.step, self._minibatches = self.epoch + 1, 0, None
        self.summed.zero_()
        bounds, state = [math.nan, math.nan], self._copied()
        if self.epoch % self.every == 0 or self.epoch == self.epochs:
            bounds = [self._bound(cells) for cells in self.evaluated]
            if not math.isfinite(bounds[0]):
                self._give_up(bounds[0])
            self.sound, self.sound_epoch = state, self.epoch
        if self.patience is None and self.progress > 1 - self.average:
            self.mean.add(state)
        row = {"epoch": self.epoch, "loss": loss, "elbo_train": bounds[0], "elbo_held_out": bounds[1]}
        rate = self.optimiser.param_groups[0]["lr"]
        self.history.append({**row, "kl_weight": self.beta, "lr": rate, "seconds": seconds})
        if self.patience is not None and not math.isnan(bounds[1]) and self.progress >= self.warmup.settled:
            self._judge(self.patience)

    def _give_up(self, bound: float) -> None:
        """Go back to the last epoch with a finite bound, and raise NonFiniteLoss."""
        with evaluating(self.model, self.guide, self.seed, self.sample):
            first = self.sample.take(torch.arange(min(1024, len(self.sample))), self.hops)
            why = max(self.ranks.gathered(explain(self.model, self.guide, first, self.trained)), key=len)
        self.trained.load_state_dict(self.sound)
        bad, self.epoch = self.epoch, self.sound_epoch
        del self.history[self.epoch :]
        raise NonFiniteLoss(
            f"the training ELBO was {bound} at the end of epoch {bad}: {why}. The error's .fit is the last "
            f"good state, of epoch {self.epoch}. Look at the counts of these cells, or lower lr"
        )

    def _copied(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.trained.state_dict().items()}

    def _bounds(self, state: State) -> list[float]:
        """The bounds of training cells and of held-out cells in a state."""
        now = self._copied()
        self.trained.load_state_dict(state)
        bounds = [self._bound(cells) for cells in self.evaluated]
        self.trained.load_state_dict(now)
        return bounds

    def _bound(self, part: Cells | None) -> float:
        n, device = 0 if part is None else len(part), self.train.device
        with native.used(bool(self.captured)):
            elbo = math.nan if part is None else evaluate(self.model, self.guide, part, len(self.train), self.seed)
        return self.ranks.average(elbo, n, device)

    def _judge(self, patience: Patience) -> None:
        """Keep the state if it is the best since the warm-up; stop if the last better one is too long ago."""
        if self.epoch % patience.every:
            return
        watched = "elbo_held_out"
        if patience.watch is not None:
            watched = "watched"
            self.history[-1][watched] = self._watched(patience.watch)
        now = self.history[-1][watched]
        if math.isnan(now):
            return
        if self.best_epoch is None or now > self.history[self.best_epoch - 1][watched] + patience.least:
            self.best_epoch = self.epoch
            self.best = self.sound
        self.stopped_early = self.epoch - self.best_epoch >= patience.waits(self.epochs) and self.epoch < self.epochs

    def _watched(self, watch: Callable[[Model, Guide, Cells], float]) -> float:
        part, value = self.evaluated[1], math.nan
        if part is not None:
            with evaluating(self.model, self.guide, self.seed, part), native.used(bool(self.captured)):
                value = watch(self.model, self.guide, part)
        return self.ranks.average(value, 0 if part is None else len(part), self.train.device)

    def finish(self) -> None:
        """Go back to the best state, if one was kept; after a whole run, take the average of its last states."""
        if self.best is not None:
            self.trained.load_state_dict(self.best)
        elif self.mean.count and self.done:
            self.trained.load_state_dict(self.mean.state)
        self.ranks.unwrap(self.trained)
        self.trained.eval()

    # Saving and resuming

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run, as plain values."""
        asked = ("epochs", "batch_size", "accumulate", "lr", "average", "clip", "seed")
        shown = {name: repr(getattr(self, name)) for name in ("decay", "warmup", "patience")}
        names = [getattr(o, "__qualname__", None) or repr(o) for o in self.objectives]
        return {name: getattr(self, name) for name in asked} | shown | {"objectives": names}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and values from which ``restore`` continues (on a CPU: bitwise) as if the run had never stopped."""
        tensors = {f"trained.{name}": t for name, t in self.trained.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in (self.best or {}).items()}
        tensors |= {f"mean.{name}": t for name, t in self.mean.state.items()}
        tensors |= {f"part.{name}": t for name, t in self.means.mean.state.items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": t for name, t in moments.items()}
        tensors["summed"] = self.summed
        tensors["generator.shuffle"] = self.shuffle.get_state() if self._minibatches is None else self.shuffled_from
        tensors["generator.cpu"] = torch.get_rng_state()
        tensors["generator.device"] = generator_state(self.train.device)
        names = ("epoch", "step", "beta", "seconds", "history", "best_epoch", "stopped_early", "settled")
        averaged = {"averaged": [self.mean.count, self.means.mean.count], "mean_bounds": self.means.bounds}
        return tensors, {name: getattr(self, name) for name in names} | averaged

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.trained.load_state_dict(under("trained."))
        self.best = {name: t.to(self.train.device) for name, t in under("best.").items()} or None
        for average, prefix, count in zip(
            (self.mean, self.means.mean), ("mean.", "part."), values.pop("averaged"), strict=True
        ):
            average.state = {name: t.to(self.train.device) for name, t in under(prefix).items()}
            average.count = count
        self.means.bounds = values.pop("mean_bounds")
        self.sound, self.sound_epoch = self._copied(), values["epoch"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, t in under("optimiser.").items():
            i, moment = name.split(".", 1)
            moments.setdefault(int(i), {})[moment] = t
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for name, value in values.items():
            setattr(self, name, value)
        self.summed.copy_(tensors["summed"])
        self.shuffle.set_state(tensors["generator.shuffle"])
        torch.set_rng_state(tensors["generator.cpu"])
        set_generator_state(self.train.device, tensors["generator.device"])
