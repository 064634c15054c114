"""The kernel in C++: it passes the tests of the kernel in PyTorch, and both kernels agree."""

import shutil

import pytest
import torch
from test_blocks import test_two_evaluations_are_equal_in_every_digit  # noqa: F401
from test_distributions import (  # noqa: F401
    test_a_cell_of_two_thousand_genes_is_exact_in_float32,
    test_a_gradient_has_the_shape_of_its_parameter_also_with_as_many_cells_as_genes,
    test_a_softmax_that_underflows_gives_finite_log_probabilities_and_infinite_ones_only_at_mean_zero,
    test_batch_shapes_of_particles_of_one_cell_and_of_empty_batches,
    test_broadcasting_equals_a_loop,
    test_gradients_agree_with_finite_differences,
    test_infinite_theta_is_the_poisson_to_the_last_digit,
    test_integer_counts_in_a_plate_under_a_mask,
    test_negative_and_nan_counts_have_log_probability_nan,
    test_one_impossible_count_makes_the_log_probability_of_the_cell_minus_infinity,
    test_shares_are_a_softmax_times_the_size,
    test_the_fast_path_agrees_with_the_textbook_formulas,
    test_the_pmf_sums_to_one_and_has_the_stated_moments,
    test_transposed_predictors,
    test_valid_inputs_give_no_nan,
    test_values_and_slopes_agree_with_the_reference_table,
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
    x[:, 0] = torch.tensor([0, 1, 63, 64, 5000])[:cells]  # at both sides of the end of the table of small counts, 64
    mean = torch.randn(*particles, cells, genes, dtype=dtype)
    return x, mean, x.sum(-1, keepdim=True).log()


def both(x, parameters):
    """log p and its slopes by each kernel, with a different weight for each cell."""
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
def test_parameters_may_be_shared_by_genes_cells_or_particles(particles, theta, gate, shared):
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
def test_both_kernels_agree_for_any_number_of_cells_and_genes(cells, genes):
    x, mean, size = problem((), cells=cells, genes=genes)
    theta, gate = torch.randn(genes, dtype=torch.float64), torch.randn(genes, dtype=torch.float64)
    for parameters in ([mean, None, theta, gate], [mean, size.clamp(min=0), theta, None]):
        for torch_s, native_s in zip(*both(x, parameters), strict=True):
            torch.testing.assert_close(native_s, torch_s, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("theta", [None, torch.randn(37, dtype=torch.float64)], ids=["poisson", "nb"])
def test_zero_inflation_with_probability_zero_changes_nothing_but_rounding(theta):
    x, mean, size = problem((3,))
    shut = torch.full((37,), -torch.inf, dtype=torch.float64)
    closed, open_ = (kernel.log_prob(x, Parameters(mean, size, theta, gate)) for gate in (shut, None))
    torch.testing.assert_close(closed, open_, rtol=1e-13, atol=0)


def test_the_result_does_not_depend_on_the_number_of_threads():
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


def test_the_native_kernel_is_used_only_inside_used(monkeypatch):
    x, mean, size = problem(())
    monkeypatch.setattr(native, "build", lambda dtype: pytest.fail("built"))
    with native.used(False):
        kernel.log_prob(x, Parameters(mean, size))
    with pytest.raises(pytest.fail.Exception, match="built"):
        kernel.log_prob(x, Parameters(mean, size))
