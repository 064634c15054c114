"""The zoo of models: one generative process a file."""

from pyroscvi.models.annotated import Annotated
from pyroscvi.models.cvae import CVAE
from pyroscvi.models.gmvae import GMVAE
from pyroscvi.models.ldvae import LDVAE
from pyroscvi.models.poisson_lognormal import PoissonLognormal
from pyroscvi.models.ppca import PPCA
from pyroscvi.models.scvi import SCVI

__all__ = ["CVAE", "GMVAE", "LDVAE", "PPCA", "SCVI", "Annotated", "PoissonLognormal"]
