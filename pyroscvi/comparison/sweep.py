"""Sweep: every combination of what is declared, fitted once.

    declared = grid(SCVI(size=LatentSize()), MeanField(), likelihood=[NB(), ZINB()], latent=[5, 10, 20])
    fits = sweep(declared, train, folder="runs")
    print(compare(fits, held_out))

A fit is identified by its content: the declarations of model and guide, the settings, the seed and the cells. Its
folder is named by a hash of these, and a sweep fits only what is missing. A sweep that was interrupted continues
from the last checkpoint of its unfinished fit; if a choice is added, only the new combinations are fitted.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from pyroscvi.data.cells import Cells
from pyroscvi.fitting.checkpoints import exists, load
from pyroscvi.fitting.declarations import declaration
from pyroscvi.fitting.fit import fit
from pyroscvi.fitting.result import Fit
from pyroscvi.fitting.resume import Folder, digest
from pyroscvi.inference.diagnosis import NonFiniteLoss
from pyroscvi.names import among, snake
from pyroscvi.part import Part
from pyroscvi.program import Guide, Model

Declared = Mapping[str, tuple[Model, Guide]]
T = TypeVar("T")
SECONDS = 5.0  # between checkpoints, and so the most that an interrupted sweep loses
ABOUT = "declaration.json"
NOT_IDENTITY = (
    "progress",
    "device",
    "compile",
    "distributed",
    "observers",
)  # settings that say where and how fast, and not what


def grid(model: Model, guide: Guide, /, **choices: Iterable[Any] | Mapping[str, Any]) -> dict[str, tuple[Model, Guide]]:
    """Every combination of choices of the slots of a model, and of guides: {name: (model, guide)}.

    choices   likelihood=[NB(), ZINB()], latent=[5, 10]: a list for any field of the model; ``guide=[...]``,
              ``model=[...]`` and ``encoder=[...]`` (of the guide) as well. A mapping {name: choice} gives names of its
              own, and otherwise a choice is called as at the command line: "zinb", "mixture:16", "latent 5"

    Names are made of what varies: "zinb, latent 5". ValueError if the model has no such field.
    """
    declared = {}
    for name, chosen in combinations({slot: _named(slot, these) for slot, these in choices.items()}).items():
        page, reader = chosen.pop("model", model), chosen.pop("guide", guide)
        if "encoder" in chosen:
            reader = replace(reader, encoder=chosen.pop("encoder"))
        known = {f.name: f.name for f in fields(page)}
        slots = {among(slot, known, f"field of {type(page).__name__}"): value for slot, value in chosen.items()}
        declared[name or type(page).__name__] = (replace(page, **slots), reader)
    return declared


def combinations(choices: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
    """Every combination of named choices, called after those slots that leave a choice.

    >>> combinations({"prior": {"laplace": 0}, "latent": {"latent 5": 5, "latent 10": 10}})
    {'latent 5': {'prior': 0, 'latent': 5}, 'latent 10': {'prior': 0, 'latent': 10}}
    """
    for slot, these in choices.items():
        if not these:
            raise ValueError(f"no choice of {slot} is named")
    varied = [slot for slot, these in choices.items() if len(these) > 1] or list(choices)
    named = {}
    for combination in product(*(these.items() for these in choices.values())):
        chosen = dict(zip(choices, combination, strict=True))
        named[", ".join(chosen[slot][0] for slot in varied)] = {slot: value for slot, (_, value) in chosen.items()}
    return named


@dataclass(frozen=True)
class Swept(Mapping[str, Fit]):
    """The fits of a sweep by name, as ``compare`` takes them: ``swept["nb"]`` is the fit with the first seed.

    by_seed  {name: [fits in the order of the seeds]}
    failed   {name: why it could not be fitted}: its loss was not finite with one of the seeds
    folders  {name: where its fits lie}, in the order of the seeds; empty where the sweep had no folder
    """

    by_seed: Mapping[str, list[Fit]]
    failed: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Fit:
        return self.by_seed[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_seed)

    def __len__(self) -> int:
        return len(self.by_seed)


def sweep(
    declared: Declared,
    cells: Cells,
    *,
    folder: str | Path | None = None,
    seeds: int | Sequence[int] = 3,
    tell: Callable[[str], Any] | None = None,
    **settings: Any,
) -> Swept:
    """Fit every declaration to the same cells, with every seed; fits that the folder holds already are read.

    declared   {name: (model, guide)}: ``grid``
    folder     each fit in a folder of its own in here; without one nothing is kept
    seeds      so many, from 0 on, or which; ``compare`` takes means over them, and their error. With one seed it tells
               nothing apart
    tell       called with a line before every fit: ``print``
    settings   of ``fit``. With ``validation=held_out``, the cells that will be compared, every fit is judged by them
               (``Fit.converged``); this changes no fit, so it is not part of what identifies one

    A loss that is not finite spoils one fit and not the sweep: a warning, and ``failed``. Ctrl-C raises
    KeyboardInterrupt, and the same sweep goes on from there.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not declared or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"a sweep takes one declaration at least and seeds that differ, not {len(declared)}, {seeds}")
    if "seed" in settings:
        raise ValueError("a sweep takes seeds=, how many or which, and not seed=")
    content = digest(cells)
    fits: dict[str, list[Fit]] = {}
    failed: dict[str, str] = {}
    folders: dict[str, list[Path]] = {}
    many = len(declared) * len(chosen)
    for number, ((name, (model, guide)), seed) in enumerate(product(declared.items(), chosen), 1):
        how = {**settings, "seed": seed}
        place = None if folder is None else Path(folder) / folder_name(model, guide, content, how)
        fitted = None if place is None else _finished(place, model, guide)
        if tell is not None:
            state = "is there" if fitted is not None else f"{model!r}, {guide!r}"
            tell(f"{number} of {many}  {name}{f', seed {seed}' if len(chosen) > 1 else ''}: {state}")
        if fitted is None:
            try:
                fitted = _fitted(place, model, guide, cells, content, how)
            except NonFiniteLoss as error:
                failed[name] = str(error)
                warnings.warn(f"{name!r} could not be fitted with seed {seed}: {error}", stacklevel=2)
                continue
        fits.setdefault(name, []).append(fitted)
        if place is not None:
            folders.setdefault(name, []).append(place)
    complete = {name: seeds for name, seeds in fits.items() if name not in failed}
    return Swept(complete, failed, {name: folders[name] for name in complete if name in folders})


def folder_name(model: Model, guide: Guide, cells: str, settings: Mapping[str, Any]) -> str:
    """A name for what is fitted to which cells, how: another for any other content, the same in any process."""
    text = json.dumps(_content(model, guide, cells, settings), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _content(model: Model, guide: Guide, cells: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    printed = {name: repr(value) for name, value in settings.items() if _identifies(name, value)}
    if nameless := [name for name, value in printed.items() if re.search(r" at 0x[0-9a-f]+", value)]:
        raise ValueError(
            f"a sweep identifies a fit by its settings, and {nameless[0]}={printed[nameless[0]]} prints differently in "
            "every process: make it a Part or a dataclass, which print as they were typed"
        )
    return {"model": declaration(model), "guide": declaration(guide), "settings": printed, "cells": cells}


def _identifies(name: str, value: Any) -> bool:
    """Whether a setting decides what a fit is. Cells of ``validation`` are only looked at."""
    return name not in NOT_IDENTITY and not isinstance(value, Cells)


def _finished(folder: Path, model: Model, guide: Guide) -> Fit | None:
    """The fit in a folder, unless there is none or it was interrupted."""
    if not exists(folder / "fit.safetensors"):
        return None
    parts = {type(module) for page in (model, guide) for module in page.modules() if isinstance(module, Part)}
    fitted = load(folder, parts)
    return None if fitted.record["interrupted"] else fitted


def _fitted(
    folder: Path | None, model: Model, guide: Guide, cells: Cells, content: str, settings: dict[str, Any]
) -> Fit:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        about = {"model": repr(model), "guide": repr(guide), **_content(model, guide, content, settings)["settings"]}
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", "utf-8")  # for people: nothing reads it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "interrupted in epoch")  # said by the exception
        fitted = fit(model, guide, cells, folder=None if folder is None else Folder(folder, SECONDS), **settings)
    if fitted.record["interrupted"]:
        raise KeyboardInterrupt("interrupted: the same sweep goes on from here")
    for left in [] if folder is None else folder.glob("run.safetensors*"):
        left.unlink()  # the state of the optimiser, which a finished fit does not need
    return fitted


def _named(slot: str, choices: Iterable[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Choices by name."""
    if isinstance(choices, Mapping):
        return dict(choices)
    if isinstance(choices, str | Part):
        raise ValueError(f"{slot} takes a list of choices, [{choices!r}]")
    listed = list(choices)
    named = {_word(slot, choice): choice for choice in listed}
    if len(named) < len(listed):
        raise ValueError(f"two choices of {slot} are the same: {', '.join(map(repr, listed))}")
    return named


def _word(slot: str, choice: Any) -> str:
    """What a choice would be called at the command line; what is too deep for that, as it prints."""
    if not isinstance(choice, Part):
        return f"{slot} {choice}"
    slots = fields(choice)  # type: ignore[arg-type]
    stated = [(f.name, getattr(choice, f.name)) for f in slots if repr(getattr(choice, f.name)) != repr(f.default)]
    if any(isinstance(value, Part) and _word("", value) != snake(type(value).__name__) for _, value in stated):
        return repr(choice)
    values = [snake(type(value).__name__) if isinstance(value, Part) else f"{value}" for _, value in stated]
    first = [f.name for f in slots][: len(stated)] == [name for name, _ in stated]
    words = values if first else [f"{name}={value}" for (name, _), value in zip(stated, values, strict=True)]
    return ":".join([snake(type(choice).__name__), *words])
