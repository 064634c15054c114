"""``pyroscvi de``: which genes change between groups of cells."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Corrected, Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked


@app.command("de", rich_help_panel="Use")
@grouped
def de(
    run: Run,
    data: Data,
    groups: Annotated[str, option("Column of obs that makes the groups.")],
    *,
    group: Annotated[list[str] | None, option("A group to compare. May be repeated. Default: every group.")] = None,
    reference: Annotated[str, option("The group to compare with; rest: all other cells.")] = "rest",
    donor: Annotated[
        str | None, option("Column of obs: the donor of a cell. Intervals then hold the variation between donors.")
    ] = None,
    within: Annotated[str | None, option("Column of obs: compare within each of its levels, such as types.")] = None,
    delta: Annotated[float, option("A change of log2 rate up to this size is none.", min=0)] = 0.25,
    fdr: Annotated[float, option("Expected share of false discoveries among genes that are called changed.")] = 0.05,
    out: Annotated[Path | None, option("Write the whole table here.", metavar="OUT.csv")] = None,
    picture: Annotated[Path | None, drawn("Draw changes against their evidence here.")] = None,
    top: Annotated[int, option("Number of genes to print for each comparison.", min=1)] = 10,
    corrected: Corrected = False,
    how: Using,
) -> None:
    """Find genes whose mean rate changes between groups of cells, with the probability that they do."""
    from pyroscvi.analysis.differential import SHOWN, differential
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".csv")
    check_free(out, picture, force=how.force)
    use = asked(run, data, how)
    table = differential(
        use.run.fit, use.cells, use.column(groups), group, reference, donor=use.column(donor),
        within=use.column(within), delta=delta, fdr=fdr, corrected=corrected, seed=how.seed, progress=not how.quiet,
    )  # fmt: skip
    if out is not None:
        write_whole(out, lambda file: table.to_csv(file, index=False))
    if picture is not None:
        from pyroscvi.report.differential import changes

        draw(picture, changes(table))
    names = [name for name in ("within", "group", "reference") if name in table]
    lines = []
    for key, rows in table.groupby(names, sort=False):
        *where, one, other = key
        inside = "".join(f", in {name}" for name in where)
        lines.append(f"{one} against {other}{inside}: {rows['changed'].sum():,} genes change")
        lines.append(as_text(rows[SHOWN].head(top), index=False) + "\n")
    if donor is None:
        lines.append("Cells are the unit: intervals are too narrow for cells of other donors. Name donors with --donor")
    how.say(table, lines, table=out, picture=picture)
