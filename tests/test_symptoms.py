"""A fit that went wrong is reported, with the words of a heading in docs/troubleshooting.md."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from fits import quick

from pyroscvi.fitting.symptoms import symptoms
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI

ROOT = Path(__file__).parent.parent


def test_a_collapsed_latent_and_a_fit_that_has_not_converged_are_reported(cells):
    fit = quick(SCVI(latent=2), MeanField(), cells)
    flat, spread = np.zeros((60, 2)), np.random.default_rng(0).normal(size=(60, 2))
    settled, rises = (replace(fit, record={"mean_bounds": {"elbo_held_out": [-9.0, end]}}) for end in (-9.0, -5.0))
    assert symptoms(settled, spread) == []
    (collapsed,) = symptoms(settled, flat)
    assert collapsed.endswith('says more: "the latent space has collapsed"')
    (early,) = symptoms(rises, spread)
    assert early.startswith("the held-out bound still rose when training ended")


def test_every_symptom_that_a_message_names_is_a_heading_of_the_page():
    headings = {
        line[3:].lower() for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines() if line[:3] == "## "
    }
    named = {
        symptom.lower()
        for file in (ROOT / "pyroscvi").rglob("*.py")
        for symptom in re.findall(r'troubleshooting\(\s*"([^"]+)"', file.read_text())
    }
    assert named
    assert named <= headings
