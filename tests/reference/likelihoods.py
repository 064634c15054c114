"""Measurements of the count distributions: largest errors, numbers of NaNs, p-values.

``tests/test_distributions.py`` states how large each may be, and ``benchmarks/to_hold.py`` prints them. Random numbers
come from torch's generator, which the caller seeds.
"""

import csv
import math
from functools import cache
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.autograd import gradcheck

from pyroscvi.distributions import NegativeBinomial, Poisson, Shares, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

__all__ = [
    *("COUNTS", "MEANS", "MOMENTS", "SIZES", "TABLE", "THETAS"),
    *("cell_error", "draws", "gradients_agree", "made", "mass_and_moments", "nans", "parameters"),
    *("reference_errors", "sampling_p", "unlike_poisson"),
]

TABLE = Path(__file__).parent / "logprob.csv"  # with 50 digits, written by make_logprob.py
COUNTS: dict[str, Any] = {
    "poisson": Poisson,
    "nb": NegativeBinomial,
    "zip": ZeroInflatedPoisson,
    "zinb": ZeroInflatedNegativeBinomial,
}
THETAS = [1e-8, 1e-3, 0.3, 1.0, 7.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10]
SIZES = [1_000, 30_000]  # total counts of a cell
MOMENTS = [(mu, theta) for mu in (0.02, 6.0, 400.0) for theta in (0.4, 20.0)]
MEANS = [0.3, 4.0, 60.0]  # of samples


def made(name: str, log_mu: Tensor | Shares, log_theta: Tensor, gate: Tensor) -> Any:
    """The distribution of this name; it uses only the parameters that it has."""
    return COUNTS[name](log_mu, *([log_theta] if "nb" in name else []), *([gate] if name[0] == "z" else []))


def draws(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Counts of which most are zero, a few are large, and one is 30,000."""
    x = torch.poisson(torch.randn(shape, dtype=torch.float64).mul(2).exp() / 3)
    x.view(-1)[0] = 30_000
    return x.to(dtype)


def parameters(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


@cache
def _reference() -> dict[str, dict[str, Tensor]]:
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: {
            key: torch.tensor(
                [float(row[key]) for row in rows if row["dist"] == name and row[key]], dtype=torch.float64
            )
            for key in rows[0]
            if key != "dist"
        }
        for name in COUNTS
    }


def reference_errors(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Largest |error| / (1 + |exact|) of log p, and of its slope in every parameter, over the reference table."""
    row = _reference()[name]
    given = {"mu": row["mu"].log(), "theta": row["theta"].log(), "gate": row["gate_logit"]}
    given = {key: t.to(dtype).requires_grad_() for key, t in given.items() if len(t)}
    log_p = COUNTS[name](*given.values()).log_pmf(row["x"].to(dtype))
    slopes = dict(zip(given, torch.autograd.grad(log_p.sum(), given.values()), strict=True))

    def relative_error(value: Tensor, exact: Tensor) -> Tensor:
        return (value.double() - exact).abs() / (1 + exact.abs())

    worst = {"value": relative_error(log_p, row["logprob"]).max()}
    for key, slope in slopes.items():
        exact = row[f"dlogp_d{key}"]
        wrong = relative_error(slope if key == "gate" else slope / row[key], exact)
        if key == "theta":
            # Where d/d log theta is nearly zero and theta is tiny, d/d theta = (d/d log theta) / theta magnifies the
            # rounding error of log theta. There only the slope in log theta can be accurate.
            worst["theta above 0.02"] = wrong[row["theta"] > 0.02].max()
            wrong = torch.minimum(wrong, relative_error(slope, exact * row[key]))
        worst[key] = wrong.max()
    return {key: error.item() for key, error in worst.items()}


def cell_error(theta: float, size: float) -> tuple[float, float]:
    """Error in nats of log p of a cell of 2,000 genes under NB in float32, and its limit.

    The limit is 1e-3, or three rounding errors of log p if log p is thousands of nats.
    """
    log_mu = (torch.log_softmax(torch.randn(2000) * 2, -1) + math.log(size)).requires_grad_()
    log_theta = torch.tensor(theta).log()
    with torch.no_grad():
        x = NegativeBinomial(log_mu, log_theta.clamp(min=-1)).sample()
    got = NegativeBinomial(log_mu, log_theta).log_prob(x)
    t, total = mp.exp(mp.mpf(log_theta.item())), mp.mpf(0)
    with mp.workdps(40):
        for count, m in zip(x.tolist(), log_mu.tolist(), strict=True):
            mu = mp.exp(mp.mpf(m))
            total -= t * mp.log1p(mu / t)
            if count:
                total += (
                    mp.loggamma(count + t) - mp.loggamma(t) - mp.loggamma(count + 1) + count * mp.log(mu / (t + mu))
                )
    return abs(got.item() - float(total)), max(1e-3, 3 * 2**-24 * abs(float(total)))


def nans(name: str, dtype: torch.dtype) -> tuple[int, int, float]:
    """The number of NaNs in values and slopes at valid inputs; how many were checked; and the largest log p."""
    x = torch.tensor([0.0, 1, 2, 7, 1e3, 2**24, 1e12])
    log_mu = torch.tensor([-math.inf, -1e4, -200, -90, -20, 0, 20, 50, 85, 200])
    log_theta = torch.tensor([-math.inf, -300, -40, -18, 0, 5, 40, 90, math.inf])
    gate = torch.tensor([-math.inf, -200, -30, 0, 30, 200, math.inf])
    grid = torch.cartesian_prod(x, log_mu, log_theta, gate).T
    x, *given = (t.to(dtype).requires_grad_(i > 0) for i, t in enumerate(grid))
    log_p = made(name, *given).log_pmf(x)
    log_p.sum().backward()
    checked = [log_p.detach(), *(t.grad for t in given if t.grad is not None)]
    bad = sum(int(t.isnan().sum()) for t in checked)
    return bad, sum(t.numel() for t in checked), log_p.max().item()


def unlike_poisson(dtype: torch.dtype) -> tuple[int, int, float]:
    """The number of values and slopes of NB at theta = infinity that differ from those of Poisson, in any digit.

    Also: how many were checked, and the largest slope in log theta, which should be zero.
    """
    x = torch.cat([draws(4, 60, dtype=dtype), torch.zeros(4, 60, dtype=dtype)], -1)
    logits = torch.randn(4, 120, dtype=dtype).mul(4).requires_grad_()
    log_size = torch.full((4, 1), 9.0, dtype=dtype)
    shares = Shares(logits, log_size)
    log_theta = torch.full((120,), math.inf, dtype=dtype, requires_grad=True)
    limit, poisson = NegativeBinomial(shares, log_theta).log_prob(x), Poisson(shares).log_prob(x)
    through_limit, d_theta = torch.autograd.grad(limit.sum(), (logits, log_theta))
    pairs = [
        (limit, poisson),
        (through_limit, torch.autograd.grad(poisson.sum(), logits)[0]),
        (NegativeBinomial(log_size, log_theta).log_pmf(x), Poisson(log_size).log_pmf(x)),
    ]
    different = sum(int((one != other).sum()) for one, other in pairs)
    return different, sum(one.numel() for one, _ in pairs), d_theta.abs().max().item()


def mass_and_moments(name: str, mu: float, theta: float) -> tuple[float, Tensor, Tensor]:
    """|sum of the pmf - 1|; mean and variance as the distribution states them [2], and as sums over the pmf [2]."""
    log_mu, log_theta = torch.tensor([mu, theta], dtype=torch.float64).log()
    d = made(name, log_mu[None], log_theta, torch.tensor(-0.7, dtype=torch.float64))
    x = torch.arange(60_000, dtype=torch.float64)
    p = d.log_pmf(x.unsqueeze(-1)).squeeze(-1).exp()
    mean = (p * x).sum()
    stated, summed = torch.cat([d.mean, d.variance]), torch.stack([mean, (p * (x - mean) ** 2).sum()])
    return abs(p.sum().item() - 1), stated, summed


def sampling_p(name: str, mu: float) -> float:
    """The p-value of a chi-square test of 50,000 samples against the pmf."""
    log_mu, log_theta = torch.tensor([mu, 0.8]).log()
    d = made(name, log_mu.expand(1), log_theta, torch.tensor(-1.0))
    n = 50_000
    drawn = torch.bincount(d.sample((n,)).long().flatten()).double()
    expected = n * d.log_pmf(torch.arange(len(drawn)).double().unsqueeze(-1)).squeeze(-1).exp()
    bins = (expected.cumsum(0) / 25).floor()  # neighbouring counts are pooled until each bin expects about 25
    pooled = [torch.zeros(int(bins.max()) + 1).double().index_add(0, bins.long(), t) for t in (drawn, expected)]
    kept = pooled[1] > 0
    observed, expected = (t[kept].numpy() for t in pooled)
    observed, expected = np.append(observed, 0.0), np.append(expected, max(n - expected.sum(), 1e-9))  # the tail
    return float(chisquare(observed, expected * n / expected.sum(), sum_check=False).pvalue)


def gradients_agree(name: str, shared: bool, **options: Any) -> bool:
    """Whether ``gradcheck`` passes for every parameter; ``options`` are those of ``gradcheck``."""
    logits, log_size, log_theta, gate = parameters((2, 1, 3, 5), (3, 1), (5,), (2, 1, 1))
    x = torch.tensor([0.0, 1, 0, 4, 0]) * torch.arange(3.0).unsqueeze(-1)
    return gradcheck(
        lambda h, l, t, g: made(name, Shares(h, l) if shared else h + l, t, g).log_prob(x),
        (logits, log_size, log_theta, gate),
        **options,
    )
