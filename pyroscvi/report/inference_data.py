"""InferenceData: posterior samples of every latent, predicted counts and observed counts, for ArviZ.

    data = fit.to_arviz(cells)
    az.plot_ppc(data), az.plot_rank(data, var_names="z", coords={"cell": data["posterior"]["cell"][:2]})

``az.loo`` and ``az.waic`` need a log-likelihood. It exists only for a page with latents that all cells share, with
``log_likelihood="marginal"``: the latents of every cell are then integrated out. For other pages ``loo`` says why.

References
    Vehtari, A., Gelman, A. & Gabry, J. (2017) Practical Bayesian model evaluation using leave-one-out cross-validation
    and WAIC. Stat Comput 27, 1413-1432. doi:10.1007/s11222-016-9696-4
    Merkle, E. C., Furr, D. & Rabe-Hesketh, S. (2019) Bayesian comparison of latent variable models: conditional versus
    marginal likelihoods. Psychometrika 84, 802-829. doi:10.1007/s11336-019-09679-0
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from pyroscvi.analysis.corrected import resampled
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator, Target
from pyroscvi.evidence.held import Held, held, shared_draws
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.reader import Reader, as_cells, pair
from pyroscvi.evidence.table import log_evidence
from pyroscvi.inference.seeds import seeded
from pyroscvi.program import Fitted, Pair
from pyroscvi.pyro_internals import alone
from pyroscvi.report.arviz_versions import arviz, inference_data

CONDITIONAL_NOTE = (
    "log p(x_n | z_n) at posterior samples of the latents of the cell. If the cell is left out, its latents have no "
    "data, and importance weights from q(z_n | x_n) to the prior have no finite variance: loo and waic of these "
    "numbers mean nothing."
)
MARGINAL_NOTE = (
    "log p(x_n | theta) at posterior samples of the latents that cells share, {shared}, with the latents of the cell "
    "integrated out: loo and waic leave whole cells out. Weights of networks are fixed at their fitted values, and "
    "p_loo does not count them."
)
NO_SHARED_LATENT = (
    "no log_likelihood for loo or waic: every latent of this page belongs to one cell, and is left out with it. What "
    "cells share are parameters with fixed values, without posterior samples to weight. Evaluate cells that were held "
    "out: pyroscvi.log_evidence(fit, held_out), and pyroscvi.compare for several fits (report.ranking.ranking makes a "
    "table for az.plot_compare)."
)
NOT_REQUESTED = (
    "log_likelihood was not requested. This page has latents that cells share, {shared}: "
    'to_arviz(fit, cells, log_likelihood="marginal") integrates out the latents of every cell.'
)
GUIDE_NOTE = "of the guide q(z | x), not corrected for its error"
CORRECTED_NOTE = "of the posterior p(z | x), by importance resampling from the guide"


@alone
def to_arviz(
    fit: Fitted | Pair, cells: Cells | AnnData, samples: int = 100, seed: int = 0, *, chains: int = 4,
    corrected: bool = False, log_likelihood: str | None = None, particles: int = 200, estimator: Estimator = Ladder(),
) -> Any:  # fmt: skip
    """InferenceData (ArviZ 0.x) or DataTree (1.x) with ``samples`` posterior samples.

    posterior             every latent of a cell, z and l among them     [chain, draw, cell, <latent>_dim]
                          and every latent that all cells share          [chain, draw, <latent>_dim]
    posterior_predictive  counts x, sampled given these latents          [chain, draw, cell, gene]
    sample_stats          log_p_x_given_latents; not fit for loo or waic  [chain, draw, cell]
    log_likelihood        if requested, log p(x_n | shared)              [chain, draw, cell]
    observed_data         counts x                                       [cell, gene]

    chains          number of chains of equal length. Samples of a guide are independent, so that chains differ by
                    chance only, in rank plots too; ``calibrate`` checks whether the guide is right
    corrected       samples of the posterior itself, by importance resampling, and not of the guide
    log_likelihood  "marginal": at each sample of the shared latents, the latents of every cell are integrated out by
                    ``log_evidence`` with these ``particles`` and this ``estimator``. ValueError without shared latents

    Dense counts of all samples are kept in memory: give a subset of the cells if there are many.
    """
    if samples < 1 or chains < 1 or samples % chains:
        raise ValueError(
            f"samples={samples} cannot be divided into chains={chains} of equal length: choose a multiple, or chains=1"
        )
    cells = as_cells(fit, cells)
    model, guide = pair(fit)
    shared = shared_draws(guide, cells, samples, seed)
    _check(log_likelihood, shared, corrected)
    latents: list[dict[str, Tensor]] = []
    predicted, conditional = [], []
    are_counts = bool((cells.x == cells.x.round()).all())
    with torch.no_grad(), seeded(seed, next((p.device for p in model.parameters()), cells.device)):
        for target, u in _minibatches(held((model, guide), _at(shared, 0)), cells, samples, seed, corrected):
            are_counts &= target.joint.observed()["x"][0] == "counting"
            latents.append(target.joint.values(u))
            pieces = list(_given_shared(target.joint, u, shared))
            conditional.append(torch.cat([joint.log_likelihood(draws) for joint, draws in pieces]))
            predicted.append(torch.cat([joint.predicted(draws) for joint, draws in pieces]))

    def by_chain(draws: Tensor) -> np.ndarray:
        return draws.unflatten(0, (chains, -1)).cpu().numpy()

    own = {name: torch.cat([piece[name] for piece in latents], 1) for name in latents[0]}
    groups = {
        "posterior": {name: by_chain(draws) for name, draws in {**own, **shared}.items()},
        "posterior_predictive": {"x": by_chain(_numbers(torch.cat(predicted, 1), are_counts))},
        "sample_stats": {"log_p_x_given_latents": by_chain(torch.cat(conditional, 1))},
        "observed_data": {"x": _numbers(cells.x, are_counts).cpu().numpy()},
    }
    names = {"shared": ", ".join(shared)}
    attrs: dict[str, dict[str, str]] = {
        "posterior": {"draws": CORRECTED_NOTE if corrected else GUIDE_NOTE, "model": repr(model)},
        "sample_stats": {"note": CONDITIONAL_NOTE, "estimand": getattr(model, "estimand", "p(x)")},
        "/": {"loo": (NOT_REQUESTED if shared else NO_SHARED_LATENT).format(**names)},
    }
    if log_likelihood is not None:
        marginal = [
            log_evidence(held((model, guide), _at(shared, s)), cells, particles, seed, estimator=estimator)
            for s in range(samples)
        ]
        groups["log_likelihood"] = {"x": by_chain(torch.as_tensor(np.stack(marginal)))}
        attrs["log_likelihood"] = {"note": MARGINAL_NOTE.format(**names), "estimand": attrs["sample_stats"]["estimand"]}
        attrs["/"] = attrs["log_likelihood"]
    if not groups["posterior"]:
        del groups["posterior"], attrs["posterior"]
    return inference_data(
        groups,
        coords={
            "cell": np.arange(len(cells)) if cells.names is None else np.asarray(cells.names, dtype=str),
            "gene": np.arange(cells.x.shape[1]) if cells.genes is None else np.asarray(cells.genes, dtype=str),
        },
        dims={
            "x": ["cell", "gene"],
            "log_p_x_given_latents": ["cell"],
            **{name: ["cell", f"{name}_dim"] for name in own},
            **{name: [f"{name}_dim"] for name in shared},
        },
        attrs=attrs,
    )


def loo(data: Any, **options: Any) -> Any:
    """``az.loo`` of a result of ``to_arviz``. Raises ValueError, with a remedy, without a log-likelihood."""
    if "log_likelihood" not in data:
        raise ValueError(data.attrs.get("loo", "the data have no log_likelihood: was this made by to_arviz?"))
    return arviz().loo(data, **options)


def _check(log_likelihood: str | None, shared: Mapping[str, Tensor], corrected: bool) -> None:
    if log_likelihood not in (None, "marginal"):
        raise ValueError(
            f'log_likelihood is None or "marginal", not {log_likelihood!r}; sample_stats contains {CONDITIONAL_NOTE}'
        )
    if log_likelihood and not shared:
        raise ValueError(NO_SHARED_LATENT)
    if corrected and shared:
        raise ValueError(
            f"corrected=True: {', '.join(shared)} is shared by all cells, and cannot be corrected for one cell"
        )


def _minibatches(
    fit: Pair, cells: Cells, samples: int, seed: int, corrected: bool
) -> Iterator[tuple[Target[Joint], Tensor]]:
    """Minibatches, each with posterior samples of its unconstrained latents u [samples, n, d]."""
    if corrected:
        for piece in resampled(Reader(fit, cells), samples, seed):
            yield piece.target, piece.draws
        return
    for target in Reader(fit, cells).targets(seed):
        yield target, target.q.sample(target.streams, samples)


def _given_shared(joint: Joint, u: Tensor, shared: Mapping[str, Tensor]) -> Iterator[tuple[Joint, Tensor]]:
    """Densities and the samples u to evaluate them at; with shared latents, one density for each of their samples."""
    if not shared:
        yield joint, u
        return
    page: Any = joint.model
    for s in range(len(u)):
        yield Joint(Held(page.model, _at(shared, s)), joint.sites, joint.cells, joint.chunk), u[s : s + 1]


def _at(shared: Mapping[str, Tensor], s: int) -> dict[str, Tensor]:
    return {name: draws[s] for name, draws in shared.items()}


def _numbers(x: Tensor, are_counts: bool) -> Tensor:
    """Counts as integers: ArviZ draws integers as bars, and other numbers as densities."""
    return x.int() if are_counts else x.float()
