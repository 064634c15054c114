"""A fit as ArviZ knows one: draws of every latent, predicted counts and what was observed, by name.

    data = fit.to_arviz(cells)
    az.plot_ppc(data), az.plot_rank(data, var_names="z", coords={"cell": data["posterior"]["cell"][:2]})

For ``az.loo`` and ``az.waic`` there is a log-likelihood where one means something: of a page whose cells share a latent
that has posterior draws, ``log_likelihood="marginal"``, the latents of every cell integrated out. Elsewhere there is
none, and ``loo`` says why.

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
from torch import Tensor

from pyroscvi.analysis.corrected import resampled
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.estimator import Estimator
from pyroscvi.evidence.joint import Joint
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.reader import Reader, as_cells, pair
from pyroscvi.evidence.table import log_evidence
from pyroscvi.evidence.target import Target
from pyroscvi.inference.seeds import seeded
from pyroscvi.pyro_internals import alone
from pyroscvi.report.arviz_versions import arviz, inference_data
from pyroscvi.report.shared import Held, held, shared_draws

__all__ = ["loo", "to_arviz"]

CONDITIONAL = (
    "log p(x_n | z_n) at draws of the cell's own latents. Leaving a cell out would leave its latents without data, and "
    "importance weights from q(z_n | x_n) to the prior have no variance: loo and waic of these numbers mean nothing."
)
MARGINAL = (
    "log p(x_n | theta) at draws of what cells share, {shared}, with the latents of the cell integrated out: loo and "
    "waic leave cells out. Weights of networks are plugged in, as they were fitted, and no p_loo counts them."
)
PLUGGED_IN = (
    "no log_likelihood for loo or waic: every latent of this page is a cell's own, and goes when the cell is left out; "
    "what cells share are plugged-in parameters, of which there are no draws to weigh. Hold cells out in truth: "
    "pyroscvi.log_evidence(fit, held_out), and pyroscvi.compare for several fits (report.ranking.ranking makes its "
    "table one for az.plot_compare)."
)
NOT_ASKED = (
    "no log_likelihood was asked for. This page has latents that cells share, {shared}: "
    'to_arviz(fit, cells, log_likelihood="marginal") integrates out those of every cell.'
)
RAW = "of the guide q(z | x), not corrected for its error"
CORRECTED = "of the posterior p(z | x), by importance resampling from the guide"


@alone
def to_arviz(
    fit: Any,
    cells: Any,
    samples: int = 100,
    seed: int = 0,
    *,
    chains: int = 4,
    corrected: bool = False,
    log_likelihood: str | None = None,
    particles: int = 200,
    estimator: Estimator = Ladder(),
) -> Any:
    """InferenceData (ArviZ 0.x) or DataTree (1.x) of ``samples`` draws.

    posterior             every latent of a cell, z and l among them     [chain, draw, cell, <latent>_dim]
                          and every latent that cells share              [chain, draw, <latent>_dim]
    posterior_predictive  counts x, drawn at these latents               [chain, draw, cell, gene]
    sample_stats          log_p_x_given_latents; not fit for loo or waic  [chain, draw, cell]
    log_likelihood        where it is asked for, log p(x_n | shared)     [chain, draw, cell]
    observed_data         counts x                                       [cell, gene]

    chains          of equal length, that draws are dealt out to: a guide draws independently, and so chains differ by
                    chance alone, in rank plots too. Whether the guide is right is what ``calibrate`` asks
    corrected       draws of the posterior itself, by importance resampling, rather than of the guide
    log_likelihood  "marginal": at each draw of what cells share, the latents of every cell are integrated out, as
                    ``log_evidence`` does with so many ``particles`` and by this ``estimator``. Raises ValueError where
                    cells share no latent

    Dense counts of all draws are kept in memory: take a subset of the cells where there are many.
    """
    if samples < 1 or chains < 1 or samples % chains:
        raise ValueError(
            f"samples={samples} cannot be dealt out to chains={chains} of equal length: take a multiple, or chains=1"
        )
    cells = as_cells(fit, cells)
    model, _ = pair(fit)
    shared = shared_draws(fit, cells, samples, seed)
    _check(log_likelihood, shared, corrected)
    latents: list[dict[str, Tensor]] = []
    predicted, conditional = [], []
    whole = bool((cells.x == cells.x.round()).all())
    with torch.no_grad(), seeded(seed, next((p.device for p in model.parameters()), cells.device)):
        for target, u in _drawn(held(fit, _at(shared, 0)), cells, samples, seed, corrected):
            whole &= target.joint.observed()["x"][0] == "counting"
            latents.append(target.joint.values(u))
            given = list(_given(target.joint, u, shared))
            conditional.append(torch.cat([joint.log_likelihood(some) for joint, some in given]))
            predicted.append(torch.cat([joint.predicted(some) for joint, some in given]))

    def dealt(draws: Tensor) -> np.ndarray:
        return draws.unflatten(0, (chains, -1)).cpu().numpy()

    own = {name: torch.cat([piece[name] for piece in latents], 1) for name in latents[0]}
    groups = {
        "posterior": {name: dealt(draws) for name, draws in {**own, **shared}.items()},
        "posterior_predictive": {"x": dealt(_numbers(torch.cat(predicted, 1), whole))},
        "sample_stats": {"log_p_x_given_latents": dealt(torch.cat(conditional, 1))},
        "observed_data": {"x": _numbers(cells.x, whole).cpu().numpy()},
    }
    names = {"shared": ", ".join(shared)}
    attrs: dict[str, dict[str, str]] = {
        "posterior": {"draws": CORRECTED if corrected else RAW, "model": repr(model)},
        "sample_stats": {"note": CONDITIONAL, "estimand": getattr(model, "estimand", "p(x)")},
        "/": {"loo": (NOT_ASKED if shared else PLUGGED_IN).format(**names)},
    }
    if log_likelihood is not None:
        marginal = [
            log_evidence(held(fit, _at(shared, s)), cells, particles, seed, estimator=estimator) for s in range(samples)
        ]
        groups["log_likelihood"] = {"x": dealt(torch.as_tensor(np.stack(marginal)))}
        attrs["log_likelihood"] = {"note": MARGINAL.format(**names), "estimand": attrs["sample_stats"]["estimand"]}
        attrs["/"] = attrs["log_likelihood"]
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
    """``az.loo`` of what ``to_arviz`` made; where that would mean nothing, ValueError with the reason and a remedy."""
    if "log_likelihood" not in data:
        raise ValueError(data.attrs.get("loo", "no log_likelihood, and no word of why: was this made by to_arviz?"))
    return arviz().loo(data, **options)


def _check(log_likelihood: str | None, shared: Mapping[str, Tensor], corrected: bool) -> None:
    if log_likelihood not in (None, "marginal"):
        raise ValueError(
            f'log_likelihood is None or "marginal", not {log_likelihood!r}; in sample_stats there is {CONDITIONAL}'
        )
    if log_likelihood and not shared:
        raise ValueError(PLUGGED_IN)
    if corrected and shared:
        raise ValueError(
            f"corrected=True: {', '.join(shared)} is shared by all cells, and cells cannot be corrected one by one"
        )


def _drawn(fit: Any, cells: Cells, samples: int, seed: int, corrected: bool) -> Iterator[tuple[Target[Joint], Tensor]]:
    """Minibatches with draws of their unconstrained latents u [samples, n, d]."""
    if corrected:
        for piece in resampled(Reader(fit, cells), samples, seed):
            yield piece.target, piece.draws
        return
    for target in Reader(fit, cells).targets(seed):
        yield target, target.q.sample(target.streams, samples)


def _given(joint: Joint, u: Tensor, shared: Mapping[str, Tensor]) -> Iterator[tuple[Joint, Tensor]]:
    """The density of cells and draws that it is good for: all at once, or one by one, each with what cells share."""
    if not shared:
        yield joint, u
        return
    page: Any = joint.model
    for s in range(len(u)):
        yield Joint(Held(page.model, _at(shared, s)), joint.sites, joint.cells, joint.chunk), u[s : s + 1]


def _at(shared: Mapping[str, Tensor], s: int) -> dict[str, Tensor]:
    return {name: draws[s] for name, draws in shared.items()}


def _numbers(x: Tensor, whole: bool) -> Tensor:
    """Counts as whole numbers, which ArviZ draws as bars and not as densities."""
    return x.int() if whole else x.float()
