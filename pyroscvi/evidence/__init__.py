"""Evidence: how probable cells are under a fitted model.

Results
    table              log p(x_n) of every cell, and its error
    certificate        how far off these can be, measured on simulated cells
    data_evidence      log p(x_1 .. x_N) of all cells together, where they share latents
    held_out_evidence  the evidence by which a fit may stop
    as_counts          a density of log counts, scored as a probability of counts

Estimators, from quick to careful
    ladder             for every cell the cheapest of those below that can be trusted
    estimator          the slot, what it integrates, closed forms, and importance sampling from a proposal
    annealed           annealed importance sampling

Proposals: distributions from which latents are drawn
    proposals          the slot; the guide's Gaussian, and the same with Student-t tails
    matched            a Gaussian that has the scores of the posterior
    at_components      that Gaussian, and the priors of a mixture's components
    adaptive           moved to where its own weights are large
    refined            about the modes of p(x, u)
    peaks              about the modes of latents that cells share

Parts that they share
    reader             a fit and cells, copied once, in minibatches that are ready to be integrated
    joint              log p(x_n, u_n), discrete sites summed out
    coordinates        continuous latents, unconstrained and concatenated to one vector u
    held               a model and guide whose shared latents are held at the centre of their posterior
    shared_latents     log p(x_1 .. x_N, u) of latents u that cells share; a guide of only these, or of the others
    simulated          cells that the model simulates, and the posterior draws that come with them
    importance         estimates from log weights, and k-hat: how heavy the tail of the weights is
    resampling         posterior draws, by importance resampling
    streams            random numbers of each cell
    points             points that are more even than random ones, for proposals
    memory             how many cells and draws fit into memory at once
"""

from pyroscvi.evidence.adaptive import Adaptive
from pyroscvi.evidence.annealed import Annealed
from pyroscvi.evidence.as_counts import as_counts
from pyroscvi.evidence.certificate import Certificate, certify
from pyroscvi.evidence.data_evidence import DataEvidence, data_evidence
from pyroscvi.evidence.estimator import Estimator, Importance
from pyroscvi.evidence.held_out_evidence import HeldOutEvidence
from pyroscvi.evidence.ladder import Ladder
from pyroscvi.evidence.proposals import GuideDraws, Proposal, StudentT
from pyroscvi.evidence.reader import Reader
from pyroscvi.evidence.refined import Refined
from pyroscvi.evidence.table import evidences, log_evidence

__all__ = [
    "Adaptive", "Annealed", "Certificate", "DataEvidence", "Estimator", "GuideDraws", "HeldOutEvidence", "Importance",
    "Ladder", "Proposal", "Reader", "Refined", "StudentT", "as_counts", "certify", "data_evidence", "evidences",
    "log_evidence",
]  # fmt: skip
