"""The joint density of a whole data set and the latents that its cells share, each cell's own latents integrated out.

    p(x_1 .. x_N, u) = p(u) prod_n p(x_n | u),      p(x_n | u) = int p(x_n, z_n | u) dz_n

Given u the cells are independent, as if u were parameters of the page. So the integral of a cell is the one of
``log_evidence``, by importance sampling about the mode of z_n. Its estimate is unbiased, hence so is the product over
cells, and weights with this estimate have the mean p(x_1 .. x_N) as exact ones have [pseudo-marginal; Andrieu &
Roberts, 2009]. With K draws a cell, each of relative variance v, the variance of the log-weights is larger by N v / K.

References
    Andrieu, C. & Roberts, G. O. (2009) The pseudo-marginal approach for efficient Monte Carlo computations. Ann Stat
    37, 697-725. doi:10.1214/07-AOS574
    Chopin, N., Jacob, P. E. & Papaspiliopoulos, O. (2013) SMC^2: an efficient algorithm for sequential analysis of
    state space models. J R Stat Soc B 75, 397-426. arXiv:1101.1528
"""

import copy
from collections.abc import Callable, Mapping
from math import log
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from pyroscvi.data.cells import Cells
from pyroscvi.evidence.coordinates import Coordinates
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.proposals import Elliptical, Proposal, together
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.streams import Streams
from pyroscvi.part import hops_of
from pyroscvi.program import Guide, Site
from pyroscvi.sites import is_local, is_sampled

INNER, SEARCH = 201, 202  # purposes of streams
STEPS_FROM_GUIDE, STEPS_FROM_MODE = 12, 4  # Newton steps, from the guide's mean and from the mode at a nearby u
GRADIENT_ROWS = 8  # draws whose gradients the search for modes computes at once


class RestrictedGuide(nn.Module):
    """A guide with some of its sites: those with one value for each cell (``local``), or the others.

    Posteriors of shared latents get batch shape [1], as if they were the latents of one cell.
    """

    def __init__(self, guide: Any, *, local: bool):
        super().__init__()
        self.guide, self.encoder = guide, getattr(guide, "encoder", None)
        self.sites, self.local = sites_of(guide, local), local

    def posteriors(self, cells: Cells) -> dict[str, Any]:
        q = self.guide.posteriors(cells)
        return {name: q[name] if self.local else q[name].expand((1,)) for name in self.sites}


def sites_of(guide: Guide, local: bool) -> dict[str, Site]:
    """The sites of a guide that have one value for each cell, or those that cells share."""
    return {name: site for name, site in guide.sites.items() if site.local == local}


class Shared:
    """log p(x_1 .. x_N, u) [..., m] of latents u [..., m, size] that cells share; every call is a new estimate.

    model  a Pyro program of cells
    guide  of its continuous latents, shared ones and those of single cells
    cells  all of them
    draws  of each cell's own latents, for every cell at every u
    rows   draws, over all cells, that fit into memory at once
    """

    def __init__(self, model: Any, guide: Guide, cells: Cells, draws: int = 64, rows: int = 1024, seed: int = 0):
        with torch.no_grad():
            q = together(RestrictedGuide(guide, local=True), cells)
        self.model, self.cells, self.draws = model, cells, draws
        self.own = sites_of(guide, local=True)
        self.coordinates = Coordinates(sites_of(guide, local=False), cells.dtype)
        self.origin = Coordinates(self.own, cells.dtype).values(torch.zeros_like(q.loc[:1]))
        self.size = self.coordinates.size
        self.visited = torch.zeros(1, self.size).to(q.loc)
        self.q = Elliptical(q.loc[None], q.scale_tril[None])  # [visited u, n, ...]
        self.proposal: Proposal = Refined(steps=STEPS_FROM_GUIDE)
        self.streams, self.common = Streams(seed, torch.arange(len(cells)), INNER), False
        self.chunk = max(1, rows // max(draws, GRADIENT_ROWS)) if self.own else rows
        self._check()

    def fixed(self, draws: int) -> "Shared":
        """This density with the same random numbers at every u: smooth, as a search needs, and no longer unbiased."""
        other = copy.copy(self)
        other.draws, other.common = draws, True
        return other

    def __call__(self, u: Tensor) -> Tensor:
        pieces = [self.log_prior(piece) + self.of_cells(piece).sum(-1) for piece in u.flatten(0, -2).split(self.chunk)]
        return torch.cat(pieces).view(u.shape[:-1])

    def log_prior(self, u: Tensor) -> Tensor:
        """log p(u) [t]: of all sites outside the plate over cells."""
        total = self.coordinates.log_volume(u)
        for node in self._outside(self._values(u)).values():
            total = total + scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"]).flatten()
        return total

    def of_cells(self, u: Tensor, truth: Tensor | None = None) -> Tensor:
        """Estimates of log p(x_n | u_t) [t, n]. ``truth``, posterior draws z [n, d], replaces one of the draws."""
        given = Given(self._conditioned, self._values(u), self.own, self.cells)
        t, n = len(u), len(self.cells)
        if not self.own:
            return given(u.new_zeros(1, t * n, 0)).view(t, n)
        with torch.no_grad():
            draws = self._proposed(u.detach())
            streams = self.streams.anew(SEARCH) if self.common else self.streams
            z = draws.sample(Noise(streams, t, self.common), self.draws)
            if truth is not None:
                z[0] = truth.repeat(t, 1)
            log_q = draws.log_prob(z)
        log_w = given(z) - log_q
        return (log_w.logsumexp(0) - log(self.draws)).view(t, n)

    @torch.no_grad()
    def at(self, u: Tensor) -> "Shared":
        """This density, with searches for the modes of z_n that start from the mode at the nearest of these u [t]."""
        if not self.own:
            return self
        other = copy.copy(self)
        loc, scale = [], []
        for piece in u.split(self.chunk):
            proposed = self._proposed(piece)  # its last part is the start of the search
            best = proposed.weights[:-1].argmax(0)[None, :, None]
            loc.append(torch.take_along_dim(proposed.parts.loc, best, 0)[0])
            scale.append(torch.take_along_dim(proposed.parts.scale_tril, best[..., None], 0)[0])
        _, n, d = self.q.loc.shape
        other.visited, other.q = u, Elliptical(torch.cat(loc).view(-1, n, d), torch.cat(scale).view(-1, n, d, d))
        other.proposal = Refined(steps=STEPS_FROM_MODE)
        return other

    def _proposed(self, u: Tensor) -> Any:
        """The proposal for the cells' own latents given u [t, size], for every pair of a draw u_t and a cell."""
        nearest = torch.cdist(u, self.visited).argmin(-1)
        q = Elliptical(self.q.loc[nearest].flatten(0, 1), self.q.scale_tril[nearest].flatten(0, 1))
        return self.proposal(q, Given(self._conditioned, self._values(u), self.own, self.cells))

    def take(self, index: Tensor) -> "Shared":
        """This density: there is one data set, so nothing can be selected."""
        return self

    def _values(self, u: Tensor) -> dict[str, Tensor]:
        """Values of the shared sites [t, 1, ...], with a dimension for the plate over cells, for the model."""
        return {name: value.to(self.cells.dtype) for name, value in self.coordinates.values(u.unsqueeze(-2)).items()}

    def _conditioned(self, values: Mapping[str, Tensor]) -> Callable[[Cells], Any]:
        """The model given the shared latents, with their sites hidden."""
        return poutine.block(poutine.condition(self.model, data=dict(values)), hide_fn=_is_outside)

    def _outside(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """The sites outside the plate over cells, at these values."""
        one = self.cells.take(torch.arange(1), hops_of(self.model))
        conditioned = poutine.condition(self.model, data={**self.origin, **values})
        with torch.random.fork_rng(devices=[]):
            nodes: Any = poutine.trace(conditioned).get_trace(one).nodes
        return {name: node for name, node in nodes.items() if _is_outside(node)}

    def _check(self) -> None:
        """Raises ValueError for a model that cannot be integrated here."""
        for name, node in self._outside({}).items():
            if node["is_observed"] or name in self.coordinates.sites:
                continue
            if node["fn"].support.is_discrete:
                raise ValueError(
                    f"site {name!r} is discrete and shared by all cells: only discrete sites of a cell are summed out. "
                    "Move it into the plate over cells, or take the evidence given each level k, "
                    f"poutine.condition(model, {{{name!r}: k}})"
                )
            raise ValueError(
                f"site {name!r} is covered by no site of the guide: size the guide on this model, "
                "guide.sized(model, cells)"
            )
        u = torch.linspace(-0.3, 0.3, 2 * self.size).to(self.visited).view(2, -1)
        separate = torch.cat([self._at_origin(one) for one in u.split(1)])
        try:
            torch.testing.assert_close(self._at_origin(u), separate, rtol=1e-5, atol=1e-8, equal_nan=True)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"the model does not take several draws of {', '.join(map(repr, self.coordinates.sites))} at once: two "
                "together give other densities than each alone. Let shared latents have dimensions on their left: "
                "W.unflatten(-1, (g, d)), not W.view(g, d)"
            ) from error

    @torch.no_grad()
    def _at_origin(self, u: Tensor) -> Tensor:
        """log p(u), and log p(x_n, z_n | u) at z_n = 0 [t, 1 + n]."""
        given = Given(self._conditioned, self._values(u), self.own, self.cells)
        z = u.new_zeros(1, len(u) * len(self.cells), self.q.loc.shape[-1])
        return torch.cat([self.log_prior(u)[:, None], given(z).view(len(u), -1)], 1)


class Given:
    """log p(x_n, z_n | u_t) [s, t * n] of latents z [s, t * n, d], for every pair of a draw u_t and a cell n.

    A proposal treats every pair as a cell.
    """

    def __init__(
        self, conditioned: Callable[..., Any], values: Mapping[str, Tensor], sites: Mapping[str, Site], cells: Cells
    ):
        self.conditioned, self.values, self.sites, self.cells = conditioned, values, sites, cells

    def __call__(self, z: Tensor) -> Tensor:
        return self._at(z, lambda joint, rows: joint(rows))

    def by_component(self, z: Tensor) -> Tensor:
        """log p(x_n, z_n, k_n | u_t) for every joint level k of the enumerated sites [k, s, t * n]."""
        return self._at(z, lambda joint, rows: joint.by_component(rows))

    def _at(self, z: Tensor, density: Callable[[Joint, Tensor], Tensor]) -> Tensor:
        s, t = len(z), z.shape[1] // len(self.cells)
        values = {name: value.expand(s, *value.shape).flatten(0, 1) for name, value in self.values.items()}
        joint = Joint(self.conditioned(values), self.sites, self.cells)
        log_p = density(joint, z.reshape(s * t, len(self.cells), z.shape[-1]))
        return log_p.reshape(*log_p.shape[:-2], s, -1)


class Noise:
    """Random numbers of pairs, from the streams of cells: t draws u in sequence.

    common   True: every u has the same random numbers
    """

    def __init__(self, streams: Streams, t: int, common: bool):
        self.streams, self.t, self.common = streams, t, common

    def normal(self, s: int, d: int) -> Tensor:
        return self._of_pairs(lambda count: self.streams.normal(count, d), s)

    def chi2(self, df: float, s: int) -> Tensor:
        return self._of_pairs(lambda count: self.streams.chi2(df, count), s)

    def uniform(self, s: int) -> Tensor:
        return self._of_pairs(self.streams.uniform, s)

    def _of_pairs(self, draw: Callable[[int], Tensor], s: int) -> Tensor:
        """Numbers [s, t * n, ...], one u after the other, so that the pieces in which u is drawn do not matter."""
        if self.common:
            numbers = draw(s).unsqueeze(1)
            return numbers.expand(-1, self.t, *numbers.shape[2:]).flatten(1, 2)
        return draw(s * self.t).unflatten(0, (self.t, s)).transpose(0, 1).flatten(1, 2)


def _is_outside(message: Any) -> bool:
    """True for a random variable that all cells share."""
    return is_sampled(message) and not is_local(message)
