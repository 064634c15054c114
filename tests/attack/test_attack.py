"""A quick part of every attack; ``python -m tests.attack`` runs all of them with as many inputs as are asked for."""

import pytest

from .__main__ import ATTACKS
from .inputs import CHANGES
from .runner import run

SEEDS = {
    "reading": range(len(CHANGES) + 50),
    "several": range(1, 150, 20),
    "bytes": range(6),
    "runs": range(4),
    "evidences": range(4),
    "resumed": (0, 1, 4, 22),
    "structure": range(0, 40, 5),
    "commands": range(0, 120, 30),
    "fits": range(0, 36, 5),
    "names": (0, 3, 5, 8),
    "state": (1, 3, 5, 9),
    "kills": range(1),
    "interrupts": range(3),
    "interrupted commands": range(1),
    "threads": range(2),
    "disks": range(2),
}


@pytest.mark.filterwarnings("ignore")  # odd inputs are warned of
@pytest.mark.parametrize("name", SEEDS)
def test_no_input_crashes_or_is_accepted_wrongly(name):
    summary = run([(name, ATTACKS[name][0], SEEDS[name])])
    assert not summary.defects, str(summary)
