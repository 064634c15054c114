"""Options that several commands share: each group is declared once, as a dataclass.

A parameter of a command that is such a dataclass is replaced by one option for each of its fields:

@app.command()
@grouped
def fit(data: Path, *, columns: Columns, seed: int = 0): ...      # --counts, --batch, ..., and then --seed
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, get_type_hints

import typer

__all__ = ["Columns", "Query", "Reading", "Training", "grouped"]

DATA, TRAINING = "Data", "Training"  # the panels of their help


@dataclass(frozen=True)
class Columns:
    """Which columns of the data hold what."""

    counts: Annotated[
        str | None, typer.Option(help="Layer that holds the counts. Default: X.", rich_help_panel=DATA)
    ] = None
    batch: Annotated[str | None, typer.Option(help="Column of obs: batch of a cell.", rich_help_panel=DATA)] = None
    label: Annotated[str | None, typer.Option(help="Column of obs: cell type.", rich_help_panel=DATA)] = None
    category: Annotated[
        list[str] | None, typer.Option(help="Another categorical column of obs. May be repeated.", rich_help_panel=DATA)
    ] = None
    covariate: Annotated[
        list[str] | None, typer.Option(help="A continuous column of obs. May be repeated.", rich_help_panel=DATA)
    ] = None
    size_factor: Annotated[
        str | None, typer.Option(help="Column of obs: size factor, for --size size_factor.", rich_help_panel=DATA)
    ] = None
    spatial: Annotated[
        str | None, typer.Option(help="Key of obsm: coordinates on the tissue.", rich_help_panel=DATA)
    ] = None
    section: Annotated[
        str | None, typer.Option(help="Column of obs: tissue section of a cell.", rich_help_panel=DATA)
    ] = None

    def fields(self) -> dict[str, Any]:
        """The arguments of ``Fields``. ``Fields`` itself is imported later, because its import takes seconds."""
        columns = dict(vars(self))
        categories, covariates = columns.pop("category"), columns.pop("covariate")
        return columns | {"categories": tuple(categories or ()), "covariates": tuple(covariates or ())}


@dataclass(frozen=True)
class Reading:
    """What to do with cells that lack something."""

    unknown: Annotated[
        Literal["error", "allow"],
        typer.Option(help="Levels of a column that are missing or new: an error, or unknown.", rich_help_panel=DATA),
    ] = "error"
    empty: Annotated[
        Literal["error", "drop"],
        typer.Option(help="Cells without counts: an error, or left out.", rich_help_panel=DATA),
    ] = "error"

    def options(self) -> dict[str, Any]:
        """The options of ``Fields.read``."""
        return dict(vars(self))


@dataclass(frozen=True)
class Query(Reading):
    """The same, for cells that a fit reads: it knows which genes it needs."""

    missing: Annotated[
        Literal["error", "zero"],
        typer.Option(help="Genes of the fit that the data lack: an error, or zero counts.", rich_help_panel=DATA),
    ] = "error"


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    epochs: Annotated[
        int | None,
        typer.Option(
            help="Number of passes over the cells. Default: by their number.", min=1, rich_help_panel=TRAINING
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(help="Number of cells in a minibatch.", min=1, rich_help_panel=TRAINING)
    ] = 128
    lr: Annotated[float, typer.Option(help="Learning rate.", min=0, rich_help_panel=TRAINING)] = 3e-3
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps", rich_help_panel=TRAINING)] = "auto"
    stop_by: Annotated[
        Literal["elbo", "evidence"],
        typer.Option(help="Stop early when this no longer improves on validation cells.", rich_help_panel=TRAINING),
    ] = "elbo"

    def settings(self) -> dict[str, Any]:
        """The arguments of ``fit``."""
        from pyroscvi.sugar import stopping

        settings = dict(vars(self))
        return settings | {"early_stopping": stopping(settings.pop("stop_by"))}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the fields of its dataclass parameters as parameters of its own, for typer to read."""
    parameters: list[Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter)
            continue
        group = groups[parameter.name] = parameter.annotation
        hints = get_type_hints(group, include_extras=True)
        parameters += [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(group)
        ]

    @wraps(command)
    def called(**given: Any) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**given, **made)

    wrapped: Any = called
    wrapped.__signature__ = signature(command).replace(parameters=parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
