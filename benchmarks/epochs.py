"""Training an epoch at a time: ``Ours`` and ``Peer`` (scvi-tools) return the seconds of one epoch per call."""

import time
from collections.abc import Callable
from typing import Any

import torch
from anndata import AnnData
from torch import nn

import pyroscvi as ps
from pyroscvi.inference.run import Run
from pyroscvi.inference.schedules import CosineDecay, LinearWarmup
from pyroscvi.inference.seeds import seeded

__all__ = ["Ours", "Peer"]

CPU = torch.device("cpu")
Clock = Callable[[], float]


class Peer:
    """One epoch of scvi-tools per call: the faster of two epochs."""

    def __init__(
        self, adata: AnnData, likelihood: str, size: int, accelerator: str = "cpu", clock: Clock = time.process_time
    ):
        import scvi

        self.size, self.accelerator, self.clock = size, accelerator, clock
        scvi.settings.seed = 0
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        self.model = scvi.model.SCVI(adata, n_hidden=128, n_latent=10, n_layers=1, gene_likelihood=likelihood)

    def __call__(self) -> float:
        import lightning

        seconds, clock = [], self.clock

        class Stopwatch(lightning.pytorch.Callback):
            def on_train_epoch_start(self, *_: Any) -> None:
                self.began = clock()

            def on_train_epoch_end(self, *_: Any) -> None:
                seconds.append(clock() - self.began)

        quiet = {"enable_progress_bar": False, "logger": False, "train_size": 1.0}
        self.model.train(2, accelerator=self.accelerator, batch_size=self.size, callbacks=[Stopwatch()], **quiet)
        return min(seconds)


class Ours:
    """One epoch of ``fit`` per call, without the evaluations at its end."""

    def __init__(
        self, cells: ps.Cells, model: Any, guide: Any, size: int, compile: bool = False,
        device: torch.device = CPU, clock: Clock = time.process_time,
    ):  # fmt: skip
        self.device, self.clock = device, clock
        with seeded(0, device):
            model = model.sized(cells.dims)
            guide = guide.sized(model, cells)
            self.run = Run(
                model.to(device), guide.to(device), cells.to(device), held_out=None, epochs=10**6, batch_size=size,
                lr=1e-3, decay=CosineDecay(), warmup=LinearWarmup(0.1), patience=None, clip=100.0, objectives=(),
                seed=0, compile=compile,
            )  # fmt: skip
        self.flops = flops(self.run.trained)

    def __call__(self) -> float:
        began = self.clock()
        with seeded(0, self.device):
            for _ in range(self.run.steps - self.run.step - 1):  # stops before the end of the epoch, and its evaluation
                self.run.advance()
            self.run.step = 0
            self.run._minibatches = None
        return (self.clock() - began) * self.run.steps / (self.run.steps - 1)


def flops(trained: nn.ModuleDict) -> int:
    """Operations of the matrix products of one cell: y = W h, and the gradients in W and in h (not for counts)."""
    layers = [layer.weight.numel() for layer in trained.modules() if isinstance(layer, nn.Linear)]
    first = trained["guide"].encoder.layers.linear[0].weight.numel()
    return 6 * sum(layers) - 2 * first
