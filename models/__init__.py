"""The zoo of models: one generative process a file."""

from typing import TYPE_CHECKING, Any

from pyroscvi.catalogue import public_class

if TYPE_CHECKING:
    from pyroscvi.models.annotated import Annotated as Annotated
    from pyroscvi.models.cvae import CVAE as CVAE
    from pyroscvi.models.gmvae import GMVAE as GMVAE
    from pyroscvi.models.ldvae import LDVAE as LDVAE
    from pyroscvi.models.poisson_lognormal import PoissonLognormal as PoissonLognormal
    from pyroscvi.models.ppca import PPCA as PPCA
    from pyroscvi.models.scvi import SCVI as SCVI


def __getattr__(name: str) -> Any:
    """A page is imported when it is asked for: one of them needs a library that takes seconds to load."""
    return public_class(__name__, name)
