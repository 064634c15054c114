"""The two generations of ArviZ: what differs between 0.x and 1.x is known here and nowhere else.

0.x takes one argument a group and gives an InferenceData; 1.x takes one dictionary of groups and gives a DataTree. Both
have ``data["posterior"]``. The version decides, because their names overlap.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

Groups = Mapping[str, Mapping[str, np.ndarray]]


def inference_data(
    groups: Groups, coords: Mapping[str, Any], dims: Mapping[str, Sequence[str]], attrs: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Groups of arrays with named dimensions, as the installed ArviZ has them.

    groups  {group: {variable: [chain, draw, ...]}}; observed data without chain and draw
    attrs   {group: what is to be known of it}, and of all groups together under "/"
    """
    with warnings.catch_warnings():
        for word in ("More chains", "Found chain dimension to be longer"):  # than draws: it was asked for so
            warnings.filterwarnings("ignore", word, UserWarning)
        if first_generation():
            data = arviz().from_dict(**groups, coords=coords, dims=dims)
        else:
            data = arviz().from_dict({group: dict(table) for group, table in groups.items()}, coords=coords, dims=dims)
    for group, values in attrs.items():
        (data if group == "/" else data[group]).attrs.update(values)
    return data


def first_generation() -> bool:
    """Is it a 0.x that is installed?"""
    return int(version("arviz").split(".")[0]) < 1


def arviz() -> Any:
    """The module, imported in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.x whenever it is imported
        import arviz as module
    return module
