"""Sample sites of a model: which of Pyro's messages are random variables, and which of these belong to one cell."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.util import site_is_subsample


def is_sampled(site: Any) -> bool:
    """True for a random variable, latent or observed; False for a plate's choice of rows and for parameters."""
    return site["type"] == "sample" and not site_is_subsample(site)


def is_latent(site: Any) -> bool:
    """True for a random variable that the model does not observe."""
    return is_sampled(site) and not site["is_observed"]


def is_local(site: Any) -> bool:
    """True for a site inside the plate over cells: it has one value for each cell."""
    return any(frame.name == "cells" for frame in site["cond_indep_stack"])


def sampled(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The random variables among the nodes of a trace, by name and in their order."""
    return {name: node for name, node in nodes.items() if is_sampled(node)}
