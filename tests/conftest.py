import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from command_line import QUICK, run

from pyroscvi.data.cells import Cells
from pyroscvi.data.datasets import simulated
from pyroscvi.data.graph import nearest

collect_ignore_glob = ["reference/*"]  # scripts that made the reference values

# Workers of pytest-xdist, and the kernels and commands they start, share the cores: threads would wait for each other.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)  # numba, at work for scanpy in a test before this one, may have raised it
    torch.manual_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)


@pytest.fixture
def cells() -> Cells:
    """Sixty cells of three types in two batches, half of them annotated, on a piece of tissue.

    Twelve genes were measured in all of them, and three proteins in two thirds.
    """
    n, g = 60, 12
    generator = torch.Generator().manual_seed(1)
    kind = torch.arange(n) % 3
    rate = torch.rand(3, g, generator=generator)[kind] * 10
    annotated = torch.rand(n, generator=generator) < 0.5
    place = torch.rand(n, 2, generator=generator).numpy()
    counts = torch.poisson(rate, generator=generator)
    proteins = torch.where(torch.arange(n)[:, None] % 3 > 0, counts[:, :3] * 5, float("nan"))
    return Cells(
        counts,
        {"batch": torch.arange(n) % 2, "label": torch.where(annotated, kind, -1), "drug": torch.arange(n) // 2 % 4},
        proteins=proteins,
        graph=nearest(place, neighbours=4, section=(torch.arange(n) % 2).numpy()),
        levels={"batch": ("a", "b"), "label": ("B", "NK", "T"), "drug": ("control", "x", "y", "z")},
        genes=tuple(f"gene{i}" for i in range(g)),
        protein_names=("CD3", "CD4", "CD8"),
    )


@pytest.fixture
def named(cells) -> Cells:
    """The same cells, each with a name, and no tissue."""
    return replace(cells, graph=None, names=np.array([f"cell{i}" for i in range(len(cells))]))


@pytest.fixture
def with_covariates(cells) -> Cells:
    """The same cells with two covariates, and no tissue."""
    return replace(cells, covariates=torch.arange(120.0).reshape(60, 2) / 60 - 1, graph=None)


@pytest.fixture
def small(cells) -> Cells:
    """Twenty of the cells, with sizes that do not come from their counts."""
    few = cells.subset(torch.arange(20))
    sizes = few.library.squeeze(-1) * torch.exp(0.1 * torch.randn(20))
    return Cells(few.counts, few.categories, size_factor=sizes, levels=few.levels, genes=few.genes)


@dataclass
class Disk:
    """A small disk of its own, and what fills it."""

    path: Path

    def fill(self) -> None:
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(b"x" * 4096):
                    pass
            except OSError:
                return


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """A disk of 4 MB that is really full once it is filled: what a library raises then cannot be made up."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no command `mount`")
    if done.returncode:
        pytest.skip(f"may not mount a disk to fill: {done.stderr.decode().strip()}")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def comparison():
    """A comparison of four fits, with known numbers."""
    from comparisons import four_fits

    return four_fits()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of 60 cells, for commands."""
    file = tmp_path_factory.mktemp("data") / "cells.h5ad"
    simulated(cells=60, genes=12, seed=0).write_h5ad(file)
    return file


@pytest.fixture(scope="module")
def nb(data) -> Path:
    """The run of a small fit to that file."""
    run("fit", data, "--likelihood", "nb", *QUICK, "--out", data.parent / "nb")
    return data.parent / "nb"
