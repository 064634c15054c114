"""A part declared with a number out of range is refused; the error names the field, the value and the range."""

import re

import numpy as np
import pytest

from pyroscvi.fitting.declarations import declaration, declared
from pyroscvi.guides import LowRank, SpatialGNN
from pyroscvi.models import GMVAE, PPCA, SCVI, Annotated
from pyroscvi.parts import (
    MLP,
    NB,
    BatchNorm,
    Decoder,
    Embedding,
    GammaDispersion,
    Laplace,
    LaplaceLoadings,
    Mixture,
    NormalLoadings,
    PerGene,
    Prior,
    RandomDispersion,
    ReadCell,
    VampPrior,
)
from pyroscvi.parts.neighbours import Attention, ReadNeighbours
from pyroscvi.sugar import parse

INF, NAN = float("inf"), float("nan")
OUT_OF_RANGE = [
    (MLP, "widths", [0, -1, 2.0, True, None, "128", (128, 0), (0,), (1.5,)]),
    (ReadCell, "widths", [0, (64, -1)]),
    (MLP, "dropout", [-0.1, 1, 1.5, NAN, None]),
    (ReadCell, "dropout", [-0.1, 1.0]),
    (Mixture, "components", [0, -3, 2.5]),
    (Mixture, "equal", [-0.1, 20, NAN]),
    (VampPrior, "components", [0]),
    (Embedding, "width", [0]),
    (Laplace, "b", [0, -1.0, INF, NAN]),
    (NormalLoadings, "s", [0.0]),
    (LaplaceLoadings, "b", [0.0]),
    (RandomDispersion, "m", [INF]),
    (RandomDispersion, "s", [0.0]),
    (GammaDispersion, "a", [0.0]),
    (GammaDispersion, "b", [-1]),
    (PerGene, "start", [NAN, "1"]),
    (BatchNorm, "momentum", [-0.1, 2]),
    (BatchNorm, "eps", [0]),
    (Attention, "attention_heads", [0]),
    (ReadNeighbours, "hops", [0]),
    (LowRank, "rank", [0]),
    (SCVI, "latent", [0, -1, 2.5, "10"]),
    (PPCA, "latent", [0]),
    (GMVAE, "kinds", [0]),
    (Annotated, "trust", [1.5, -0.5]),
]
CASES = [(part, field, value) for part, field, values in OUT_OF_RANGE for value in values]


@pytest.mark.parametrize(("part", "field", "value"), CASES, ids=repr)
def test_a_number_out_of_range_is_refused_when_the_part_is_declared(part, field, value):
    default = getattr(part(), field)
    words = rf"{part.__name__}: {field} must be a .*, not {re.escape(repr(value))} \(the default is {default!r}\)"
    with pytest.raises(ValueError, match=words):
        part(**{field: value})


def test_numbers_at_the_edge_of_their_range_and_numpy_numbers_are_accepted():
    assert ReadCell(widths=(), dropout=0).widths == ()
    assert MLP(widths=[8, np.int64(8)], dropout=np.float32(0.5)).dropout == 0.5
    assert (Mixture(1, equal=1).equal, Annotated(trust=1.0).trust, PerGene(start=-3).start) == (1, 1.0, -3)


@pytest.mark.parametrize(
    ("slot", "text", "words"),
    [(Prior, "mixture:0", "components must be a whole number of 1 or more, not 0"),
     (Decoder, "mlp:-1", "widths must be a whole number of 1 or more, or a tuple of such numbers, not -1"),
     (Decoder, "mlp:128,0", r"widths must be .*, not \(128, 0\)")],
)  # fmt: skip
def test_a_name_with_a_number_out_of_range_is_refused(slot, text, words):
    with pytest.raises(ValueError, match=words):
        parse(slot, text)


def test_a_saved_declaration_with_a_number_out_of_range_is_refused():
    written = declaration(SCVI(latent=3))
    written["fields"]["latent"] = -3
    with pytest.raises(ValueError, match="SCVI: latent must be a whole number of 1 or more, not -3"):
        declared(written)


def test_attention_heads_must_divide_the_width_of_the_encoder(cells):
    encoder = ReadNeighbours(cell=ReadCell(10), convolution=Attention(4))
    with pytest.raises(ValueError, match="attention_heads must divide 10, the encoder's width, not 4"):
        SpatialGNN(encoder=encoder).sized(SCVI(latent=2).sized(cells.dims), cells)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: SCVI(likelihood="nb"), "SCVI: likelihood must be a Likelihood, not 'nb': write likelihood=NB()"),
        (lambda: SCVI(likelihood=NB), "SCVI: likelihood must be a Likelihood, not .*NB.*: write likelihood=NB()"),
        (lambda: SCVI(prior=NB()), "SCVI: prior must be a Prior, not NB(): for example prior=StandardNormal()"),
        (lambda: Mixture(start="kmeans"), "Mixture: start must be a Start, not 'kmeans': write start=KMeans()"),
    ],
)
def test_a_value_of_the_wrong_type_in_a_slot_is_refused(declare, message):
    with pytest.raises(TypeError, match=re.escape(message).replace(r"\.\*", ".*")):
        declare()
