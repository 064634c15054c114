"""Where adaptive importance sampling starts: at the guide's Gaussian, and at the prior of every component."""

import torch

from pyroscvi.evidence.matched import Matched
from pyroscvi.evidence.proposals import Elliptical, Mixed, Proposal, beside, by_component, widened

AMONG = 0.5  # share of the first draws that come from the matched Gaussian, where components have priors


class AtComponents(Proposal):
    """Student-t about the prior of every component of a mixture, and about a Gaussian that is matched to the posterior.

    The component that explains the cell best there starts at that Gaussian, as do latents whose prior is the same for
    all components. If no prior depends on the component, all of them start there, and the last part is the guide's own.
    """

    centre: Proposal = Matched()
    own: float = 0.1

    def forward(self, q, log_joint):
        matched: Mixed = self.centre(q, log_joint)
        centre = matched.parts.part(0)
        log_p = by_component(log_joint)(centre.loc.unsqueeze(0))[:, 0]  # [k, n]
        priors = getattr(log_joint, "component_priors", lambda: None)()
        loc, scale_tril = (t.expand(len(log_p), *t.shape) for t in centre[:2])
        if priors is None:
            return beside(
                Elliptical(loc, scale_tril), log_p, widened(q), self.own, matched.spread, matched.size.expand_as(log_p)
            )
        prior, scale = priors  # NaN where the prior does not depend on the component
        here = (log_p == log_p.amax(0)).unsqueeze(-1)
        loc = torch.where(here | prior.isnan(), loc, prior)
        elsewhere = torch.where(scale.isnan().unsqueeze(-1), scale_tril, scale.nan_to_num().diag_embed())
        parts = Elliptical(loc, torch.where(here.unsqueeze(-1), scale_tril, elsewhere))
        even = torch.zeros_like(log_p)
        return beside(parts, even, widened(centre), AMONG, None, matched.size.where(here[..., 0], 0.0))
