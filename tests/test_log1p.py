"""Log1pNormal: its density of log(1 + x), its moments and samples, and its probabilities of counts."""

import math

import mpmath as mp
import pytest
import torch
from reference.likelihoods import (
    draws,
    parameters,
)

from pyroscvi.distributions import (
    Log1pNormal,
)

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def test_the_density_and_the_moments_are_those_of_a_normal_log1p():
    loc, log_scale = (t.detach() for t in parameters((4, 6), (6,)))
    d, x = Log1pNormal(loc, log_scale), draws(4, 6)
    normal = torch.distributions.Normal(loc, log_scale.exp())
    torch.testing.assert_close(d.log_prob(x), normal.log_prob(x.log1p()).sum(-1))
    assert d.base_measure == "log1p"
    assert d.expand((3, 4)).sample((2,)).shape == (2, 3, 4, 6)
    assert d.support.check(d.sample()).all()
    # moments, by the trapezoid rule over forty standard deviations
    y = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None, None]
    weight = torch.exp(-0.5 * y**2)
    weight, value = weight / weight.sum(), torch.expm1(loc + log_scale.exp() * y)
    torch.testing.assert_close(d.mean, (weight * value).sum(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(d.variance, (weight * (value - d.mean) ** 2).sum(0), rtol=1e-7, atol=1e-12)


def test_samples_have_the_quantiles_of_a_normal_log1p_clipped_at_zero():
    d = Log1pNormal(torch.tensor([1.5]), torch.tensor([-0.7]))
    x = d.sample((40_000,))
    probabilities = torch.linspace(0.05, 0.95, 19)
    expected = torch.distributions.Normal(1.5, math.exp(-0.7)).icdf(probabilities).expm1().clamp(min=0)
    torch.testing.assert_close(torch.quantile(x[:, 0], probabilities), expected, rtol=0.05, atol=0.02)
    assert (x > 0).any()
    assert (x >= 0).all()


@every_dtype
def test_the_probabilities_of_all_counts_sum_to_one(dtype):
    d = Log1pNormal(torch.tensor([-2.0, 0.1, 1.5, 3.0], dtype=dtype), torch.tensor([0.0, -3.0, 0.2, -0.5], dtype=dtype))
    x = torch.arange(50_000, dtype=dtype)
    p = d.log_pmf(x.unsqueeze(-1)).double().exp()
    torch.testing.assert_close(p.sum(0), torch.ones(4).double(), rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-6)
    x = torch.tensor([0.0, 1, 5, 30_000])
    torch.testing.assert_close(d.log_mass(x), d.log_pmf(x).sum(-1))
    twin = Log1pNormal(d.loc.double(), d.log_scale.double())
    torch.testing.assert_close(d.log_pmf(x).double(), twin.log_pmf(x), rtol=1e-6, atol=1e-6)


def test_probabilities_of_counts_are_accurate_in_the_tails():
    x = torch.tensor([0.0, 1, 2, 30, 1e4, 1e6]).double()
    loc = torch.tensor([-30.0, -3, 0, 2, 9, 40]).double().unsqueeze(-1).requires_grad_()
    log_scale = torch.tensor(0.1).double().log().requires_grad_()
    got = Log1pNormal(loc.expand(6, 6), log_scale).log_pmf(x)
    with mp.workdps(60):
        for i, row in enumerate(got.tolist()):
            for j, value in enumerate(row):
                m, s, count = mp.mpf(loc[i].item()), mp.exp(mp.mpf(log_scale.item())), mp.mpf(x[j].item())
                high = (mp.log1p(count + 0.5) - m) / (s * mp.sqrt(2))
                low = (mp.log1p(count - 0.5) - m) / (s * mp.sqrt(2)) if count else -mp.inf
                twice = mp.erfc(low) - mp.erfc(high) if low > 0 else mp.erfc(-high) - mp.erfc(-low)
                exact = mp.log(twice / 2)
                assert abs(value - exact) < 1e-7 * (1 + abs(exact))
    got.sum().backward()
    assert loc.grad.isfinite().all()
    assert log_scale.grad.isfinite()
