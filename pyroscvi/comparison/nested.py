"""Nested models: a model that contains another one can do at least as well, so that it should not be behind.

A Poisson is a negative binomial with an infinite inverse dispersion, a standard normal prior is a mixture with one
component, and a dimension of z that the decoder does not use changes nothing. If the larger one is behind all the same,
its training did not find what the smaller one found, or its additional parameters overfit.
A guide with a larger family counts as larger too. It does not change the model, but a model is trained better with it.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pyroscvi.evidence.reader import pair
from pyroscvi.guides import FullCovariance, LowRank, MeanField
from pyroscvi.part import Part
from pyroscvi.parts.likelihoods import NB, ZINB, ZIP, Poisson
from pyroscvi.parts.priors import Mixture, StandardNormal
from pyroscvi.program import Fitted, Pair

CONTAINED_IN: dict[type, tuple[type, ...]] = {
    Poisson: (ZIP, NB, ZINB),
    ZIP: (ZINB,),
    NB: (ZINB,),
    StandardNormal: (Mixture,),
    MeanField: (LowRank, FullCovariance),
    LowRank: (FullCovariance,),
}
SIZE_FIELDS = ("latent", "components", "kinds", "rank")  # fields of which a larger number contains every smaller one


def contains(larger: Any, smaller: Any) -> bool:
    """Whether a declared part contains another one, or is equal to it. Fields that only one of them has are free.

    >>> contains(ZINB(), Poisson()), contains(Mixture(8), Mixture(4)), contains(NB(), ZINB())
    (True, True, False)
    """
    if repr(larger) == repr(smaller):
        return True
    if not isinstance(larger, Part) or type(larger) not in (type(smaller), *CONTAINED_IN.get(type(smaller), ())):
        return False
    shared = {f.name for f in fields(larger)} & {f.name for f in fields(smaller)}  # type: ignore[arg-type]
    both = ((name, getattr(larger, name), getattr(smaller, name)) for name in shared)
    return all(contains(a, b) or (name in SIZE_FIELDS and a > b) for name, a, b in both)


def nested(fits: Mapping[str, Fitted | Pair]) -> list[tuple[str, str]]:
    """Names of fits of which the first contains the second, and is not the same."""
    declared = {name: pair(fit) for name, fit in fits.items()}
    return [
        (larger, smaller)
        for larger, (model, guide) in declared.items()
        for smaller, (other, its_guide) in declared.items()
        if repr((model, guide)) != repr((other, its_guide)) and contains(model, other) and contains(guide, its_guide)
    ]
