"""``fit``: fit a guide and a model to cells by stochastic variational inference."""

import copy
import math
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyro
import torch

from pyroscvi import __version__, advice
from pyroscvi.data.cells import Cells
from pyroscvi.fitting.observers import Observer
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.resume import Folder, identity
from pyroscvi.inference.diagnosis import NonFiniteLoss, unfit
from pyroscvi.inference.distributed import Ranks
from pyroscvi.inference.loss import Objective
from pyroscvi.inference.progress import watched
from pyroscvi.inference.run import MAX_EVALUATED, Run
from pyroscvi.inference.schedules import CosineDecay, LinearWarmup, Patience, Schedule
from pyroscvi.inference.seeds import seeded
from pyroscvi.part import Part, hops_of
from pyroscvi.program import Guide, Model
from pyroscvi.pyro_internals import alone

PACKAGES = {"torch": torch, "pyro-ppl": pyro, "numpy": np}
MAX_JUDGED = 1_000  # cells of ``validation`` whose ELBO is computed after an epoch


@alone
def fit(
    model: Model,
    guide: Guide,
    cells: Cells,
    *,
    epochs: int | None = None,
    batch_size: int = 128,
    accumulate: int = 1,
    lr: float = 6e-3,
    scale_lr: bool = False,
    decay: CosineDecay = CosineDecay(),
    warmup: float | Schedule = 0.1,
    early_stopping: bool | Patience = False,
    validation: float | Cells | None = None,
    average: float = 0.5,
    clip: float = 100.0,
    objectives: Sequence[Objective] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    folder: str | Path | Folder | None = None,
    distributed: bool = True,
    compile: bool | Literal["auto", "trace"] = "auto",
    observers: Sequence[Observer] = (),
) -> Fit:
    """Fit a model and its guide to cells.

    model, guide    declarations, which are sized on the cells; or sized ones, of which a copy is trained further
    cells           the cells to fit to
    epochs          passes over the cells; None is ``default_epochs``
    batch_size      cells in a minibatch, which processes that share a fit divide among them
    accumulate      minibatches whose gradients are averaged for one step: ``batch_size=32, accumulate=4`` takes steps
                    of 128 cells in the memory of 32
    lr              largest learning rate of Adam
    scale_lr        lr is meant for steps of 128 cells: scale it to the cells of a step, with ``scaled``
    decay           how the learning rate falls over the run; ``CosineDecay(end=1)`` keeps it constant
    warmup          the fraction of the run in which the KL weight rises from 0 to 1, or a ``Schedule``
    early_stopping  True: after the warm-up, stop when the held-out ELBO no longer improves, and keep the best state;
                    ``Patience(watch=HeldOutEvidence(), every=5)``: when the held-out evidence no longer does.
                    The default is to train for all ``epochs``, while the learning rate falls
    validation      cells that the fit is not fitted to, such as those of a later comparison: the history has the ELBO
                    of up to 1,000 of them, after every epoch, or now and then where epochs are short.
                    ``Fit.converged`` is judged by them; this changes no parameter. Or the fraction of ``cells`` to hold
                    out for this, from every batch, at most 10,000 cells. None is a tenth with early stopping, and
                    otherwise 0
    average         fraction of the run, at its end, over whose epochs parameters are averaged; 0 keeps the last state.
                    Early stopping keeps the best state
    clip            largest norm of the gradient of the loss per cell
    objectives      terms that are added to the loss, or change it: ``pyroscvi.inference.objectives``
    seed            of all random numbers; global generators stay untouched
    device          "cpu", "cuda", "mps", or "auto" for the fastest available
    progress        show a progress bar, or a line every half minute where output is not a terminal
    folder          write checkpoints here, and resume from the one in it
    distributed     under ``torchrun``, share every minibatch with the other processes; all get the same fit
    compile         compile the training step as one graph: the same fit up to rounding, several times as fast after
                    half a minute or so; if compiling fails, a warning says why and the fit continues without.
                    "trace": record the step as one graph, and do not compile it: twice as fast after a second.
                    "auto": compile or record it where that saves more time than it takes: compile for a billion counts
                    read, record for a thousand steps
    observers       called with the fit as it is after every epoch: ``Checkpoints(folder, every=10)`` keeps it,
                    ``TensorBoard(folder)`` writes its history

    Ctrl-C ends a fit early and returns it as it is, with a warning. ``NonFiniteLoss`` (a ValueError) is raised instead
    of a step that would make parameters NaN; its ``fit`` is the last good state. A second thread waits for the first.
    """
    _check_programs(model, guide)
    _check(cells, guide, epochs, batch_size, lr, average)
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate is a number of minibatches, at least 1, not {accumulate!r}")
    _check_validation(validation, cells, early_stopping)
    ranks = Ranks.here(distributed)
    place, seed, batch_size = ranks.device(_device(device)), int(seed), int(batch_size) * accumulate  # of a step
    with seeded(seed, place):
        fresh = not _is_sized(model)
        model, guide = _sized(model, guide, cells, place)
        objectives = [_sized_objective(objective, guide, cells, place) for objective in objectives]
        patience = _patience(early_stopping)
        if validation is None:
            validation = 0.1 if patience else 0.0
        train, held_out = _split(cells.to(place), validation, seed, hops_of(model, guide))
        epochs = default_epochs(len(train), batch_size) if epochs is None else int(epochs)
        schedule = warmup if isinstance(warmup, Schedule) else LinearWarmup(warmup)
        lr = scaled(lr, batch_size, len(train)) if scale_lr else lr
        run = Run(
            model, guide, train, held_out, epochs, batch_size, lr, decay, schedule, patience, clip, objectives, seed,
            average=average, ranks=ranks, compile=compile, fresh=fresh, accumulate=accumulate,
        )  # fmt: skip
        ranks.check_same(lambda: identity(run, cells))
        notes = folder if isinstance(folder, Folder | None) else Folder(folder)
        if notes is not None and (checkpoint := ranks.from_first(lambda: notes.open(run, cells))):
            run.restore(*checkpoint)
        trouble = _train(run, notes, progress, observers, cells)
        run.finish()
    result = _result(run, cells, interrupted=trouble is not None)
    if notes is not None:
        ranks.from_first(lambda: notes.close(result))
    if isinstance(trouble, NonFiniteLoss):
        trouble.fit = result
        raise trouble
    return result


def _train(
    run: Run, notes: Folder | None, progress: bool, observers: Sequence[Observer], cells: Cells
) -> BaseException | None:
    """Train to the end. Returns the error or the interrupt that ended training early, if any."""
    with run.ranks.listening(), watched(run, progress and run.ranks.first) as look:
        try:
            while not run.done:
                run.advance()
                look()
                if notes is not None and run.ranks.first:
                    notes.keep(run)
                if observers and run.step == 0 and run.ranks.first:
                    now = _result(run, cells, interrupted=not run.done)
                    for observer in observers:
                        observer(now)
            if run.ranks.alone and run.ranks.interrupted:  # after the last step
                raise KeyboardInterrupt
        except NonFiniteLoss as error:
            return error
        except KeyboardInterrupt as error:
            if run.ranks.first:
                epoch = min(run.epoch + 1, run.epochs)
                warnings.warn(
                    f"interrupted in epoch {epoch} of {run.epochs}: the fit is the state of that moment", stacklevel=3
                )
            return error
    return None


def _check_programs(model: Any, guide: Any) -> None:
    """TypeError for what is not a model and a guide, with what to write instead."""
    if isinstance(model, Guide) and isinstance(guide, Model):
        raise TypeError("the model comes first, then its guide: write fit(model, guide, cells)")
    for what, value, kind in (("model", model, Model), ("guide", guide, Guide)):
        if isinstance(value, type) and issubclass(value, kind):
            raise TypeError(f"fit takes a {what}, not the class {value.__name__}: write {value.__name__}()")
        if not isinstance(value, kind):
            example = "SCVI()" if kind is Model else "MeanField()"
            raise TypeError(f"fit takes a {what} such as {example}, not {value!r}: write fit(model, guide, cells)")


def _check(cells: Cells, guide: Guide, epochs: int | None, batch_size: int, lr: float, average: float) -> None:
    if not isinstance(cells, Cells):
        raise TypeError(f"fit takes Cells, not {type(cells).__name__}: read them first, Fields(...).read(adata)")
    if not len(cells):
        raise ValueError("there are no cells to fit to")
    if guide.encoder.hops and (cells.graph is None or not cells.graph.nnz):
        raise ValueError(
            f"{type(guide).__name__} reads a cell with its neighbours, and these cells have no graph of neighbours: "
            f"read their coordinates with {advice.field('spatial')}, or choose a guide that reads each cell alone"
        )
    if problem := unfit(cells):
        raise ValueError(f"these cells cannot be fitted: {problem}. Read them with Fields(...), which checks them")
    if (epochs is not None and epochs < 1) or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"epochs, batch_size and lr must be positive numbers, not {epochs}, {batch_size} and {lr}")
    if not 0 <= average <= 1:
        raise ValueError(f"average is the fraction of the run that is averaged, in [0, 1], not {average}")


def _check_validation(validation: float | Cells | None, cells: Cells, early_stopping: bool | Patience) -> None:
    if not isinstance(validation, Cells):
        if validation is not None and not 0 <= validation < 1:
            raise ValueError(f"validation is the fraction of cells that is held out, in [0, 1), not {validation}")
        return
    if early_stopping:
        raise ValueError("early stopping would choose the state that suits these cells: give a fraction as validation")
    if validation.counts.shape[1] != cells.counts.shape[1] or not len(validation):
        shape = f"{len(validation)} cells of {validation.counts.shape[1]} genes"
        raise ValueError(f"validation has {shape}: it takes cells with the {cells.counts.shape[1]} genes of the others")
    if problem := unfit(validation):
        raise ValueError(f"the cells of validation cannot be evaluated: {problem}")


def default_epochs(cells: int, batch_size: int = 128) -> int:
    """60 epochs up to 20,000 cells, then fewer in proportion down to 10; but at least as many as give 1,000 steps.

    docs/training.md shows what more epochs and fewer would do.
    """
    steps = math.ceil(cells / batch_size)
    return max(min(round(20_000 / cells * 60), 60), 10, math.ceil(1_000 / steps))


def scaled(lr: float, batch_size: int, cells: int) -> float:
    """lr for minibatches of another size than 128: by the square root of the ratio, up to a factor of 8.

    Adam divides by the noise of gradients, which falls with the square root [Malladi et al., 2022, arXiv:2205.10287].
    In proportion [Goyal et al., 2017, arXiv:1706.02677] a fit that is cut short gets farther, and one that is not ends
    less well: docs/benchmarks.md, "Larger minibatches".
    """
    return lr * min(min(batch_size, cells) / min(128, cells), 8.0) ** 0.5


def _sized(model: Model, guide: Guide, cells: Cells, device: torch.device) -> tuple[Model, Guide]:
    """Copies of both with parameters, on the device, in the precision of the cells."""
    if _is_sized(guide) and not _is_sized(model):
        raise ValueError("this guide was sized on a model with parameters: hand over that model, not a declaration")
    model, guide = copy.deepcopy((model, guide))  # together: a prior may refer to the guide
    cells = cells.to("cpu")
    if not _is_sized(model):
        model = model.sized(cells.dims)
    model = model.to("cpu", cells.dtype)
    if not _is_sized(guide):
        guide = guide.sized(model, cells)
    elif cells.panels is not None:  # it now learns to read these, too
        guide.panels = torch.cat([guide.panels.cpu(), cells.panels]).unique(dim=0)
    return model.to(device), guide.to(device, cells.dtype)


def _sized_objective(objective: Objective, guide: Guide, cells: Cells, device: torch.device) -> Objective:
    """An objective that is a part, with parameters; any other as it is."""
    if not isinstance(objective, Part) or _is_sized(objective):
        return objective
    return objective.sized(guide, cells.dims).to(device, cells.dtype)


def _is_sized(program: Part) -> bool:
    return next(chain(program.parameters(), program.buffers()), None) is not None


def _split(cells: Cells, validation: float | Cells, seed: int, hops: int = 0) -> tuple[Cells, Cells | None]:
    """Cells to fit to, and cells that are held out if there are any."""
    if isinstance(validation, Cells):
        judged = validation.to(cells.device, cells.dtype)
        many = len(judged) > MAX_JUDGED
        spread = torch.linspace(0, len(judged) - 1, MAX_JUDGED).long()
        return cells, judged.subset(spread, hops) if many else judged
    if round(validation * len(cells)) < 1:
        return cells, None
    by = None if cells.batch is None else "batch"
    return cells.split(min(validation, MAX_EVALUATED / len(cells)), by, seed, hops=hops)


def _patience(early_stopping: bool | Patience) -> Patience | None:
    if isinstance(early_stopping, Patience):
        return early_stopping
    if not isinstance(early_stopping, bool):
        raise TypeError(f"early_stopping is True, False or a Patience, not {early_stopping!r}")
    return Patience() if early_stopping else None


def _device(device: str | torch.device) -> torch.device:
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if str(device) == "auto":
        return torch.device(next(kind for kind, is_usable in usable.items() if is_usable))
    kinds = f"{', '.join(kind for kind in usable if usable[kind])}; 'auto' picks the fastest"
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{str(device)!r} is no device: this machine has {kinds}") from error
    if not usable.get(asked.type, True):
        raise ValueError(f"this machine, or its PyTorch, has no {asked.type!r}: it has {kinds}")
    return asked


def _result(run: Run, cells: Cells, interrupted: bool) -> Fit:
    """The fit that a finished run has made."""
    last = run.history[-1] if run.history else {}
    record = {
        "seed": run.seed,
        "epochs": run.epoch,
        "kl_weight": last.get("kl_weight"),
        "best_epoch": run.best_epoch,
        "stopped_early": run.stopped_early,
        "mean_bounds": run.means.by_name(),
        "interrupted": interrupted,
        "seconds": run.seconds,
        "cells": {"train": len(run.train), "held_out": 0 if run.held_out is None else len(run.held_out)},
        "settings": run.settings,
        "levels": level_counts(cells),
        "panels": [row.nonzero().flatten().tolist() for row in run.guide.panels if not row.all()],
        "genes": None if cells.genes is None else [str(gene) for gene in cells.genes],
        "versions": {"pyroscvi": __version__, **{name: str(package.__version__) for name, package in PACKAGES.items()}},
    }
    return Fit(run.model, run.guide, cells.fields, cells.dims, pd.DataFrame(run.history), record)


def level_counts(cells: Cells) -> dict[str, dict[str, int]]:
    """The number of cells of every level of every categorical field, by name."""
    counts = {}
    for field, names in cells.levels.items():
        codes = cells.categories.get(field, torch.empty(0))
        counts[field] = {name: int((codes == code).sum()) for code, name in enumerate(names)}
    return counts
