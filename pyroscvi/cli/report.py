"""``pyroscvi report``: a run on three levels, latents, components and loadings, in one page of HTML."""

from pathlib import Path
from typing import Annotated

from pyroscvi.cli.app import Data, Run, app, option
from pyroscvi.cli.grouped import grouped
from pyroscvi.cli.output import check_free, check_kind
from pyroscvi.cli.using import Using, asked


@app.command("report", rich_help_panel="Use")
@grouped
def report(
    run: Run,
    data: Data,
    out: Annotated[Path, option("The page to write.", metavar="OUT.html")],
    *,
    color: Annotated[list[str] | None, option("A column of obs, for the pictures. May be repeated.")] = None,
    how: Using,
) -> None:
    """Report where cells lie, which component they are of, and which genes move them, in one page of HTML."""
    from pyroscvi.analysis.representation import representation
    from pyroscvi.fitting.files import write_whole
    from pyroscvi.report.embedding import projection
    from pyroscvi.workflow.levels import levels

    check_kind(out, ".html")
    check_free(out, force=how.force)
    use = asked(run, data, how)
    xy = projection(representation(use.run.fit, use.cells))
    text = levels(use.run.fit, use.cells, xy, {name: use.column(name) for name in color or ()})
    write_whole(out, lambda file: file.write_text(text, "utf-8"))
    how.say({"report": str(out)}, [], report=out)
