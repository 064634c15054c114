"""The two kinds of page in the zoo: models and guides.

A program announces its parameters to Pyro when it is called, so that plain ``pyro.infer.SVI`` trains it, and leaves the
global parameter store alone: two programs in one session never share, freeze or overwrite each other's parameters.
"""

import re
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol

import pyro
import pyro.distributions as dist
import torch
from anndata import AnnData
from pyro import poutine
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyroscvi.advice import either, field
from pyroscvi.data.cells import Cells, Dims
from pyroscvi.data.fields import Fields
from pyroscvi.data.panels import panels_with, seen
from pyroscvi.handlers import Measured
from pyroscvi.part import Part, hops_of, parts_of
from pyroscvi.parts.encoders import Encoder, ReadCell
from pyroscvi.parts.priors import Prior
from pyroscvi.parts.shared import Shared
from pyroscvi.parts.sizes import Size
from pyroscvi.pyro_internals import alone
from pyroscvi.sites import is_latent, is_local, sampled

NARROW = -2.0  # before a softplus: posteriors of shared latents start with standard deviations of about 0.1
FILL_ROUNDS = 2  # rounds in which a guide fills in counts that were not measured: docs/missing_genes.md


class Program(Part):
    """A part that can be called as a Pyro program. Each call announces its parameters to Pyro."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name, parameter in self.named_parameters():
            _announce(name, parameter)
        return super().__call__(*args, **kwargs)


def _announce(name: str, parameter: nn.Parameter) -> None:
    """Send the message of ``pyro.param``, from which SVI reads the parameter, without using the parameter store."""

    def value(*_: Any, **__: Any) -> Tensor:
        seen = parameter.view_as(parameter)
        seen.unconstrained = lambda: parameter  # type: ignore[attr-defined]
        return seen

    effectful(type="param")(value)(name, name=name, constraint=constraints.real)


class Model(Program):
    """A generative process: ``model(cells)`` samples every latent and observes ``cells.x``.

    A page declares slots and writes its generative process in ``model``. ``build`` sizes the slots with these names:
    ``prior``, ``condition``, ``size``, ``decoder`` and ``likelihood``. Its field ``latent`` is the width of z.
    """

    observes: ClassVar[str] = "x"

    @property
    def estimand(self) -> str:
        """``p(x)``; or ``p(x | l)`` where l is a cell's observed total: no density over x, as x determines l.

        Under ``Field`` or ``Coupling`` a cell is also given others of its tissue: ``p(x | l, others)``.
        """
        others = sorted({part.given for part in parts_of(self) if not isinstance(part, Size)})
        given = ", ".join(filter(None, (self._given, *others)))
        return f"p({self.observes}{' | ' + given if given else ''})"

    @property
    def _given(self) -> str:
        return "".join(part.given for part in self.children() if isinstance(part, Size) and self._of_counts)

    @property
    def _of_counts(self) -> bool:
        return getattr(getattr(self, "likelihood", None), "of_counts", True)

    def _check_values(self, real: bool) -> None:
        """ValueError if cells hold values that are not counts, and this model explains counts."""
        if real and self._of_counts:
            raise ValueError(
                f"these cells hold values that are not counts, and {self!r} explains counts: fit a page with "
                f"{either('likelihood=Normal()', '--likelihood normal')}, or read the counts, {field('counts')}"
            )

    @property
    def width(self) -> int:
        """The number of inputs of the decoder, besides the design row."""
        return self.latent

    def build(self, dims: Dims) -> None:
        """Size the slots of this page. A page with its own parameters creates them after ``super().build(dims)``."""
        self._check_values(dims.real)
        slots: dict[str, Any] = dict(self.named_children())
        for name in ("condition", "size", "likelihood"):
            if name in slots:
                slots[name] = slots[name].sized(dims)
        if "prior" in slots:
            slots["prior"] = slots["prior"].sized(self.latent)
        if "decoder" in slots:
            if slots["decoder"].of_proportions and not getattr(slots.get("prior"), "proportions", False):
                raise ValueError(
                    f"{slots['decoder']!r} needs a prior of proportions, such as Dirichlet() or LogisticNormal(), and "
                    f"{type(self).__name__} has {slots.get('prior', 'none')!r}, under which states may be negative"
                )
            width = slots["condition"].width if "condition" in slots else 0
            heads = slots["likelihood"].heads
            slots["decoder"] = slots["decoder"].sized(dims, latent=self.width, conditions=width, heads=heads)
        for name, part in slots.items():
            setattr(self, name, part)

    def model(self, cells: Cells) -> None:
        raise NotImplementedError

    def forward(self, cells: Cells) -> None:
        self._check_values(cells.real)
        cells.check_hops(hops_of(self), self)
        with ExitStack() as drawn:
            for part in self.modules():
                if isinstance(part, Shared):  # shared by all cells, so drawn outside their plate
                    drawn.enter_context(part.drawn())
                if isinstance(part, Prior):
                    drawn.enter_context(part.among(cells))
            if cells.measured is not None:
                drawn.enter_context(Measured(cells.measured, cells.library if self._given else None))
            return self.model(cells)


class Guide(Program):
    """An amortised posterior: ``guide(cells)`` samples the continuous latents of a model.

    A guide has an encoder, which reads cells, and a family of distributions. A page defines the family by ``head``
    (computes its parameters) and ``posterior`` (the distribution with these parameters). The sites are found by running
    the model once, so any guide can be used with any model. Latents shared by all cells have the same family. Their
    parameters are learned directly and do not depend on a cell.

    An encoder reads a count of zero where a gene was not measured. It has learned what that means for the panels of the
    cells that it was trained on. For cells of another panel, the counts that the model expects are filled in, and the
    encoder reads the cells again (not if it reads neighbours).
    """

    encoder: Encoder = ReadCell()

    def build(self, model: Model, cells: Cells) -> None:
        self.models = (model,)  # in a tuple, as its parameters are not those of the guide
        self.register_buffer("panels", panels_with(cells.panels, cells.dims.genes), persistent=False)
        self.sites = free_sites(model, cells)
        if self._reads_cells:
            observed = cells.dims if "proteins" in model.observes else replace(cells.dims, proteins=0)
            self.encoder = self.encoder.sized(observed)
        widths = {name: self.encoder.width if site.local else 1 for name, site in self.sites.items()}
        self.heads = nn.ModuleDict({name: self.head(widths[name], site.size) for name, site in self.sites.items()})
        for name, site in self.sites.items():
            if not site.local:
                _start_narrow(self.heads[name], site.start)
            elif not _is_real(site.support):
                _start_at(self.heads[name], site.start)
        for part in model.modules():
            if isinstance(part, Part):
                part.follow(self, cells)

    @property
    def _reads_cells(self) -> bool:
        """Whether a latent belongs to a cell. If none does, the guide has no encoder with parameters."""
        return any(site.local for site in self.sites.values())

    def head(self, width: int, size: int) -> nn.Module:
        """A module from the encoder's output [..., width] to the family's parameters for a site of ``size`` numbers.

        The location comes first in the output of its last linear layer, then the scale before its softplus, so that a
        site can start at its prior.
        """
        raise NotImplementedError

    def posterior(self, parameters: Any) -> dist.TorchDistribution:
        """The distribution with these parameters, over unconstrained vectors."""
        raise NotImplementedError

    def posteriors(self, cells: Cells) -> dict[str, dist.TorchDistribution]:
        """q of every site, over unconstrained vectors. Batch shape: [n], or [] for a latent shared by all cells."""
        q = self.from_counts(cells)
        if cells.measured is None or self.training or self.encoder.hops or not self._reads_cells:
            return q
        filled_in = ~cells.measured & ~seen(cells, self.panels).unsqueeze(-1)
        for _ in range(FILL_ROUNDS if filled_in.any() else 0):
            counts = torch.where(filled_in, self._expected(cells, q), cells.x)
            q = self.from_counts(replace(cells, counts=counts))
        return q

    def _expected(self, cells: Cells, q: dict[str, dist.TorchDistribution]) -> Tensor:
        """The counts that the model expects at the centres of q [n, g]; discrete sites are summed over."""
        means = {name: biject_to(self.sites[name].support)(centre(posterior)) for name, posterior in q.items()}
        (model,) = self.models
        conditioned = poutine.enum(poutine.condition(model, data=means), first_available_dim=-2)
        with torch.no_grad(), poutine.block():
            sites: Any = sampled(poutine.trace(conditioned).get_trace(cells).nodes)
            log_p = sum(site["fn"].log_prob(site["value"]) for site in sites.values() if is_local(site))
            levels = log_p.reshape(-1, len(cells)).softmax(0).unsqueeze(-1)
            x = sites["x"]["fn"].mean
            return (levels * x.expand(*log_p.shape, -1).reshape(len(levels), *x.shape[-2:])).sum(0)

    def from_counts(self, cells: Cells) -> dict[str, dist.TorchDistribution]:
        """q of every site, from the counts as they are: ``posteriors`` fills in those that were not measured."""
        nothing = torch.ones(1, dtype=cells.dtype, device=cells.device)
        h = self.encoder(cells) if self._reads_cells else nothing
        return {
            name: self.posterior(self.heads[name](h if site.local else nothing)) for name, site in self.sites.items()
        }

    def guide(self, cells: Cells) -> None:
        q = {name: onto(self.sites[name].support, posterior) for name, posterior in self.posteriors(cells).items()}
        for name, site in self.sites.items():
            if not site.local:
                pyro.sample(name, q[name])
        with cells.plate():
            for name, site in self.sites.items():
                if site.local:
                    pyro.sample(name, q[name])

    def single(self):
        return [p for name, site in self.sites.items() if not site.local for p in self.heads[name].parameters()]

    def forward(self, cells: Cells) -> None:
        return self.guide(cells)


class Fitted(Protocol):
    """What the rest of the library uses of a ``Fit``: a trained model and guide, and how to read cells."""

    model: Model
    guide: Guide
    fields: Fields | None
    dims: Dims
    record: dict[str, Any]

    @property
    def hops(self) -> int: ...

    @property
    def genes(self) -> tuple[str, ...]: ...

    @property
    def levels(self) -> dict[str, tuple[str, ...]]: ...

    @property
    def covariates(self) -> dict[str, tuple[float, float]]: ...

    def read(self, data: Cells | AnnData) -> Cells: ...

    def recognise(self, cells: Cells) -> None: ...


Pair = tuple[Model, Guide]


class Site(NamedTuple):
    """A continuous latent site.

    support  the support of its prior
    size     the number of its unconstrained coordinates
    local    True if every cell has its own value, False if all cells share one
    start    the location, in unconstrained space, at which the guide starts [size]
    """

    support: constraints.Constraint
    size: int
    local: bool
    start: Tensor


@alone
def free_sites(model: Model, cells: Cells) -> dict[str, Site]:
    """The continuous latents of a model, found by running it once on two cells."""
    sites: dict[str, Site] = {}
    for name, site in _run_on_two(model, cells).items():
        if not is_latent(site) or site["infer"].get("enumerate"):
            continue
        support = site["fn"].support
        if support.is_discrete:
            raise ValueError(
                f'site {name!r} is discrete: sum it out with infer={{"enumerate": "parallel"}} in the model'
            )
        if support.event_dim != 1:
            raise ValueError(f"site {name!r}: a guide covers vectors; call .to_event(1) or reshape it")
        start = _middle(site["fn"])
        sites[name] = Site(support, len(start), is_local(site), start)
    return sites


@alone
def enumerated_levels(model: Model, cells: Cells) -> dict[str, int]:
    """The number of levels of every discrete site of a cell that the model sums out, from running it on two cells."""
    summed = [(n, s) for n, s in _run_on_two(model, cells).items() if s["infer"].get("enumerate") and is_local(s)]
    return {name: len(site["fn"].enumerate_support(expand=False)) for name, site in summed}


def _run_on_two(model: Model, cells: Cells) -> dict[str, Any]:
    """The sample sites of a run of the model on two cells, which leaves torch's generator as it was."""
    two = cells.take(torch.arange(min(2, len(cells))), hops_of(model))
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        try:
            return sampled(poutine.trace(model).get_trace(two).nodes)
        except RuntimeError as error:
            if twice := re.match(r"Multiple sample sites named '(\w+)'", str(error)):
                raise ValueError(
                    f"{type(model).__name__} samples two sites {twice[1]!r}: a part in one of its slots has a site of "
                    f"this name. Give that of the page another name: {model!r}"
                ) from error
            raise


def _middle(prior: Any) -> Tensor:
    """The centre of a prior in unconstrained space: zero if its support is real, else the mean of 100 draws."""
    if _is_real(prior.support):
        return torch.zeros(prior.event_shape)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draws = biject_to(prior.support).inv(prior.sample(torch.Size([100])))
    return draws.flatten(0, -2).mean(0)


def centre(q: Any) -> Tensor:
    """The mean of a posterior; of a flow, where it takes the mean of its base."""
    if not isinstance(q, dist.TransformedDistribution):
        return q.mean
    return torch.distributions.ComposeTransform(q.transforms)(q.base_dist.mean)


def _start_at(head: nn.Module, location: Tensor) -> Any:
    """Set the head so that the posterior starts near its prior: with an exponential link, a random start diverges."""
    *_, last = (module for module in head.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        last.weight *= 0.1
        last.bias[: len(location)] += location
    return last


@torch.no_grad()
def _start_narrow(head: nn.Module, location: Tensor) -> None:
    """Start near the centre of the prior and narrow: every cell has information about a shared latent."""
    last = _start_at(head, 10 * location)
    last.bias *= 0.1
    last.bias[len(location) : 2 * len(location)] += NARROW


def _is_real(support: constraints.Constraint) -> bool:
    return isinstance(getattr(support, "base_constraint", support), type(constraints.real))  # a copy is another object


def onto(support: constraints.Constraint, q: dist.TorchDistribution) -> dist.TorchDistribution:
    """The posterior q, transformed from unconstrained space to the support of its site."""
    if _is_real(support):
        return q
    return dist.TransformedDistribution(q, [biject_to(support)])
