"""Evidence: how probable cells are under a fitted model, and which of several models makes them more probable."""

from pyroscvi.evidence.counting import as_counts
from pyroscvi.evidence.importance import evidence_table, log_evidence
from pyroscvi.evidence.proposals import GuideDraws, Proposal, StudentT
from pyroscvi.evidence.refined import Refined

__all__ = ["GuideDraws", "Proposal", "Refined", "StudentT", "as_counts", "evidence_table", "log_evidence"]
