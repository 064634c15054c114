"""Predictions of an effect that are hard to beat [Ahlmann-Eltze et al., 2025, doi:10.1038/s41592-025-02772-6].

Groups are types that respond to one perturbation, or perturbations of one type.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

Group = TypeVar("Group", bound=Hashable)


def baselines(
    effects: Mapping[Group, np.ndarray], like: Mapping[Group, np.ndarray], target: Group
) -> dict[str, np.ndarray]:  # fmt: skip
    """Predictions of the log change of every gene in the group ``target``, from the changes in other groups.

    effects  log changes of all groups [g]; that of the target is not used
    like     what makes groups alike [.], such as log rates before the change

    no change  zero: cells stay as controls are
    additive   the mean change of the other groups
    nearest    the change of the group at the smallest distance
    """
    others = [group for group in effects if group != target]
    zero = np.zeros_like(effects[target] if target in effects else effects[others[0]], dtype=float)
    if not others:
        return {"no change": zero}
    nearest = min(others, key=lambda group: ((like[group] - like[target]) ** 2).sum())
    mean = np.mean([effects[group] for group in others], axis=0)
    return {"no change": zero, "additive": mean, "nearest": effects[nearest]}
