"""A page for every slot, with all options that it takes: written from the classes, so that none is missing."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from docstrings import plain_headline

from pyroscvi import sugar
from pyroscvi.catalogue import Page
from pyroscvi.names import snake
from pyroscvi.part import kinds

# file: title, what it is, module and class of the slot, name of the field that takes it, option of the command line
SLOTS = {
    "priors": ("Priors", "parts.priors.Prior", "prior", "--prior"),
    "likelihoods": ("Likelihoods", "parts.likelihoods.Likelihood", "likelihood", "--likelihood"),
    "dispersions": ("Dispersions", "parts.dispersions.Dispersion", "dispersion", "--dispersion"),
    "links": ("Links", "parts.links.Link", "link", ""),
    "sizes": ("Sizes of cells", "parts.sizes.Size", "size", "--size"),
    "conditions": ("Conditions", "parts.conditions.Condition", "condition", "--condition"),
    "decoders": ("Decoders", "parts.decoders.Decoder", "decoder", "--decoder"),
    "factors": ("Genes of a dimension", "parts.gene_sets.Factors", "factors", ""),
    "loadings": ("Priors of loadings", "parts.loadings.Loadings", "loadings", ""),
    "weights": ("Priors of network weights", "parts.weights.Weights", "weights", ""),
    "component_weights": ("Weights of components", "parts.component_weights.ComponentWeights", "weights", ""),
    "starts": ("Starts of components", "parts.clusters.Start", "start", ""),
    "kernels": ("Kernels of a field", "parts.field.Kernel", "kernel", ""),
    "couplings": ("Couplings of domains", "parts.coupling.Coupling", "coupling", ""),
    "encoders": ("Encoders", "parts.encoders.Encoder", "encoder", "--encoder"),
    "features": ("What an encoder reads", "parts.encoders.Features", "features", ""),
    "convolutions": ("Messages between neighbours", "parts.neighbours.Convolution", "convolution", ""),
    "norms": ("Norms of hidden layers", "parts.norms.Norm", "norm", ""),
    "activations": ("Activations", "parts.activations.Activation", "activation", ""),
    "graphs": ("Graphs of neighbours", "data.edges.Graph", "graph", "--graph"),
    "estimators": ("Estimators of an evidence", "evidence.estimator.Estimator", "estimator", "--estimator"),
    "proposals": ("Proposals of an estimator", "evidence.proposals.Proposal", "proposal", "--proposal"),
}
INTERNAL = {"Together", "NoEncoder", "AtComponents", "AtPeaks", "Matched", "Equidispersed"}  # nobody names them
LISTS = {
    "objectives": (
        "Objectives",
        "Terms that are added to the loss of a fit, or change it: `fit(..., objectives=[FreeBits()])`.",
        ["inference.objectives", "inference.adversary", "inference.reconstruction", "fitting.sleep"],
    ),
    "schedules": (
        "Schedules and early stopping",
        "How the weight of the KL and the learning rate change over a run, and when a run stops: "
        "`fit(..., warmup=Cyclical(), decay=CosineDecay(end=0.1), early_stopping=Patience(epochs=20))`.",
        ["inference.schedules", "evidence.held_out_evidence"],
    ),
    "observers": (
        "Observers",
        'Called with the fit as it is after every epoch: `fit(..., observers=[Checkpoints("kept")])`.',
        ["fitting.observers"],
    ),
}


def write(folder: Path, pages: list[Page]) -> None:
    """Write the pages of all slots into the folder."""
    folder.mkdir(exist_ok=True)
    for file, (title, path, field, option) in SLOTS.items():
        home, _, name = path.rpartition(".")
        slot = getattr(import_module(f"pyroscvi.{home}"), name)
        options = sorted(
            (part for part in kinds(slot) or {slot} if part.__module__.startswith("pyroscvi") and _is_offered(part)),
            key=lambda part: part.__name__.lower(),
        )
        names = {slot: snake(name)} | {part: short for short, part in sugar.known(slot).items()}
        rows = [(part, f"`{option} {names[part]}`" if option else f"`{names[part]}`") for part in options]
        taking = [page for page in pages for each, kind, _ in page.slots if each == field and kind == name]
        used = ", ".join(f"[`{page.name}`](../zoo/{page.kind}/{page.name}.md)" for page in taking)
        where = f"The slot `{field}` of {used}." if used else f"It is given as `{field}=`."
        _write(folder / f"{file}.md", title, [where], rows, slot)
    for file, (title, introduction, modules) in LISTS.items():
        imported = [import_module(f"pyroscvi.{module}") for module in modules]
        options = [
            value for module in imported for value in vars(module).values()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_")
        ]  # fmt: skip
        _write(folder / f"{file}.md", title, [introduction], [(option, "") for option in options], None)


def _is_offered(part: type) -> bool:
    return not part.__name__.startswith("_") and part.__name__ not in INTERNAL and not inspect.isabstract(part)


def _write(file: Path, title: str, introduction: list[str], rows: list[tuple[Any, str]], slot: Any) -> None:
    with_names = any(short for _, short in rows)
    table = [
        f"| option | | {'at the command line |' if with_names else ''}",
        f"|---|---|{'---|' if with_names else ''}",
    ]
    for part, short in rows:
        link = f"{{py:class}}`{part.__name__} <{part.__module__}.{part.__qualname__}>`"
        table.append(f"| {link} | {plain_headline(part)} |{f' {short} |' if with_names else ''}")
    module = "" if slot is None else f"```{{eval-rst}}\n.. automodule:: {slot.__module__}\n   :no-index:\n```"
    listed = [f".. autoclass:: {part.__module__}.{part.__qualname__}" for part, _ in rows]
    blocks = [f"# {title}", *introduction, module, "\n".join(table), "```{eval-rst}\n" + "\n".join(listed) + "\n```"]
    write_if_new(file, "\n\n".join(blocks) + "\n")


def write_if_new(file: Path, text: str) -> None:
    """Write the file, unless it has this text already: Sphinx then reads it again only where it has changed."""
    if not file.exists() or file.read_text("utf-8") != text:
        file.write_text(text, "utf-8")
