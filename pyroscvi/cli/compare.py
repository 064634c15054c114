"""``pyroscvi compare``: which of several runs explains cells better that none of them was fitted on."""

from pathlib import Path

import torch

from pyroscvi.cli.data import read_data
from pyroscvi.cli.files import draw, free, whole
from pyroscvi.cli.runs import Run, read_run
from pyroscvi.cli.terminal import terminal
from pyroscvi.data.cells import Cells
from pyroscvi.evidence.compare import compare, show
from pyroscvi.evidence.proposals import Proposal
from pyroscvi.report import plots
from pyroscvi.sugar import parse

__all__ = ["compare_runs"]


def compare_runs(
    runs: list[Path],
    data: Path,
    *,
    particles: int = 1000,
    seed: int = 0,
    proposal: str | None = None,
    by: str | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    pages: list[Path] | None = None,
    force: bool = False,
) -> None:
    for file in (out, picture):
        if file is not None:
            free(file, force)
    drawn = None if proposal is None else parse(Proposal, proposal)
    found = dict(zip(_names(runs), (read_run(run, pages or ()) for run in runs), strict=True))
    adata = read_data(data)
    unseen = ~adata.obs_names.isin(set().union(*(run.fitted_on for run in found.values())))
    if not unseen.any():
        raise ValueError(
            f"every cell of {data} was fitted on by one of the runs: fit with --held-out, or give other cells"
        )
    print(f"{unseen.sum():,} of {len(adata):,} cells of {data} that no run was fitted on")

    def read(run: Run) -> Cells:
        """Unseen cells by name, each with its neighbours in the tissue whether they were seen or not."""
        cells = run.fit.fields.read(adata)
        return cells.subset(torch.as_tensor(unseen.nonzero()[0]), hops=run.fit.guide.encoder.hops)

    fits = {name: run.fit for name, run in found.items()}
    table = compare(fits, {name: read(run) for name, run in found.items()}, particles, seed, by=by, proposal=drawn)
    terminal().print(show(table))
    if out is not None:
        whole(out, table.to_csv)
    if picture is not None:
        draw(picture, plots.comparison(table))


def _names(runs: list[Path]) -> list[str]:
    """The folders' own names, or whole paths where two of those are the same."""
    names = [run.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise ValueError("a run is named twice")
    return names
