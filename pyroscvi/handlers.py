"""Effect handlers: changes to how a model runs, written beside the model and not in it.

    with temper(0.3):                          KL warm-up: log-densities of latents count for 0.3
    with intervene(perturbation=2):            every cell as if its perturbation had been level 2
    with intervene(dose=1.5):                  every cell as if its dose had been 1.5 standard deviations above the mean
    with unknown("perturbation", log_prior):   the condition as a latent, summed out exactly
    with as_scored():                          draws follow the density that scores them, even if they are no counts
    with Measured(measured):                   genes that were not measured are left out of p(x | z); ``Model`` does it

A condition of a cell (its batch, its dose) is not sampled but *read*: ``read(cells, "batch")`` for a category,
``read_covariate(cells, "dose")`` for a number. Reading is an effect, as sampling is, so that a handler can change its
result.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import block
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

from pyroscvi.pyro_internals import HANDLERS
from pyroscvi.sites import is_latent

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells


@effectful(type="read")
def _read(cells: "Cells", name: str, is_covariate: bool) -> Tensor:
    if is_covariate:
        return cells.covariate(name)
    return cells.categories[name] if name in cells.categories else _unknown_codes(cells)


def _unknown_codes(cells: "Cells") -> Tensor:
    """Codes of cells whose level is unknown [n]: -1."""
    return torch.full((len(cells),), -1, device=cells.device)


def read(cells: "Cells", name: str) -> Tensor:
    """Codes of the cells in the field ``name`` [n], -1 where unknown; handlers can change them."""
    return _read(cells, name, False, name=f"read {name}")


def read_covariate(cells: "Cells", name: str) -> Tensor:
    """Values of the cells in the covariate ``name`` [n], standardised by ``Fields``; handlers can change them.

    Raises KeyError for a covariate that was not read from the data.
    """
    return _read(cells, name, True, name=f"read covariate {name}")


class intervene(Messenger):
    """Set a condition by hand: ``intervene(batch=0)`` gives every cell the first batch [Pearl's do-operator].

    A whole number is the code of a level, another number a standardised value of a covariate.
    """

    def __init__(self, **levels: float | Tensor):
        super().__init__()
        self.levels = levels

    def _pyro_read(self, message: dict) -> None:
        cells, name, is_covariate = message["args"]
        if name not in self.levels:
            return
        value = torch.as_tensor(self.levels[name], device=cells.device)
        if is_covariate and (value.is_floating_point() or name not in cells.categories):
            value = value.to(cells.dtype)
        elif is_covariate or value.is_floating_point():  # a category and a covariate of one name: set the other one
            return
        message["value"] = value.expand(len(cells))
        message["done"] = True


class unknown(Messenger):
    """Make a condition a latent, c ~ Categorical(w), enumerated in parallel: its posterior is then Bayes' rule.

    Each cell has one such latent in a run of the model, however often the condition is read, inside the plate or
    outside: its value is taken from the trace of the run. Without a trace, as in ``guide.posteriors``, there is no
    latent, and the level is read as unknown.
    """

    def __init__(self, name: str, log_prior: Tensor):
        super().__init__()
        self.name, self.log_prior = name, log_prior

    def _pyro_read(self, message: dict) -> None:
        cells, name, is_covariate = message["args"]
        if name == self.name and not is_covariate:
            message["value"] = self._level(cells)
            message["done"] = True

    def _level(self, cells: "Cells") -> Tensor:
        """Codes of the cells: [n], or [levels, 1, ..] where they are enumerated."""
        run = next((frame.trace for frame in reversed(HANDLERS) if isinstance(frame, TraceMessenger)), None)
        if run is None:
            return _unknown_codes(cells)
        if self.name in run:
            drawn: Any = run.nodes[self.name]
            return drawn["value"]
        with _plate_of(cells):
            prior = dist.Categorical(logits=self.log_prior)
            return pyro.sample(self.name, prior, infer={"enumerate": "parallel"})


def _plate_of(cells: "Cells") -> Any:
    """The plate over cells, unless it is open. Its site is hidden, for the model enters a plate of the same name."""
    if any(isinstance(frame, pyro.plate) and frame.name == "cells" for frame in HANDLERS):
        return nullcontext()
    with block(hide=["cells"]):
        return cells.plate()


@effectful(type="others")
def _others() -> bool:
    return False


def others_are_given() -> bool:
    """Whether a cell is given the others of its tissue (``GivenOthers``), and not a draw of them."""
    return _others(name="others")


class GivenOthers(Messenger):
    """Let a prior of cells in tissue be the density of a cell given the others, with their posteriors averaged over.

    The density of all cells together, which an ELBO is a bound of, is a product over cells, each given a draw of those
    before it. The evidence of one cell needs one density that does not change from draw to draw.
    """

    def _pyro_others(self, message: Any) -> None:
        message["value"], message["done"] = True, True


class as_scored(Messenger):
    """Draw from the density of ``log_prob`` where ``sample`` draws from a more useful one.

    A Gaussian of log counts never samples a count below zero, but its density is positive there. A check of posteriors
    on simulated cells needs samples of the density itself.
    """

    def _pyro_sample(self, message: Any) -> None:
        if message["value"] is None and hasattr(message["fn"], "sample_as_scored"):
            message["value"] = message["fn"].sample_as_scored()


class Measured(Messenger):
    """Leave genes that were not measured out of the probability of x: a product over genes, independent given latents.

    measured   True for the genes of each cell that were measured                    [n, g]
    total      of these genes, if the model takes the observed total for the size of a cell [n, 1]
    """

    def __init__(self, measured: Tensor, total: Tensor | None = None):
        super().__init__()
        self.measured, self.total = measured, total

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] != "x":
            return
        message["fn"] = of_measured(message["fn"], self.measured, self.total)


def of_measured(fn: Any, measured: Tensor | None, total: Tensor | None) -> Any:
    """The distribution of the measured genes of a cell, from that of all genes. ``Measured`` has the arguments."""
    if measured is None:
        return fn
    if hasattr(fn, "among"):
        return fn.among(measured, total)
    if isinstance(fn, dist.Independent) and fn.reinterpreted_batch_ndims == 1:
        return fn.base_dist.mask(measured).to_event(1)
    raise TypeError(
        f"some genes of these cells were not measured, and {type(fn).__name__} cannot leave them out of x: use "
        "a likelihood of pyroscvi.parts, or a distribution of independent genes, .to_event(1)"
    )


class temper(Messenger):
    """Count the log-density of every latent ``beta`` times, inside any sum over enumerated sites.

    Around model and guide together this is the usual KL warm-up. Scaling densities rather than Pyro's ``scale`` keeps
    an observation and the discrete site it depends on in one factor, which Pyro refuses for unequal scales.
    """

    def __init__(self, beta: float | Tensor):
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, message: Any) -> None:
        idle = not isinstance(self.beta, Tensor) and self.beta == 1  # a tensor's value may not be known yet
        if not idle and is_latent(message):
            message["fn"] = Tempered(message["fn"], self.beta)


class Tempered(MaskedDistribution):
    """``base_dist`` with log-density ``beta * base_dist.log_prob``: a power of a density, left unnormalised.

    It masks nothing. Pyro's class is used because it takes samples, levels and the support from its base.
    """

    def __init__(self, base: Any, beta: float | Tensor):
        super().__init__(base, True)
        self.beta = beta

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Tempered":
        return Tempered(self.base_dist.expand(batch_shape), self.beta)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.beta * self.base_dist.log_prob(value)
