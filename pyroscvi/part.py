"""Parts: the declared pieces that a model or a guide is made of.

A part exists in two forms. A *declared* part, such as ``Mixture(components=8)``, is a small value: it prints as it was
typed and does not depend on data. A *sized* part has parameters: ``part.sized(latent=10)`` returns such a copy. Users
write declarations, and the library sizes them when it knows the cells.

    >>> from pyroscvi.parts import Mixture
    >>> Mixture(components=5)
    Mixture(components=5)
    >>> sum(p.numel() for p in Mixture(components=5).sized(latent=10).parameters())
    105
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

from torch import Tensor, nn

from pyroscvi.names import letters
from pyroscvi.ranges import Range

if TYPE_CHECKING:
    from pyroscvi.data.cells import Cells
    from pyroscvi.program import Guide

P = TypeVar("P", bound="Part")


@dataclass_transform(eq_default=False)
class Part(nn.Module):
    """An ``nn.Module`` whose hyperparameters are dataclass fields.

    A subclass annotates its fields, gives them defaults, and creates its parameters in ``build``. The ``repr`` of a
    part is its whole configuration, which is what is saved, printed and compared.

    hops   how many edges away the neighbours are that this part reads of a cell, besides the cell itself: loaders then
           bring them along as the halo of a minibatch (``hops_of``)
    given  what the density of a cell is conditioned on because of this part, such as "others"; it enters the estimand
    """

    hops = 0
    given: ClassVar[str] = ""

    if TYPE_CHECKING:  # torch declares Tensor | Module, which a type checker can neither call nor index

        def __getattr__(self, name: str) -> Any: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        part = super().__new__(cls)
        nn.Module.__init__(part)  # before the dataclass __init__ assigns submodules
        return part

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(cls, eq=False, repr=False)
        for field in fields(cls):  # type: ignore[arg-type]  # a class attribute would hide the registered submodule
            if isinstance(field.default, nn.Module) and field.name in vars(cls):
                delattr(cls, field.name)
                if hasattr(cls, field.name):
                    raise TypeError(
                        f"{cls.__name__}.{field.name}: a base class has an attribute of this name, which hides it"
                    )

    def __post_init__(self) -> None:
        """Raise for a number outside the range of its field (``ranges``), or a value of the wrong type in a slot."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            for limit in getattr(field.type, "__metadata__", ()):
                if isinstance(limit, Range) and not limit.contains(value):
                    raise ValueError(
                        f"{type(self).__name__}: {field.name} must be {limit.words}, not {value!r} "
                        f"(the default is {field.default!r})"
                    )
            slot: Any = field.type
            if isinstance(slot, type) and issubclass(slot, Part) and not isinstance(value, slot):
                raise TypeError(f"{type(self).__name__}: {_not_of_slot(field.name, slot, value, field.default)}")

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Create the parameters. The arguments are the sizes that this part needs."""

    # The library calls these methods at certain times. By default they do nothing.

    def follow(self, guide: "Guide", cells: "Cells") -> None:
        """Called when a guide is sized for the model of this part, with the cells it is sized on."""

    def begin(self, cells: "Cells") -> None:
        """Called before a fit with new parameters, with the cells to fit to, so that parameters can start at them."""

    def settle(self, z: Tensor) -> None:
        """Called at most once in a fit, when the latent space separates cells, with their latents z [n, latent]."""

    def held(self, progress: float) -> Sequence[nn.Parameter]:
        """The parameters that the fit keeps constant at this progress (0 at its start, 1 at its end)."""
        return ()

    def single(self) -> Sequence[nn.Parameter]:
        """The parameters that act alone and not as weights of a network. They have a larger learning rate."""
        return ()

    def log_prior(self) -> Tensor | float:
        """The log-density of this part's own parameters [], which the fit adds to the ELBO of the whole data set."""
        return 0.0

    def sized(self, *args: Any, **kwargs: Any) -> Self:
        """A copy of this declaration that owns parameters.

        Parameters are drawn from torch's global generator, as for any ``nn.Module``: call ``torch.manual_seed`` first
        to reproduce them. ``fit`` and ``load`` restore the state of that generator.
        """
        part = copy.deepcopy(self)
        part.build(*args, **kwargs)
        return part

    def __repr__(self) -> str:
        values = {f.name: repr(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        changed = (f.name for f in fields(self) if values[f.name] != repr(f.default))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={values[name]}' for name in changed)})"


def kinds(slot: type[P]) -> set[type[P]]:
    """All imported subclasses of a slot's type, including those in a user's own file."""
    direct = set(slot.__subclasses__())
    return direct.union(*(kinds(part) for part in direct))


def parts_of(program: Any) -> list[Part]:
    """A part and all parts inside it; none of a program that is no module."""
    return [part for part in program.modules() if isinstance(part, Part)] if isinstance(program, nn.Module) else []


def hops_of(*programs: Any) -> int:
    """How many edges away from its cells a minibatch of these programs has a halo.

    A model may ask the guide about a neighbour, which reads neighbours of its own: the hops of programs add up.
    """
    return sum(max((part.hops for part in parts_of(program)), default=0) for program in programs)


def _not_of_slot(name: str, slot: type[Part], value: Any, default: Any) -> str:
    """The error message for a wrong value in a slot. It suggests the part of this name if one exists."""
    asked = letters(getattr(value, "__name__", str(value)))
    part = next((f"{kind.__name__}()" for kind in kinds(slot) if letters(kind.__name__) == asked), None)
    example = f"write {name}={part}" if part else f"for example {name}={default!r}"
    return f"{name} must be a {slot.__name__}, not {value!r}: {example}"
