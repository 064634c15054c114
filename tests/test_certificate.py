"""Certificates: the gap between the bounds, above all where a k-hat shows nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import one_mode, untrained
from reference.problems import PROBLEMS, amortised
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.evidence import reader as reader_module
from pyroscvi.evidence.certificate import Certificate, certify
from pyroscvi.evidence.estimator import Importance
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.simulated import simulate
from pyroscvi.evidence.table import evidences
from pyroscvi.guides import FullCovariance, MeanField
from pyroscvi.models import PPCA, SCVI, Annotated
from pyroscvi.parts import NB


def test_the_gap_shows_a_missed_mode():
    pair, cells = one_mode(16)
    assert evidences(Reader(pair, cells), 1000, estimator=Importance()).table["k_hat"].max() < 0.7
    missed = certify(pair, cells, 1000, estimator=Importance())
    assert missed.gap > 1
    assert not missed.holds
    assert missed.words.startswith("uncertified (gap ")
    result = certify(pair, cells, 1000)
    assert result.holds
    assert result.gap < 0.02
    assert result.words.startswith("certified (gap 0.0")


def test_the_gap_shows_a_mode_that_chains_cannot_reach():
    from pyroscvi.evidence import Annealed, StudentT

    pair, cells = one_mode(16)
    chains = Annealed(chains=8, temperatures=10, leapfrogs=3, start=StudentT())
    assert certify(pair, cells, estimator=chains, simulated=32).gap > 0.5


def test_the_gap_bounds_the_error():
    problem = PROBLEMS["nb-normal-d2"](160)
    pair, unseen = amortised(problem, steps=60)
    table, certificate = evidences(Reader(pair, unseen), 200, 0, estimator=Importance(), certify=True)
    gap = certificate.gap
    error = problem.exact[: len(unseen)].numpy() - table["log_evidence"].to_numpy()
    assert gap > 0
    assert error.mean() < gap + 3 * certificate.standard_error + 3 * error.std() / len(error) ** 0.5
    assert set(table["certificate"]) == {certificate.words}


def test_an_exact_evidence_needs_no_certificate(cells):
    pair = untrained(PPCA(latent=2), MeanField(), cells)
    assert certify(pair, cells).words == "exact"
    table, certificate = evidences(Reader(pair, cells), 1000, 0, estimator=Ladder(), certify=True)
    assert set(table["certificate"]) == {"exact"}
    assert certificate is None


def test_simulated_cells_keep_an_observed_size(cells):
    """Simulated counts are new, but their latents are a posterior draw given the old totals."""
    pair = untrained(SCVI(latent=2, likelihood=NB()), FullCovariance(), cells)
    reader = Reader(pair, cells)
    made = simulate(reader, seed=0)
    x = made.observed["x"]
    assert not torch.equal(x.sum(-1), cells.library.squeeze(-1).double())
    (target,) = made.shown_to(reader).targets()
    truth, model, double = target.truth, reader.model, reader.cells
    replayed = target.joint(truth[None])[0]
    eta = model.decoder(truth, model.condition(double))
    x = model.likelihood(double.library, model.likelihood.dispersion.log_theta, **eta).log_prob(x)
    assert_close(replayed, x + torch.distributions.Normal(0.0, 1.0).log_prob(truth).sum(-1))


def test_simulated_counts_have_the_precision_of_the_model(cells):
    """In double precision they would make a certificate twice as slow as the evidence that it is for."""
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    reader = Reader(pair, cells, dtype=torch.float32)
    shown = simulate(reader, seed=0).shown_to(reader)
    target = next(shown.targets())
    assert target.joint.trace(target.truth[None]).nodes["x"]["value"].dtype == torch.float32


def test_model_and_cells_are_copied_once(cells, monkeypatch):
    """For an evidence table and its certificate together."""
    copies = []

    def counting(*arguments):
        copies.append(arguments)
        return copied(*arguments)

    copied = reader_module.copied
    monkeypatch.setattr(reader_module, "copied", counting)
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    table = evidences(Reader(pair, cells), 15, certify=True).table
    assert "uncertified" not in set(table["certificate"])
    assert len(copies) == 1


def test_labels_are_simulated_too(cells):
    pair = untrained(Annotated(latent=2), MeanField(), cells)
    made = simulate(Reader(pair, cells), seed=0)
    assert set(made.observed) == {"x", "label"}
    assert (made.observed["label"].sum(-1) == 1).all()
    assert made.latents["z"].shape == (60, 2)
    assert np.isfinite(certify(pair, cells, 15, simulated=8).gap)


def test_certificates_repeat_and_leave_global_generators_untouched(cells):
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    state = torch.get_rng_state()
    first = certify(pair, cells, 15, simulated=6, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    again = certify(pair, cells, 15, simulated=6, batch_size=4, chunk=2, dtype=torch.float64)
    assert again.gap == pytest.approx(first.gap, abs=1e-9)
    assert first.cells == 6


def test_few_cells_are_taken_several_times(cells):
    few = replace(cells, graph=None).subset(torch.arange(3))
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    assert certify(pair, few, 15, simulated=7).cells == 7


def test_comparisons_show_certificates(cells):
    few = replace(cells, graph=None).subset(torch.arange(6))
    pair = untrained(SCVI(latent=2, likelihood=NB()), MeanField(), cells)
    table = ps.compare({"a": pair}, few, 15, certify=True, simulated=7).table
    assert table["certificate"].iloc[0] == certify(pair, few, 15, simulated=7).words
    assert "certified (gap" in table["certificate"].iloc[0]
    assert set(ps.compare({"a": pair}, few, 15).table["certificate"]) == {"uncertified"}


def test_bad_input_is_refused(cells):
    with pytest.raises(ValueError, match="one simulated cell at least"):
        certify(untrained(SCVI(latent=2), MeanField(), cells), cells, simulated=0)


def test_printed_certificates():
    text = str(Certificate(0.0123, 0.004, 0.09, 64, "Ladder(), 1,000 particles"))
    assert text.startswith("certified (gap 0.012): 0.0123 ± 0.0040 nats a cell")
    assert Certificate(0.09, 0.02, 1.0, 64, "").words == "uncertified (gap 0.09)"
