"""Memory, precision and kernel do not change an evidence, up to rounding."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch

import pyroscvi as ps
from pyroscvi.distributions import native
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.memory import CELLS, Room, in_bytes
from pyroscvi.evidence.proposals import StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.table import evidences, log_evidence
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import GMVAE, LDVAE, PPCA, SCVI, PoissonLognormal
from pyroscvi.parts import NB, ZINB, Mixture, StandardNormal

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


def test_minibatches_and_chunks_fit_into_the_memory():
    sizes = product((10**7, 10**8, 10**9), (12, 2_000, 30_000), (1, 10), (1, 1000), (4, 8))
    fitted = 0
    for memory, genes, levels, particles, itemsize in sizes:
        room = Room(memory, genes, levels, particles, itemsize)
        try:
            cells = room.cells()
        except ValueError:
            assert 8 * itemsize * genes * (levels + 1) + 64 * particles > memory
            continue
        fitted += 1
        draws = room.draws(cells)
        assert 1 <= cells <= CELLS
        assert draws >= (8 if cells > 1 else 1)
        taken = cells * (8 * itemsize * genes * (levels * draws + 1) + 64 * particles)
        assert taken <= memory
        # and the memory is used: more cells do not fit, or would leave fewer than eight draws each
        assert cells == CELLS or (cells + 1) * (8 * itemsize * genes * (levels * 8 + 1) + 64 * particles) > memory
        assert taken + cells * 8 * itemsize * genes * levels > memory
    assert fitted > 50


def test_too_little_memory_is_refused_with_the_bytes_needed(cells):
    with pytest.raises(
        ValueError, match=r"memory=10,000 bytes are too few: 1,000 draws of one cell.* need 80,384 with 128 genes"
    ):
        log_evidence(pair(SCVI(likelihood=NB()), cells), cells, memory=10_000)


@pytest.mark.parametrize("page", PAGES, ids=repr)
def test_memory_does_not_change_the_evidence(page, cells):
    fit = pair(page, cells)
    sizes = {memory: next(Reader(fit, cells, memory=memory).targets(particles=50)) for memory in ("1GB", "400kB")}
    assert len(sizes["1GB"].joint.cells) > len(sizes["400kB"].joint.cells)
    assert sizes["1GB"].chunk > 50 > sizes["400kB"].chunk
    np.testing.assert_allclose(
        log_evidence(fit, cells, 50, estimator=Importance(StudentT()), memory="400kB"),
        log_evidence(fit, cells, 50, estimator=Importance(StudentT()), memory="1GB"),
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
    plain = log_evidence(fit, cells, 30, estimator=Importance(StudentT()), dtype=dtype)
    assert not calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = log_evidence(fit, cells, 30, estimator=Importance(StudentT()), dtype=dtype, compile=True)
    assert len(calls) > 1  # the first is a comparison
    np.testing.assert_allclose(quick, plain, atol=1e-9 if dtype == torch.float64 else 1e-3, rtol=0)
    calls.clear()
    log_evidence(fit, cells, 30, estimator=Importance(StudentT()))
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
    plain = log_evidence(fit, cells, 20, estimator=Importance(StudentT()))
    monkeypatch.setattr(native, *broken)
    with pytest.warns(UserWarning, match=says) as caught:
        quick = log_evidence(fit, cells, 20, estimator=Importance(StudentT()), compile=True)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(quick, plain)


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
