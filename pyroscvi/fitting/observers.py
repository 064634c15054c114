"""Observers of a fit: called with the fit as it is after every epoch. They change nothing.

fit(model, guide, cells, observers=[Checkpoints("checkpoints", every=10), TensorBoard("events")])
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pyroscvi.advice import either
from pyroscvi.fitting.result import Fit

Observer: TypeAlias = Callable[[Fit], Any]


@dataclass(frozen=True)
class Checkpoints:
    """Keeps the fit after every so many epochs: ``epoch_0010.safetensors``, which ``ps.load`` reads."""

    folder: str | Path
    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a checkpoint is kept after every n epochs, with n at least 1, not {self.every}")

    def __call__(self, fit: Fit) -> None:
        epoch = len(fit.history)
        if epoch % self.every == 0:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            fit.save(Path(self.folder) / f"epoch_{epoch:04}.safetensors")


@dataclass
class TensorBoard:
    """Writes the history as event files for TensorBoard: ``tensorboard --logdir FOLDER``."""

    folder: str | Path
    writer: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            what = either("TensorBoard(...)", "--tensorboard")
            raise ImportError(f"{what} needs the package tensorboard: pip install tensorboard") from error
        self.writer = SummaryWriter(str(self.folder))

    def __call__(self, fit: Fit) -> None:
        last = fit.history.iloc[-1]
        for name, value in last.drop("epoch").dropna().items():
            self.writer.add_scalar(str(name), float(value), int(last["epoch"]))
        self.writer.flush()
