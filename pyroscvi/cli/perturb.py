"""``pyroscvi perturb``: what a change of conditions does to cells."""

from pathlib import Path
from typing import Annotated, Any

from pyroscvi.cli.app import Data, Run, app, drawn, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind, draw
from pyroscvi.cli.using import Using, asked, conditions
from pyroscvi.names import listed

SHOWN = ["gene", "log2_fold_change", "low", "high", "p_change", "rate", "rate_against"]
Setting = Annotated[
    list[str],
    option(
        "A condition, as FIELD=VALUE. May be repeated; several values of one field are a curve, such as along a dose.",
        metavar="FIELD=VALUE",
    ),
]


@app.command("perturb", rich_help_panel="Use")
@grouped
def perturb(
    run: Run,
    data: Data,
    *,
    given: Setting,
    against: Annotated[
        list[str], option("The condition to compare with, as FIELD=VALUE. May be repeated.", metavar="FIELD=VALUE")
    ],
    by: Annotated[str | None, option("Column of obs: effects of each group of cells apart, such as types.")] = None,
    average: Annotated[str | None, option("A field to average over, such as batch.")] = None,
    delta: Annotated[float, option("A change of log2 rate up to this size is none.", min=0)] = 0.25,
    score: Annotated[
        bool,
        option("Score predictions on real cells of both conditions that were held out.", "--score"),
    ] = False,
    out: Annotated[Path | None, option("Write the whole table here.", metavar="OUT.csv")] = None,
    picture: Annotated[Path | None, drawn("Draw the largest effects of every group here.")] = None,
    top: Annotated[int, option("Number of genes to print for each group.", min=1)] = 10,
    how: Using,
) -> None:
    """Predict how the mean rates of cells change under other conditions; they keep their states."""
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.numbers import as_text

    check_kind(out, ".csv")
    check_free(out, picture, force=how.force)
    use = asked(run, data, how)
    fit, one, other = use.run.fit, conditions(given), conditions(against)
    options: dict[str, Any] = {"by": use.column(by), "average": average, "delta": delta, "seed": how.seed}
    field = _repeated(given)
    if field is None:
        table = fit.effect(use.cells, one, other, **options)
    else:
        if score:
            raise ValueError(f"--score is for one condition, and {field!r} has several values: give one of them")
        values = [conditions([text])[field] for text in given if text.startswith(f"{field}=")]
        del one[field]
        table = fit.effect_curve(use.cells, field, values, other, given=one, **options)
    scores = None
    if score:
        if by is None:
            raise ValueError("--score compares groups of cells: name their column with --by")
        unseen = ~use.adata.obs_names.isin(use.run.fitted_on)
        if not unseen.any():
            raise ValueError(f"the run was fitted to every cell of {data}: give cells that were held out of it")
        scores = fit.effect_scores(use.cells.subset(unseen), one, other, use.column(by)[unseen], seed=how.seed)
    if out is not None:
        write_whole(out, lambda file: table.to_csv(file, index=False))
    if picture is not None:
        from pyroscvi.report.differential import curves, largest

        draw(picture, largest(table) if field is None else curves(table, field))
    set_to = " ".join(f"{name}={value}" for name, value in one.items())
    lines = []
    names = [name for name in (field, "group") if name in table]
    for key, rows in table.groupby(names, sort=False) if names else [((), table)]:
        of = dict(zip(names, key, strict=True))
        what = f"{set_to} {field}={of[field]}".strip() if field in of else set_to
        inside = f", in {of['group']}" if "group" in of else ""
        sure = (rows["p_change"] > 0.95).sum()
        lines.append(f"{what} against {' '.join(against)}{inside}: {sure:,} genes change (p > 0.95)")
        lines.append(as_text(rows[SHOWN].head(top), index=False) + "\n")
    if scores is not None:
        lines.append(
            "Beside the change of real cells that were held out: the correlation of mean log2 changes, their root mean "
            "square error, the energy distance of cells, and the share of genes inside the interval (90% is right). "
            'Other predictions: "additive", the mean change of the other groups, and "no change"'
        )
        lines.append(as_text(scores, index=False))
    result = {"effects": table} if scores is None else {"effects": table, "scores": scores}
    how.say(result, lines, table=out, picture=picture)


def _repeated(given: list[str]) -> str | None:
    """The field that has several values; None if each has one."""
    fields = [text.partition("=")[0] for text in given]
    repeated = list(dict.fromkeys(field for field in fields if fields.count(field) > 1))
    if len(repeated) > 1:
        raise ValueError(f"a curve is along one field, and {listed(repeated)} have several values")
    return repeated[0] if repeated else None
