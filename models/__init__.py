"""The zoo of models: one file for each generative process."""

from typing import TYPE_CHECKING, Any

from pyroscvi.catalogue import public_class

if TYPE_CHECKING:
    from pyroscvi.models.ambient import Ambient
    from pyroscvi.models.annotated import Annotated
    from pyroscvi.models.cvae import CVAE
    from pyroscvi.models.deconvolution import Deconvolution
    from pyroscvi.models.domains import Domains
    from pyroscvi.models.donors import Donors
    from pyroscvi.models.gmvae import GMVAE
    from pyroscvi.models.hierarchical import Hierarchical
    from pyroscvi.models.latent_tree import LatentTree
    from pyroscvi.models.ldvae import LDVAE
    from pyroscvi.models.mixture import Mixture
    from pyroscvi.models.perturbed import Perturbed
    from pyroscvi.models.poisson_lognormal import PoissonLognormal
    from pyroscvi.models.ppca import PPCA
    from pyroscvi.models.proteins import Proteins
    from pyroscvi.models.scanvi import SCANVI
    from pyroscvi.models.scvi import SCVI
    from pyroscvi.models.spillover import Spillover
    from pyroscvi.models.topics import Topics

__all__ = [
    "CVAE",
    "GMVAE",
    "LDVAE",
    "PPCA",
    "SCANVI",
    "SCVI",
    "Ambient",
    "Annotated",
    "Deconvolution",
    "Domains",
    "Donors",
    "Hierarchical",
    "LatentTree",
    "Mixture",
    "Perturbed",
    "PoissonLognormal",
    "Proteins",
    "Spillover",
    "Topics",
]


def __getattr__(name: str) -> Any:
    """Import a page when it is first used: some pages need libraries that take seconds to import."""
    return public_class(__name__, name)
