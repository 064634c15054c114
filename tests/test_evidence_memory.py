"""Memory, precision and kernel do not change an evidence, up to rounding."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch

import pyroscvi as ps
from pyroscvi.data.cells import Cells
from pyroscvi.distributions import native
from pyroscvi.evidence import reader
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.memory import CELLS_AT_ONCE, Room, in_bytes, usual_memory
from pyroscvi.evidence.proposals import StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import GMVAE, LDVAE, PPCA, SCVI, PoissonLognormal
from pyroscvi.parts import NB, ZINB, Mixture, Poisson, StandardNormal

PAGES = [
    SCVI(latent=3, likelihood=NB()),
    SCVI(latent=3, prior=Mixture(components=3), likelihood=ZINB()),
    LDVAE(latent=2),
    GMVAE(latent=2, kinds=3),
    PoissonLognormal(latent=2),
]


def pair(model, cells, guide=None):
    model = model.sized(cells.dims)
    return model.eval(), (guide or MeanField()).sized(model, cells).eval()


# Memory


@pytest.mark.parametrize(
    ("text", "bytes"),
    [(1000, 1000), ("1000", 1000), ("256MB", 256e6), ("1.5 GB", 1.5e9), ("2GiB", 2**31), ("3k", 3000)],
)
def test_memory_is_given_in_bytes_or_as_a_text(text, bytes):
    assert in_bytes(text) == bytes


@pytest.mark.parametrize("text", ["much", "-1GB", "0", "1XB", 0])
def test_an_amount_of_memory_that_is_not_understood_is_refused(text):
    with pytest.raises(ValueError, match="512MB"):
        in_bytes(text)


def test_a_quarter_of_the_free_memory_of_a_gpu_is_used_unasked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40_000, 80_000))
    assert usual_memory(torch.device("cuda")) == 10_000
    assert usual_memory(torch.device("cpu")) == in_bytes("256MB")


def test_minibatches_and_chunks_fit_into_the_memory():
    sizes = product((10**7, 10**8, 10**9), (12, 2_000, 30_000), (1, 10), (1, 1000), (4, 8))
    fitted = 0
    for memory, genes, levels, particles, itemsize in sizes:
        room = Room(memory, genes, levels, particles, itemsize)
        try:
            cells = room.cells()
        except ValueError:
            assert 8 * itemsize * genes * (levels + 1) + 32 * particles > memory
            continue
        fitted += 1
        draws = room.draws(cells)
        assert 1 <= cells <= CELLS_AT_ONCE
        assert draws >= (8 if cells > 1 else 1)
        taken = cells * (8 * itemsize * genes * (levels * draws + 1) + 32 * particles)
        assert taken <= memory
        # and the memory is used: more cells do not fit, or would leave fewer than eight draws each
        assert (
            cells == CELLS_AT_ONCE or (cells + 1) * (8 * itemsize * genes * (levels * 8 + 1) + 32 * particles) > memory
        )
        assert taken + cells * 8 * itemsize * genes * levels > memory
    assert fitted > 50


def test_too_little_memory_is_refused_with_the_bytes_needed(cells):
    with pytest.raises(
        ValueError, match=r"memory=10,000 bytes are too few: 1,000 draws of one cell.* need 48,384 with 128 genes"
    ):
        log_evidence(pair(SCVI(likelihood=NB()), cells), cells, 1000, memory=10_000, dtype=torch.float64)


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_memory_does_not_change_the_evidence(page, cells):
    fit = pair(page, cells)
    sizes = {memory: next(Reader(fit, cells, memory=memory).targets(particles=50)) for memory in ("1GB", "400kB")}
    assert len(sizes["1GB"].joint.cells) > len(sizes["400kB"].joint.cells)
    assert sizes["1GB"].chunk > 50 > sizes["400kB"].chunk
    np.testing.assert_allclose(
        log_evidence(fit, cells, 50, estimator=Importance(StudentT()), memory="400kB", dtype=torch.float64),
        log_evidence(fit, cells, 50, estimator=Importance(StudentT()), memory="1GB", dtype=torch.float64),
        atol=1e-9,
        rtol=0,
    )


# Precision


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_single_precision_is_close_to_double(page, cells):
    fit = pair(page, cells, FullCovariance())
    double, single = (
        evidences(Reader(fit, cells, dtype=dtype), 100, estimator=Importance(StudentT())).table
        for dtype in (torch.float64, torch.float32)
    )
    assert single["log_evidence"].dtype == np.float64
    assert (single["log_evidence"] != double["log_evidence"]).any()
    np.testing.assert_allclose(single["log_evidence"], double["log_evidence"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(single["monte_carlo_se"], double["monte_carlo_se"], rtol=1e-2)
    for program in fit:
        assert all(p.dtype == torch.float32 and p.requires_grad for p in program.parameters())


@pytest.mark.parametrize(("count", "dtype"), [(3.0, torch.float32), (3e6, torch.float64)])
def test_single_precision_is_chosen_where_it_suffices(count, dtype):
    """A Poisson of large counts turns the rounding of its mean into whole nats."""
    cells = Cells(torch.poisson(torch.full((10, 50), count)))
    fit = pair(SCVI(likelihood=Poisson()), cells)
    assert Reader(fit, cells, dtype=None).cells.dtype == dtype
    double = fit[0].double(), fit[1].double()
    assert Reader(double, cells, dtype=None).cells.dtype == torch.float64


def test_modes_are_found_in_single_precision(cells):
    fit = pair(SCVI(latent=2, likelihood=NB()), cells)
    few = cells.subset(torch.arange(10))
    result = [
        log_evidence(fit, few, 500, estimator=Importance(Refined()), dtype=d) for d in (torch.float64, torch.float32)
    ]
    np.testing.assert_allclose(*result, atol=0.02, rtol=0)


def test_a_closed_form_is_evaluated_in_double_precision(cells):
    fit = pair(PPCA(latent=3, prior=StandardNormal()), cells)
    result = log_evidence(fit, cells, dtype=torch.float32)
    np.testing.assert_allclose(result, log_evidence(fit, cells), atol=1e-9, rtol=0)


# The kernel in C++


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel in C++ was run."""
    pytest.importorskip("torch._inductor.codecache")
    try:
        native.build(torch.float64)
    except Exception:
        pytest.skip("there is no compiler")
    made, log_prob = [], native.log_prob
    monkeypatch.setattr(native, "log_prob", lambda *arguments: (made.append(len(arguments)), log_prob(*arguments))[1])
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_compiled_evidence_is_the_same(page, dtype, cells, calls):
    fit = pair(page, cells)
    plain = log_evidence(fit, cells, 30, estimator=Importance(StudentT()), dtype=dtype, compile=False)
    assert not calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = log_evidence(fit, cells, 30, estimator=Importance(StudentT()), dtype=dtype, compile=True)
    assert len(calls) > 1  # the first is a comparison
    np.testing.assert_allclose(quick, plain, atol=1e-9 if dtype == torch.float64 else 1e-3, rtol=0)
    calls.clear()
    log_evidence(fit, cells, 30, estimator=Importance(StudentT()), compile=False)
    assert not calls  # other calls are not affected


def failing(dtype):
    raise RuntimeError("g++: command not found\nand a long story")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (("build", failing), "RuntimeError: g.*not found.; going on"),
        (("log_prob", lambda x, mean, *rest: mean.sum(-1)), "off by"),
    ],
)
def test_a_kernel_that_fails_gives_a_warning_and_is_not_used(broken, says, cells, monkeypatch):
    fit = pair(SCVI(likelihood=NB()), cells)
    monkeypatch.setattr(native, "is_built", lambda dtype: True)
    plain = log_evidence(fit, cells, 20, estimator=Importance(StudentT()), compile=False)
    monkeypatch.setattr(native, *broken)
    silent = log_evidence(fit, cells, 20, estimator=Importance(StudentT()), compile="auto")
    np.testing.assert_array_equal(silent, plain)
    with pytest.warns(UserWarning, match=says) as caught:
        quick = log_evidence(fit, cells, 20, estimator=Importance(StudentT()), compile=True)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(quick, plain)


@pytest.mark.parametrize(("built", "worth", "used"), [(True, 1e9, True), (False, 1e9, False), (False, 1e3, True)])
def test_the_kernel_is_compiled_unasked_only_where_that_pays(built, worth, used, cells, calls, monkeypatch):
    monkeypatch.setattr(native, "is_built", lambda dtype: built)
    monkeypatch.setattr(reader, "COUNTS_TO_COMPILE", worth)
    log_evidence(pair(SCVI(likelihood=NB()), cells), cells, 20, estimator=Importance(StudentT()))
    assert bool(calls) == used


def test_a_kernel_that_was_compiled_is_known_to_be(calls):
    assert native.is_built(torch.float64)


def test_an_estimate_takes_one_thread_and_gives_the_others_back(cells):
    fit, seen, threads = pair(SCVI(likelihood=NB()), cells), [], torch.get_num_threads()
    fit[0].register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        log_evidence(fit, cells, 20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen[-3:]) == {1}


def test_the_kernel_is_no_longer_used_after_an_error(cells, calls):
    fit = pair(SCVI(likelihood=NB()), cells)
    inside = Reader(fit, cells, compile=True).kernel()
    inside.__enter__()
    assert native.active(torch.zeros(1))
    inside.__exit__(KeyError, KeyError(), None)
    assert not native.active(torch.zeros(1))


def test_a_fit_passes_all_options_on(cells):
    fit = ps.fit(SCVI(likelihood=NB()), MeanField(), cells, epochs=1, progress=False)
    result = fit.log_evidence(
        cells, particles=20, estimator=Importance(StudentT()), memory="10MB", compile=True, dtype=torch.float32
    )
    np.testing.assert_allclose(
        result, fit.log_evidence(cells, particles=20, estimator=Importance(StudentT())), atol=1e-3, rtol=0
    )
