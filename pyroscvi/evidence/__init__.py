"""Evidence: how probable cells are under a fitted model, and which of several models makes them more probable."""

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.annealed import Annealed
from pyroscvi.evidence.as_counts import as_counts
from pyroscvi.evidence.certificate import Certificate, certify
from pyroscvi.evidence.data_evidence import DataEvidence, data_evidence
from pyroscvi.evidence.estimator import Estimator, Importance
from pyroscvi.evidence.held_out_evidence import HeldOutEvidence
from pyroscvi.evidence.importance import evidence_table, log_evidence
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.proposals import GuideDraws, Proposal, StudentT
from pyroscvi.evidence.refined import Refined

__all__ = [
    "Adaptive",
    "Annealed",
    "Certificate",
    "DataEvidence",
    "Estimator",
    "GuideDraws",
    "HeldOutEvidence",
    "Importance",
    "Ladder",
    "Proposal",
    "Refined",
    "StudentT",
    "as_counts",
    "certify",
    "data_evidence",
    "evidence_table",
    "log_evidence",
]
