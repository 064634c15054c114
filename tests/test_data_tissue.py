"""Coordinates become a graph: cells without coordinates, and sections without names."""

import warnings

import numpy as np
import pytest

from pyroscvi.data import Fields, Nearest, simulated


def test_a_cell_whose_coordinates_are_missing_has_no_neighbours():
    adata = simulated(cells=40, genes=8, sections=1)
    complete = Fields(spatial="spatial", graph=Nearest(3)).read(adata[np.arange(40) != 7]).graph
    adata.obsm["spatial"][7] = np.nan
    with pytest.warns(UserWarning, match=r"coordinates \(obsm\['spatial'\]\): 1 of 40 cells have no coordinates"):
        graph = Fields(spatial="spatial", graph=Nearest(3)).read(adata).graph
    assert graph[7].nnz == graph[:, 7].nnz == 0
    others = np.delete(np.arange(40), 7)
    assert (graph[others][:, others] != complete).nnz == 0
    adata.obsm["spatial"][:] = np.nan
    with pytest.warns(UserWarning, match="40 of 40 cells"), pytest.raises(ValueError, match="no cell has any"):
        Fields(spatial="spatial").read(adata)


def test_sections_that_overlap_are_named_in_a_warning():
    adata = simulated(cells=80, genes=8, sections=4)
    wanted = r"cells of 4 levels of obs\['section'\] lie in the same place.*: Fields\(section='section'\)"
    with pytest.warns(UserWarning, match=wanted) as caught:
        Fields(spatial="spatial").read(adata)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fields(spatial="spatial", section="section").read(adata)
        adata.obsm["spatial"][:, 0] += 2 * adata.obs["section"].cat.codes  # side by side
        Fields(spatial="spatial").read(adata)
