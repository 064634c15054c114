"""The kernel in C++, held to what the kernel in PyTorch is held to: the same tests, run again with it."""

import shutil

import pytest
import torch
from test_blocks import test_the_same_twice  # noqa: F401
from test_distributions import (  # noqa: F401
    test_a_cell_of_two_thousand_genes_is_exact_in_float32,
    test_a_slope_has_the_shape_of_its_parameter_with_as_many_cells_as_genes,
    test_a_softmax_that_underflows_still_tells_unlikely_from_impossible,
    test_broadcasting_is_looping,
    test_every_reference_value_and_slope,
    test_gradcheck,
    test_in_a_plate_under_a_mask_and_with_whole_numbers,
    test_infinite_theta_is_the_poisson_digit_for_digit,
    test_no_nan_on_any_valid_input,
    test_one_impossible_count_makes_a_cell_impossible,
    test_particles_of_counts_and_one_cell_of_many_particles,
    test_plain_and_fast_agree,
    test_predictors_that_come_transposed,
    test_shares_are_a_softmax_of_the_size,
    test_the_pmf_sums_to_one_and_has_the_moments_it_says,
    test_what_is_not_a_count_is_not_given_a_probability,
)

from pyroscvi.distributions import kernel, native
from pyroscvi.distributions.parameters import Parameters

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def _native():
    with native.used():
        yield


def problem(particles, dtype=torch.float64, cells=5, genes=37):
    x = torch.poisson(torch.rand(cells, genes) * 3).to(dtype)
    x[:, 0] = torch.tensor([0, 1, 63, 64, 5000])[:cells]  # about the edge of the table of small counts
    mean = torch.randn(*particles, cells, genes, dtype=dtype)
    return x, mean, x.sum(-1, keepdim=True).log()


def both(x, parameters):
    """log p and its slopes, with unequal weights for cells, by either kernel."""
    for chosen in (False, True):
        given = [None if t is None else t.clone().requires_grad_() for t in parameters]
        with native.used(chosen):
            log_p = kernel.log_prob(x, Parameters(*given))
        weight = torch.linspace(0.1, 2, log_p.numel(), dtype=log_p.dtype).reshape(log_p.shape)
        yield log_p.detach(), *torch.autograd.grad((log_p * weight).sum(), [t for t in given if t is not None])


@pytest.mark.parametrize("particles", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("gate", [None, "gene", "cell", "particle"])
@pytest.mark.parametrize("theta", [None, "gene", "cell", "particle", "one"])
@pytest.mark.parametrize("shared", [True, False])
def test_every_way_to_share_a_parameter(particles, theta, gate, shared):
    x, mean, size = problem(particles)
    if not shared:
        x = x + torch.zeros(*particles, 1, 1)
    shapes = {"one": (1,), "gene": (37,), "cell": (5, 37), "particle": mean.shape}
    drawn = [None if how is None else torch.randn(shapes[how], dtype=torch.float64) for how in (theta, gate)]
    for torch_s, native_s in zip(*both(x, [mean, size, *drawn]), strict=True):
        assert torch_s.shape == native_s.shape
        torch.testing.assert_close(native_s, torch_s, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("cells", [0, 1, 2])
@pytest.mark.parametrize("genes", [1, 15, 16, 17, 64, 65, 129])
def test_any_number_of_cells_and_genes(cells, genes):
    x, mean, size = problem((), cells=cells, genes=genes)
    theta, gate = torch.randn(genes, dtype=torch.float64), torch.randn(genes, dtype=torch.float64)
    for parameters in ([mean, None, theta, gate], [mean, size.clamp(min=0), theta, None]):
        for torch_s, native_s in zip(*both(x, parameters), strict=True):
            torch.testing.assert_close(native_s, torch_s, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("theta", [None, torch.randn(37, dtype=torch.float64)], ids=["poisson", "nb"])
def test_without_extra_zeros_zero_inflation_is_gone_but_for_rounding(theta):
    x, mean, size = problem((3,))
    shut = torch.full((37,), -torch.inf, dtype=torch.float64)
    closed, open_ = (kernel.log_prob(x, Parameters(mean, size, theta, gate)) for gate in (shut, None))
    torch.testing.assert_close(closed, open_, rtol=1e-13, atol=0)


def test_threads_do_not_change_the_answer():
    x, mean, size = problem((), cells=5)
    theta = torch.randn(37, dtype=torch.float64)
    _, alone = both(x, [mean, size, theta, None])
    torch.set_num_threads(2)
    try:
        _, two = both(x, [mean, size, theta, None])
        _, again = both(x, [mean, size, theta, None])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))
    for a, b in zip(alone, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_it_is_used_where_it_is_asked_for(monkeypatch):
    x, mean, size = problem(())
    monkeypatch.setattr(native, "build", lambda dtype: pytest.fail("built"))
    with native.used(False):
        kernel.log_prob(x, Parameters(mean, size))
    with pytest.raises(pytest.fail.Exception, match="built"):
        kernel.log_prob(x, Parameters(mean, size))
