"""Options that several commands share: each group is declared once, as a dataclass.

A parameter of a command that is such a dataclass is replaced by one option for each of its fields:

@app.command()
@grouped
def fit(data: Path, *, columns: Columns, seed: int = 0): ...      # --counts, --batch, ..., and then --seed

In a command of the class ``Several``, --likelihood nb zinb poisson is --likelihood nb --likelihood zinb ...
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand

from pyroscvi.catalogue import pages


def panel(name: str | None = None, metavar: str | None = None) -> Callable[..., Any]:
    """``typer.Option``, which takes its help first, for the options in one panel of the help."""

    def option(help: str, *names: str, metavar: str | None = metavar, **settings: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=name, metavar=metavar, **settings)

    return option


def completing(*kinds: str) -> Callable[[str], list[tuple[str, str]]]:
    """Completes the name of a page of these kinds, and shows its headline."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return [(p.name, p.headline) for p in pages().values() if p.kind in kinds and p.name.startswith(incomplete)]

    return complete


in_model, in_data, in_training = map(panel, ("Model", "Data", "Training"))
choices = panel("Choices of a sweep", metavar="CHOICE ...")


@dataclass(frozen=True)
class Slots:
    """A model and a guide, and the parts in their slots."""

    model: Annotated[
        str,
        in_model("A model that `pyroscvi list` prints, or the file of your own.", autocompletion=completing("models")),
    ] = "scvi"
    guide: Annotated[
        str,
        in_model(
            "The family of the posterior: a guide that `pyroscvi list` prints.", autocompletion=completing("guides")
        ),
    ] = "mean_field"
    latent: Annotated[int | None, in_model("Number of dimensions of the latent space.", min=1)] = None
    likelihood: Annotated[str | None, in_model("Distribution of the counts: poisson, nb, zinb, zip, ...")] = None
    dispersion: Annotated[
        str | None, in_model("Dispersion of the counts: per_gene, per_batch, per_label, per_cell, random")
    ] = None
    prior: Annotated[str | None, in_model("Prior of the latents: normal, mixture:8, vamp:32, field, ...")] = None
    decoder: Annotated[str | None, in_model("Decoder: linear, mlp:256,128, ...")] = None
    size: Annotated[str | None, in_model("Size of a cell: observed, latent, size_factor")] = None
    condition: Annotated[
        str | None, in_model("Conditions of the decoder: one_hot:batch, embedding:drug:16, ..., or a sum with +")
    ] = None
    encoder: Annotated[str | None, in_model("Encoder of the guide: read_cell:256,128, ...")] = None


@dataclass(frozen=True)
class Choices:
    """The same slots, each with several words."""

    model: Annotated[list[str] | None, choices("Models that `pyroscvi list` prints, or files of your own.")] = None
    guide: Annotated[list[str] | None, choices("Guides: mean_field, full_covariance, low_rank, ...")] = None
    latent: Annotated[list[str] | None, choices("Numbers of latent dimensions: 5 10 20")] = None
    likelihood: Annotated[list[str] | None, choices("Distributions of the counts: poisson, nb, zinb, zip, ...")] = None
    dispersion: Annotated[list[str] | None, choices("Dispersions: per_gene, per_batch, per_label, per_cell, ...")] = (
        None
    )
    prior: Annotated[list[str] | None, choices("Priors: normal, mixture:8, laplace, vamp:32, ...")] = None
    decoder: Annotated[list[str] | None, choices("Decoders: linear, mlp:256,128, ...")] = None
    size: Annotated[list[str] | None, choices("Sizes of a cell: observed, latent, size_factor")] = None
    condition: Annotated[list[str] | None, choices("Conditions: one_hot:batch, embedding:donor:16, ...")] = None
    encoder: Annotated[list[str] | None, choices("Encoders of the guide: read_cell:256,128, ...")] = None


@dataclass(frozen=True)
class Columns:
    """Which columns of the data hold what."""

    counts: Annotated[str | None, in_data("Layer that holds the counts. Default: X.")] = None
    values: Annotated[
        str | None, in_data("Layer with values that are not counts, for --likelihood normal. X reads X.")
    ] = None
    batch: Annotated[str | None, in_data("Column of obs: batch of a cell.")] = None
    label: Annotated[str | None, in_data("Column of obs: cell type.")] = None
    unlabelled: Annotated[str | None, in_data("A label that means: not known. Missing values mean it too.")] = None
    belief: Annotated[
        str | None, in_data("Key of obsm: a weight of every type for each cell, in place of certain labels.")
    ] = None
    category: Annotated[list[str] | None, in_data("Another categorical column of obs. May be repeated.")] = None
    covariate: Annotated[list[str] | None, in_data("A continuous column of obs. May be repeated.")] = None
    size_factor: Annotated[str | None, in_data("Column of obs: size factor, for --size size_factor.")] = None
    proteins: Annotated[str | None, in_data("Key of obsm: counts of surface proteins.")] = None
    spatial: Annotated[str | None, in_data("Key of obsm: coordinates on the tissue.")] = None
    section: Annotated[str | None, in_data("Column of obs: tissue section of a cell.")] = None
    graph: Annotated[
        str | None, in_data("Neighbours in the tissue: nearest:6 (the default), radius:50, delaunay, given:spatial.")
    ] = None
    predecessors: Annotated[
        int, in_data("For --prior field: how many cells of the tissue the state of a cell depends on; 20, say.", min=0)
    ] = 0

    def fields(self) -> dict[str, Any]:
        """The arguments of ``Fields``. ``Fields`` itself is imported later, because its import takes seconds."""
        columns = dict(vars(self))
        categories, covariates = columns.pop("category"), columns.pop("covariate")
        graph = {} if (words := columns.pop("graph")) is None else {"graph": plain_graph(words)}
        return columns | {"categories": tuple(categories or ()), "covariates": tuple(covariates or ())} | graph


def plain_graph(words: str) -> dict[str, Any]:
    """A graph of neighbours as plain data, which ``Fields`` takes and JSON can hold."""
    from pyroscvi.data.edges import Graph, fields_of
    from pyroscvi.sugar import parse

    graph = parse(Graph, words)
    return {type(graph).__name__: fields_of(graph)}


@dataclass(frozen=True)
class Genes:
    """Which genes are used."""

    hvg: Annotated[int | None, in_data("Number of highly variable genes to use.", min=2)] = None
    hvg_by: Annotated[
        Literal["pearson_residuals", "seurat_v3"], in_data("How they are chosen: scanpy has the details.")
    ] = "pearson_residuals"
    gene_list: Annotated[
        Path | None, in_data("A file with the genes to use, one name in each line.", "--genes", metavar="FILE")
    ] = None

    def named(self) -> tuple[str, ...] | None:
        """The genes of the file, if there is one."""
        if self.gene_list is None:
            return None
        if self.hvg is not None:
            raise ValueError("--genes names the genes, and --hvg chooses them: give one of the two")
        if not self.gene_list.is_file():
            raise ValueError(f"{self.gene_list}: there is no such file")
        names = [line.strip() for line in self.gene_list.read_text("utf-8").splitlines()]
        return tuple(name for name in names if name)


@dataclass(frozen=True)
class Reading:
    """What to do with cells that lack something: the options of ``Fields.read``."""

    unknown: Annotated[
        Literal["error", "allow"], in_data("Levels of a column that are missing or new: an error, or unknown.")
    ] = "error"
    empty: Annotated[Literal["error", "drop"], in_data("Cells without counts: an error, or left out.")] = "error"


@dataclass(frozen=True)
class Files(Reading):
    """The same, for a file or a folder of files."""

    genes: Annotated[
        Literal["intersection", "union"],
        in_data(
            "Of a folder: the genes that all files have, or that any has. Those that a file lacks were not measured.",
            "--join",
        ),
    ] = "intersection"


@dataclass(frozen=True)
class Query(Reading):
    """The same, for cells that a fit reads: it knows which genes it needs."""

    missing: Annotated[
        Literal["error", "marginalise", "zero"],
        in_data(
            "Genes of the fit that the data lack: an error; not measured, and left out of the probability of these "
            "cells; or zero counts."
        ),
    ] = "error"


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    epochs: Annotated[int | None, in_training("Number of passes over the cells. Default: by their number.", min=1)] = (
        None
    )
    batch_size: Annotated[int, in_training("Number of cells in a minibatch.", min=1)] = 128
    lr: Annotated[float, in_training("Learning rate at the start; it falls to 2% of this.", min=0)] = 6e-3
    device: Annotated[str, in_training("auto, cpu, cuda, mps")] = "auto"
    stop_by: Annotated[
        Literal["end", "elbo", "evidence"],
        in_training("Stop after all epochs, or early when this no longer improves on a tenth of the cells."),
    ] = "end"

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


class Several(TyperCommand):
    """A command whose ``Choices`` take every word up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args, [f"--{slot.name}" for slot in fields(Choices)])))


def spread(args: Sequence[str], greedy: Sequence[str]) -> Iterator[str]:
    """The option once more before every further word that it takes.

    >>> list(spread(["data", "--prior", "normal", "mixture:8", "--seed", "1"], ["--prior"]))
    ['data', '--prior', 'normal', '--prior', 'mixture:8', '--seed', '1']
    """
    option, words = "", 0
    for place, arg in enumerate(args):
        if arg == "--":  # after which nothing is an option
            yield from args[place:]
            return
        if arg.startswith("-"):
            option, words = (arg if arg in greedy else ""), 0
        elif option:
            words += 1
            if words > 1:
                yield option
        yield arg
