"""Names at the command line are the objects they stand for."""

import re

import pytest

from pyroscvi import parts
from pyroscvi.evidence import Adaptive, Importance, Refined
from pyroscvi.names import snake
from pyroscvi.parts import (
    MLP,
    NB,
    ZINB,
    Condition,
    Decoder,
    Dispersion,
    Embedding,
    Encoder,
    Exponential,
    GammaDispersion,
    Laplace,
    LaplaceLoadings,
    LatentSize,
    Likelihood,
    Linear,
    Loadings,
    LogShare,
    Mixture,
    NormalLoadings,
    OneHot,
    PerBatch,
    PerGene,
    Prior,
    RandomDispersion,
    ReadCell,
    Size,
    StandardNormal,
    VampPrior,
)
from pyroscvi.sugar import estimator, known, parse

SAME = [
    (Prior, "mixture:12", Mixture(components=12)),
    (Prior, "Mixture:components=12", Mixture(components=12)),
    (Prior, "vamp:4", VampPrior(components=4)),
    (Prior, "vamp-prior:4", VampPrior(components=4)),
    (Prior, "laplace:0.5", Laplace(b=0.5)),
    (Prior, "normal", StandardNormal()),
    (Decoder, "linear", Linear()),
    (Decoder, "linear:no", Linear(bias=False)),
    (Decoder, "linear:loadings=(normal:0.5)", Linear(loadings=NormalLoadings(s=0.5))),
    (Decoder, "linear:loadings=laplace", Linear(loadings=LaplaceLoadings())),
    (Decoder, "mlp:256", MLP(widths=256)),
    (Decoder, "mlp:256,128:everywhere=yes", MLP(widths=(256, 128), everywhere=True)),
    (Size, "latent", LatentSize()),
    (Size, "latent_size", LatentSize()),
    (Dispersion, "per_gene:1.5", PerGene(start=1.5)),
    (Likelihood, "nb", NB()),
    (Likelihood, "zinb:per_batch", ZINB(dispersion=PerBatch())),
    (Likelihood, "nb:(gamma:2:0.5)", NB(dispersion=GammaDispersion(b=0.5))),
    (Likelihood, "nb:(random:0:0.5):exponential", NB(dispersion=RandomDispersion(s=0.5), link=Exponential())),
    (Condition, "onehot:donor", OneHot("donor")),
    (Condition, "one_hot:batch + embedding:perturbation:16", OneHot("batch") + Embedding("perturbation", width=16)),
    (Encoder, "read_cell:64:features=log_share", ReadCell(widths=64, features=LogShare())),
    (Encoder, "read_cell:condition=(one_hot:batch+one_hot:drug)", ReadCell(condition=OneHot() + OneHot("drug"))),
]


@pytest.mark.parametrize(("slot", "text", "part"), SAME, ids=[text for _, text, _ in SAME])
def test_a_name_is_the_object(slot, text, part):
    assert repr(parse(slot, text)) == repr(part)
    assert type(parse(slot, text)) is type(part)


@pytest.mark.parametrize("slot", [Prior, Decoder, Size, Dispersion, Likelihood, Loadings, Condition, Encoder])
def test_every_public_part_has_a_name_in_its_slot(slot):
    public = [getattr(parts, name) for name in parts.__all__]
    for part in public:
        if issubclass(part, slot) and part is not slot:
            assert part in known(slot).values()
            assert type(parse(slot, snake(part.__name__))) is part
    for name, part in known(slot).items():
        assert type(parse(slot, name)) is part


@pytest.mark.parametrize(
    ("slot", "text", "message"),
    [
        (Prior, "mixtrue:8", "no prior 'mixtrue'; did you mean 'mixture'? (known: "),
        (Prior, "", "no prior ''"),
        (Prior, "nb", "no prior 'nb'"),
        (Prior, "mixture:eight", "components of mixture cannot be 'eight': it takes int"),
        (
            Prior,
            "mixture:8:kmeans:0:learned_weights:9",
            "'9' is one too many: mixture takes components",
        ),
        (Prior, "mixture:component=8", "did you mean 'components'?"),
        (Prior, "mixture:8 + laplace", "a prior is one part, not a sum"),
        (Decoder, "mlp:256,wide", "widths of mlp cannot be '256,wide'"),
        (Decoder, "linear:perhaps", "no value for bias of linear: 'perhaps'"),
        (Likelihood, "nb:(random:0", "parentheses do not match"),
        (Likelihood, "nb)", "parentheses do not match"),
    ],
)
def test_an_error_says_what_is_known(slot, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(slot, text)


def test_estimators_of_an_evidence_have_names():
    assert repr(estimator()) == repr(estimator("auto")) == "Ladder()"
    assert repr(estimator("refined")) == repr(Importance(Refined()))
    assert repr(estimator("annealed")) == "Annealed()"
    assert repr(estimator("importance", "adaptive:rounds=3")) == repr(Importance(Adaptive(rounds=3)))
    with pytest.raises(ValueError, match=r"'laplace'.*auto, importance, adaptive, refined, annealed"):
        estimator("laplace")
    with pytest.raises(ValueError, match="importance sampling alone"):
        estimator("annealed", "refined")
