"""Decoders whose dimensions can be read: curves that are added, and factors that read the genes of a set."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from fits import quick
from pyro import poutine
from torch.testing import assert_close

import pyroscvi as ps
from pyroscvi.guides import MeanField
from pyroscvi.models import LDVAE, Perturbed
from pyroscvi.parts import (
    MLP,
    Additive,
    GeneSets,
    Identity,
    Linear,
    NormalLoadings,
    Perturbation,
    Profile,
    ReadCell,
)

SETS = {"first": ["gene0", "gene2", "elsewhere"], "second": ("gene7",)}


def sized(decoder, cells, latent=3, conditions=2, heads=("rho", "gate")):
    return decoder.sized(cells.dims, latent=latent, conditions=conditions, heads=heads)


def test_additive_with_linear_networks_is_linear(cells):
    additive, linear = sized(Additive(units=4, activation=Identity()), cells), sized(Linear(), cells)
    with torch.no_grad():
        for head, layer in additive.heads.items():
            W = torch.einsum("guj,ju->gj", layer.weight[:, :12].view(12, 3, 4).transpose(1, 2), additive.a)
            linear.heads[head].weight.copy_(torch.cat([W, layer.weight[:, 12:]], 1))
            linear.heads[head].bias.copy_(layer.bias)
    z, d = torch.randn(2, 5, 3), torch.randn(5, 2)
    one, two = additive(z, d), linear(z, d)
    assert one.keys() == two.keys()
    for head in one:
        assert_close(one[head], two[head])


def test_effects_of_dimensions_add_up_and_vanish_at_zero(cells):
    decoder = sized(Additive(), cells)
    z, d = torch.randn(5, 3), torch.zeros(5, 2)
    origin = decoder(torch.zeros(5, 3), d)["rho"]
    effects = [decoder(z * torch.eye(3)[j], d)["rho"] - origin for j in range(3)]
    assert_close(sum(effects) + origin, decoder(z, d)["rho"], atol=1e-5, rtol=0)
    assert_close(origin[0], decoder.heads["rho"].bias)


def test_a_profile_is_a_linear_decoder_without_a_state(cells):
    profile, linear = sized(Profile(), cells), sized(Linear(), cells, latent=0)
    profile.load_state_dict(linear.state_dict())
    z, d = torch.randn(4, 5, 3), torch.randn(5, 2)
    one, two = profile(z, d), linear(z[0, :, :0], d)
    for head in one:
        assert_close(one[head], two[head].expand(4, 5, -1))


def test_effects_are_added_to_a_profile_whatever_the_state(cells):
    page = Perturbed(decoder=Profile(), perturbation=Perturbation("drug", control="control")).sized(cells.dims)
    E = torch.randn(12, 4)
    for _ in range(2):
        latents = {"z": torch.randn(60, 10), "E": E.flatten()}
        mu = poutine.trace(poutine.condition(page, data=latents)).get_trace(cells).nodes["x"]["fn"].mu
        share = page.decoder.heads["rho"](page.condition(cells)) + page.perturbation(cells) @ E.mT
        assert_close(mu, cells.library * share.softmax(-1))


def test_an_additive_decoder_is_fitted_and_is_not_taken_for_a_linear_one(cells):
    f = quick(LDVAE(latent=3, decoder=Additive(units=4)), MeanField(), cells)
    assert np.isfinite(f.history["loss"]).all()
    with pytest.raises(ValueError, match="is not linear, so it has no loadings"):
        f.loadings()


@pytest.mark.parametrize("loadings", [Linear().loadings, NormalLoadings()], ids=repr)
def test_a_factor_has_an_effect_on_the_genes_of_its_set_only(loadings, cells, tmp_path):
    f = quick(LDVAE(latent=3, decoder=Linear(loadings=loadings, factors=GeneSets(SETS))), MeanField(), cells)
    table = f.loadings()
    assert list(table.columns) == ["first", "second", "z2"]
    assert set(table.index[table["first"] != 0]) == {"gene0", "gene2"}
    assert set(table.index[table["second"] != 0]) == {"gene7"}
    assert (table["z2"] != 0).all()
    f.save(tmp_path / "fit")
    again = ps.load(tmp_path / "fit")
    pd.testing.assert_frame_equal(again.loadings(), table)
    assert again.model.decoder.factors.names == ("first", "second")


def test_sets_of_all_genes_are_no_sets(cells):
    masked, plain = sized(Linear(factors=GeneSets({"all": cells.genes})), cells), sized(Linear(), cells)
    plain.load_state_dict({name: t for name, t in masked.state_dict().items() if name != "mask"})
    z, d = torch.randn(2, 5, 3), torch.randn(5, 2)
    assert_close(masked(z, d), plain(z, d))


def test_sets_are_read_from_varm(cells):
    names = [f"gene{i}" for i in range(12)]
    table = pd.DataFrame({"a": np.arange(12) < 2, "b": np.arange(12) == 5}, index=names)
    adata = anndata.AnnData(cells.x.numpy(), var=pd.DataFrame(index=names), varm={"programs": table})
    assert GeneSets.from_varm(adata, "programs").sets == (("a", ("gene0", "gene1")), ("b", ("gene5",)))
    with pytest.raises(KeyError, match=r"varm has no 'sets' \(gene sets\); it has 'programs'"):
        GeneSets.from_varm(adata, "sets")


def test_sets_that_cannot_be_matched_are_refused_in_words(cells):
    def refusal(sets, latent=3, cells=cells):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the words are compared below
            sized(Linear(factors=GeneSets(sets)), cells, latent)
        return str(refused.value)

    assert refusal({"x": ["SOX2", "SOX9"]}) == "gene set 'x': the data have none of its genes, 'SOX2', 'SOX9'"
    assert "there are 2 gene sets and latent=1" in refusal(SETS, latent=1)
    assert "have no names of genes" in refusal(SETS, cells=replace(cells, genes=None))
    with pytest.raises(TypeError, match="a list of names, not one text"):
        GeneSets({"x": "SOX2"})
    with pytest.raises(ValueError, match="give at least one set"):
        GeneSets()


@pytest.mark.parametrize("part", [MLP, ReadCell])
def test_widths_are_positive_whole_numbers(part):
    with pytest.raises(ValueError, match="widths must be a whole number of 1 or more, or a tuple of such numbers"):
        part(widths=-1)
