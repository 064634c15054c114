"""Options that several commands share: declared once, as a dataclass, and laid out where a command takes one.

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

__all__ = ["Columns", "Training", "grouped"]

DATA, TRAINING = "Data", "Training"  # the panels of their help
Column = Annotated[str | None, typer.Option(help="A column of obs.", rich_help_panel=DATA)]


@dataclass(frozen=True)
class Columns:
    """Where things are in the data."""

    counts: Annotated[str | None, typer.Option(help="The layer with counts; X if none.", rich_help_panel=DATA)] = None
    batch: Column = None
    label: Column = None
    category: Annotated[
        list[str] | None, typer.Option(help="More categorical columns; may be repeated.", rich_help_panel=DATA)
    ] = None
    covariate: Annotated[
        list[str] | None, typer.Option(help="Continuous columns; may be repeated.", rich_help_panel=DATA)
    ] = None
    size_factor: Column = None
    spatial: Annotated[str | None, typer.Option(help="A key of obsm: coordinates.", rich_help_panel=DATA)] = None
    section: Annotated[str | None, typer.Option(help="A column of obs: tissue sections.", rich_help_panel=DATA)] = None

    def fields(self) -> dict[str, Any]:
        """As ``Fields`` takes them, which the command line does not import before it must."""
        told = dict(vars(self))
        return told | {
            "categories": tuple(told.pop("category") or ()),
            "covariates": tuple(told.pop("covariate") or ()),
        }


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    epochs: Annotated[int | None, typer.Option(help="Passes over the cells.", min=1, rich_help_panel=TRAINING)] = None
    batch_size: Annotated[int, typer.Option(help="Cells a minibatch.", min=1, rich_help_panel=TRAINING)] = 128
    lr: Annotated[float, typer.Option(help="Learning rate.", min=0, rich_help_panel=TRAINING)] = 3e-3
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps", rich_help_panel=TRAINING)] = "auto"
    stop_by: Annotated[
        Literal["elbo", "evidence"],
        typer.Option(help="Stop where cells left out have their best of this.", rich_help_panel=TRAINING),
    ] = "elbo"

    def settings(self) -> dict[str, Any]:
        """As ``fit`` takes them."""
        from pyroscvi.sugar import stopping

        settings = dict(vars(self))
        return settings | {"early_stopping": stopping(settings.pop("stop_by"))}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclass parameters have their fields in their place, as typer reads a signature."""
    laid: list[Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            laid.append(parameter)
            continue
        group = groups[parameter.name] = parameter.annotation
        hints = get_type_hints(group, include_extras=True)
        laid += [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
            for f in fields(group)
        ]

    @wraps(command)
    def called(**given: Any) -> None:
        made = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**given, **made)

    told: Any = called
    told.__signature__ = signature(command).replace(parameters=laid)
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in laid}
    return called
