"""The count distributions: compared with exact values and with each other, their gradients, and their shapes."""

import csv
import math
import runpy

import mpmath as mp
import pyro
import pyro.distributions as dist
import pytest
import textbook
import torch
from reference.likelihoods import (
    COUNTS,
    MEANS,
    MOMENTS,
    SIZES,
    TABLE,
    THETAS,
    cell_error,
    draws,
    gradients_agree,
    made,
    mass_and_moments,
    nans,
    parameters,
    reference_errors,
    sampling_p,
    unlike_poisson,
)
from torch import Tensor
from torch.autograd import gradgradcheck

from pyroscvi.distributions import (
    NegativeBinomial,
    Poisson,
    Shares,
    ZeroInflatedNegativeBinomial,
    stirling,
)

every_count = pytest.mark.parametrize("name", COUNTS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

# Exactness


def test_the_reference_table_is_the_output_of_its_script():
    script = runpy.run_path(str(TABLE.with_name("make_logprob.py")))
    with mp.workdps(50):
        made = [script["COLUMNS"], *script["rows"]()]
    with TABLE.open(newline="") as file:
        assert list(csv.reader(file)) == made


@every_count
@pytest.mark.parametrize(
    ("dtype", "value_within", "slope_within"),
    [(torch.float32, 5e-6, 1e-5), (torch.float64, 1e-13, 1e-12)],
    ids=["float32", "float64"],
)
def test_values_and_slopes_agree_with_the_reference_table(name, dtype, value_within, slope_within):
    worst = reference_errors(name, dtype)
    assert worst.pop("value") < value_within
    assert worst.keys() >= {"mu"}
    assert all(error < slope_within for error in worst.values()), worst


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("size", SIZES)
def test_a_cell_of_two_thousand_genes_is_exact_in_float32(theta, size):
    error, within = cell_error(theta, size)
    assert error < within


@every_dtype
def test_binet_and_its_slope_agree_with_mpmath(dtype):
    a = torch.logspace(-8, 10, 200, dtype=torch.float64).to(dtype)
    left, slope = [], []
    with mp.workdps(60):
        for v in map(mp.mpf, a.tolist()):
            left.append(float(mp.loggamma(v) - (v - 0.5) * mp.log(v) + v - mp.log(2 * mp.pi) / 2))
            slope.append(float(v * (mp.digamma(v) - mp.log(v) + 1 / (2 * v))))
    within = {"rtol": 5e-6, "atol": 0} if dtype == torch.float32 else {"rtol": 2e-13, "atol": 0}
    torch.testing.assert_close(stirling.binet(a).double(), torch.tensor(left, dtype=torch.float64), **within)
    torch.testing.assert_close(
        (a * stirling.binet_slope(a)).double(), torch.tensor(slope, dtype=torch.float64), **within
    )


@every_count
@every_dtype
def test_valid_inputs_give_no_nan(name, dtype):
    bad, checked, greatest = nans(name, dtype)
    assert checked >= 2 * 4410
    assert bad == 0
    assert greatest <= 1e-4


@every_count
def test_one_impossible_count_makes_the_log_probability_of_the_cell_minus_infinity(name):
    x, log_mu = torch.ones(1, 100), torch.zeros(100)
    gate = torch.full((100,), -1.0)
    (gate if name[0] == "z" else log_mu)[3] = math.inf if name[0] == "z" else -math.inf
    assert made(name, log_mu, torch.zeros(100), gate).log_prob(x).item() == -math.inf


@every_count
def test_negative_and_nan_counts_have_log_probability_nan(name):
    zero = torch.zeros(2)
    assert made(name, zero, zero, zero).log_pmf(torch.tensor([-1.0, math.nan])).isnan().all()


@every_dtype
def test_infinite_theta_is_the_poisson_to_the_last_digit(dtype):
    different, checked, d_theta = unlike_poisson(dtype)
    assert (different, checked) == (0, 4 + 480 + 480)
    assert d_theta < 1e-12


@every_count
@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
def test_the_pmf_sums_to_one_and_has_the_stated_moments(name, mu, theta):
    mass, stated, summed = mass_and_moments(name, mu, theta)
    assert mass < 1e-10
    torch.testing.assert_close(stated, summed, rtol=1e-9, atol=0)


@every_count
@pytest.mark.parametrize("mu", MEANS)
def test_samples_follow_the_pmf(name, mu):
    assert sampling_p(name, mu) > 1e-3


@every_count
@pytest.mark.parametrize("log_mu", [42.0, 45.0, 100.0, math.inf])
def test_samples_at_an_enormous_mean_are_not_negative(name, log_mu):
    """torch.poisson returns -2^63 at a mean above 2^63, which is exp(43.7)."""
    x = made(name, torch.full((100,), log_mu), torch.zeros(100), torch.full((100,), -1.0)).sample()
    assert (x >= 0).all()
    assert x.max() > 1e15


# Agreement


@every_count
def test_the_fast_path_agrees_with_the_textbook_formulas(name):
    log_mu, log_theta, gate = parameters((6, 40), (40,), (6, 1))
    x = draws(6, 40).clamp(max=500)
    if "nb" in name:
        slow, at_zero = (textbook.negative_binomial_log_pmf(t, log_mu, log_theta) for t in (x, torch.zeros_like(x)))
    else:
        slow, at_zero = (textbook.poisson_log_pmf(t, log_mu) for t in (x, torch.zeros_like(x)))
    if name[0] == "z":
        slow = textbook.zero_inflated(x, slow, at_zero, gate)
    d = made(name, log_mu, log_theta, gate)
    torch.testing.assert_close(d.log_pmf(x), slow, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(d.log_prob(x), slow.sum(-1), rtol=1e-10, atol=1e-9)
    weights = torch.randn(6, dtype=torch.float64)
    for values in (d.log_prob(x), (d.log_pmf(x)).sum(-1)):
        for wanted in [t for t in d.parameters if t is not None]:
            got, expected = (
                torch.autograd.grad(v @ weights, wanted, retain_graph=True)[0] for v in (values, slow.sum(-1))
            )
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_distributions_agree_with_those_of_pyro_at_moderate_parameters():
    log_mu, log_theta, gate = (t.detach() for t in parameters((6, 40), (40,), (6, 40)))
    x = draws(6, 40).clamp(max=500)
    theta = log_theta.exp()
    torch.testing.assert_close(
        NegativeBinomial(log_mu, log_theta).log_pmf(x),
        dist.GammaPoisson(theta, theta / log_mu.exp()).log_prob(x),
        rtol=1e-9,
        atol=1e-9,
    )
    torch.testing.assert_close(
        ZeroInflatedNegativeBinomial(log_mu, log_theta, gate).log_pmf(x),
        dist.ZeroInflatedNegativeBinomial(theta, logits=log_mu - log_theta, gate_logits=gate).log_prob(x),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(("inflated", "name"), [("zinb", "nb"), ("zip", "poisson")])
def test_zero_inflation_with_probability_zero_changes_nothing(inflated, name):
    log_mu, log_theta = (t.detach() for t in parameters((6, 40), (40,)))
    x, shut = draws(6, 40), torch.tensor(-math.inf)
    open_, closed = made(name, log_mu, log_theta, shut), made(inflated, log_mu, log_theta, shut)
    assert torch.equal(closed.log_prob(x), open_.log_prob(x))


def test_shares_are_a_softmax_times_the_size():
    logits, log_size, log_theta = parameters((3, 5, 30), (5, 1), (30,))
    x = draws(5, 30)
    shares = Shares(logits, log_size)
    torch.testing.assert_close(shares.log_mu, log_size + torch.log_softmax(logits, -1))
    fused, apart = NegativeBinomial(shares, log_theta), NegativeBinomial(shares.log_mu, log_theta)
    torch.testing.assert_close(fused.log_pmf(x), apart.log_pmf(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused.log_prob(x), apart.log_prob(x), rtol=1e-12, atol=1e-12)
    weights = torch.randn(3, 5, dtype=torch.float64)
    for parameter in (logits, log_size, log_theta):
        got, expected = (torch.autograd.grad((d.log_prob(x) * weights).sum(), parameter)[0] for d in (fused, apart))
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_softmax_that_underflows_gives_finite_log_probabilities_and_infinite_ones_only_at_mean_zero():
    logits = torch.tensor([[0.0, -200, -1e4, -math.inf]], requires_grad=True)
    x = torch.tensor([[9.0, 1, 2, 0]])
    for d in (Poisson(Shares(logits, torch.ones(1, 1))), Poisson(Shares(logits - 50, torch.ones(1, 1)))):
        exact = torch.tensor([9 - math.e - math.lgamma(10), 1 - 200, 2 - 2e4 - math.log(2), 0])
        torch.testing.assert_close(d.log_pmf(x), exact.unsqueeze(0))
        torch.testing.assert_close(d.log_prob(x), exact.sum(-1, keepdim=True))
    d.log_prob(x).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[9.0 - 12, 1, 2, 0]]))


# Differentiation


@every_count
@pytest.mark.parametrize("shared", [False, True], ids=["log_mu", "shares"])
def test_gradients_agree_with_finite_differences(name, shared):
    assert gradients_agree(name, shared)


def test_the_textbook_formulas_are_twice_differentiable():
    log_mu, log_theta, gate = parameters((3,), (3,), (3,))
    x = torch.tensor([0.0, 1, 6], dtype=torch.float64)

    def zinb(m: Tensor, t: Tensor, g: Tensor) -> Tensor:
        log_p, at_zero = (textbook.negative_binomial_log_pmf(v, m, t) for v in (x, torch.zeros_like(x)))
        return textbook.zero_inflated(x, log_p, at_zero, g)

    assert gradgradcheck(zinb, (log_mu, log_theta, gate))
    assert gradgradcheck(lambda m: textbook.poisson_log_pmf(x, m), (log_mu,))


def test_gradients_can_be_taken_twice():
    logits, log_size, log_theta = parameters((5, 30), (5, 1), (30,))
    total = NegativeBinomial(Shares(logits, log_size), log_theta).log_prob(draws(5, 30)).sum()
    first = torch.autograd.grad(total, (logits, log_theta), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(total, (logits, log_theta))))


# Shapes


@every_count
def test_broadcasting_equals_a_loop(name):
    k, s, n, g = 2, 3, 4, 6
    logits, log_size, log_theta, gate = parameters((k, 1, n, g), (n, 1), (s, 1, g), (n, g))
    x = draws(n, g)
    whole = made(name, Shares(logits, log_size), log_theta, gate).log_prob(x)
    assert whole.shape == ((k, s, n) if "nb" in name else (k, 1, n))
    single = torch.stack(
        [
            made(name, Shares(logits[i, 0, c], log_size[c]), log_theta[j, 0], gate[c]).log_prob(x[c])
            for i in range(k)
            for j in range(whole.shape[1])
            for c in range(n)
        ]
    ).reshape(whole.shape)
    torch.testing.assert_close(whole, single, rtol=1e-13, atol=1e-13)
    weights = torch.randn(whole.shape, dtype=torch.float64)
    used = (logits, log_size, log_theta, gate)
    for got, expected in zip(
        *(torch.autograd.grad((v * weights).sum(), used, allow_unused=True) for v in (whole, single)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (1, 5), (5, 5), (2, 1, 1), (2, 5, 1), (2, 1, 5)])
def test_a_gradient_has_the_shape_of_its_parameter_also_with_as_many_cells_as_genes(shape):
    log_mu, log_theta, gate = parameters((2, 5, 5), shape, shape)
    x = draws(5, 5)
    log_p = ZeroInflatedNegativeBinomial(log_mu, log_theta, gate).log_prob(x)
    wide = parameters((2, 5, 5), (2, 5, 5), (2, 5, 5))
    for narrow, broad in zip((log_mu, log_theta, gate), wide, strict=True):
        broad.data.copy_(narrow.data)
    weights = torch.randn(2, 5, dtype=torch.float64)
    got = torch.autograd.grad((log_p * weights).sum(), (log_theta, gate))
    log_p = ZeroInflatedNegativeBinomial(*wide).log_prob(x)
    whole = torch.autograd.grad((log_p * weights).sum(), wide[1:])
    for part, total in zip(got, whole, strict=True):
        torch.testing.assert_close(part, total.sum_to_size(shape))


@every_count
def test_batch_shapes_of_particles_of_one_cell_and_of_empty_batches(name):
    log_mu, log_theta, gate = (t.detach() for t in parameters((30,), (30,), (30,)))
    x = draws(7, 4, 30)
    d = made(name, log_mu, log_theta, gate)
    torch.testing.assert_close(d.log_prob(x), d.log_pmf(x).sum(-1))
    assert d.log_prob(x).shape == (7, 4)
    assert d.expand((7, 4)).log_prob(x[0, 0]).shape == (7, 4)
    assert d.log_prob(x[:0]).shape == (0, 4)
    assert made(name, log_mu.expand(0, 30), log_theta, gate).log_prob(x[0, 0]).shape == (0,)


@every_count
def test_shapes_and_attributes(name):
    logits, log_size, log_theta, gate = (t.detach().float() for t in parameters((4, 6), (4, 1), (6,), (6,)))
    d = made(name, Shares(logits, log_size), log_theta, gate)
    assert (d.batch_shape, d.event_shape) == ((4,), (6,))
    assert d.mean.shape == d.variance.shape == d.mu.shape == (4, 6)
    wide = d.expand((3, 4))
    assert type(wide) is type(d)
    assert wide.sample((2,)).shape == (2, 3, 4, 6)
    assert d.support.check(d.sample()).all()
    assert (d.base_measure, d.has_rsample) == ("counting", False)
    assert repr(d) == f"{type(d).__name__}(batch_shape=(4,), genes=6)"
    assert hasattr(d, "theta") == ("nb" in name)
    assert hasattr(d, "gate") == (name[0] == "z")


def test_integer_counts_in_a_plate_under_a_mask():
    logits, log_size, log_theta = (t.detach().float() for t in parameters((4, 6), (4, 1), (6,)))
    x, keep = draws(4, 6).long(), torch.tensor([True, False, True, True])
    d = NegativeBinomial(Shares(logits, log_size), log_theta)

    def model():
        with pyro.plate("cells", 4), pyro.poutine.mask(mask=keep):
            pyro.sample("x", d, obs=x)

    trace = pyro.poutine.trace(model).get_trace()
    torch.testing.assert_close(trace.log_prob_sum(), d.log_prob(x.float())[keep].sum())


def test_transposed_predictors():
    """A decoder may return a view whose memory has cells as the last axis."""
    x, log_mu = torch.poisson(torch.full((4, 6), 0.7)), torch.randn(6, 4).T
    theta = torch.zeros(6)
    torch.testing.assert_close(Poisson(log_mu).log_prob(x), Poisson(log_mu.contiguous()).log_prob(x))
    transposed, contiguous = NegativeBinomial(log_mu, theta), NegativeBinomial(log_mu.contiguous(), theta)
    torch.testing.assert_close(transposed.log_prob(x), contiguous.log_prob(x))
