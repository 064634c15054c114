"""``pyroscvi abundance``: which types of cells become more or less frequent between conditions."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked


@app.command("abundance", rich_help_panel="Use")
@grouped
def abundance(
    run: Run,
    data: Data,
    groups: Annotated[str, option("Column of obs that makes the groups, such as the condition.")],
    *,
    donor: Annotated[str, option("Column of obs: the donor of a cell, the unit of the comparison.")],
    types: Annotated[
        str | None, option("Column of obs: types or clusters. Default: the types of the run, by their probabilities.")
    ] = None,
    group: Annotated[list[str] | None, option("A group to compare. May be repeated. Default: every group.")] = None,
    reference: Annotated[str, option("The group to compare with; rest: all other cells.")] = "rest",
    against: Annotated[
        str | None, option("A type that is taken as constant. Default: each type is compared with all other cells.")
    ] = None,
    delta: Annotated[float, option("A change of log2 odds up to this size is none.", min=0)] = 0.25,
    fdr: Annotated[float, option("Expected share of false discoveries among types that are called changed.")] = 0.05,
    out: Annotated[Path | None, option("Write the table here.", metavar="OUT.csv")] = None,
    picture: Annotated[Path | None, drawn("Draw the change of every type with its interval here.")] = None,
    how: Using,
) -> None:
    """Find types of cells whose share changes between groups of donors, with the probability that it does."""
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".csv")
    check_free(out, picture, force=how.force)
    use = asked(run, data, how, labels=False)
    table = use.run.fit.abundance(
        use.cells, use.column(groups), group, reference, donor=use.column(donor), types=use.column(types),
        against=against, delta=delta, fdr=fdr, seed=how.seed,
    )  # fmt: skip
    if out is not None:
        write_whole(out, lambda file: table.to_csv(file, index=False))
    if picture is not None:
        from pyroscvi.report.differential import abundances

        draw(picture, abundances(table))
    how.say(table, [as_text(table, index=False)], table=out, picture=picture)
