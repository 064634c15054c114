"""Parts: the declared pieces that a model or a guide is made of.

A part is written once and used twice. First it is *declared*: ``Mixture(components=8)`` is a small value that prints as
it was typed and does not depend on any data. Then it is *sized*: ``part.sized(latent=10)`` returns a copy that owns
parameters. Users swap declarations; the library sizes them when it has seen the cells.

    >>> from pyroscvi.parts import Mixture
    >>> Mixture(components=5)
    Mixture(components=5)
    >>> sum(p.numel() for p in Mixture(components=5).sized(latent=10).parameters())
    105
"""

import copy
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform

from torch import Tensor, nn

from pyroscvi.names import letters
from pyroscvi.ranges import Range

__all__ = ["Part", "kinds"]

P = TypeVar("P", bound="Part")


@dataclass_transform(eq_default=False)
class Part(nn.Module):
    """An ``nn.Module`` whose hyperparameters are dataclass fields.

    A subclass annotates its fields, gives them defaults, and creates its parameters in ``build``. The representation of
    a part is its configuration: there is nothing else to save, to print or to compare.
    """

    if TYPE_CHECKING:  # torch says Tensor | Module, of which a checker can call and index neither

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
        """Refuse a number that is out of the range of its field (``ranges``), and what is no part of a slot."""
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
        """Create the parameters; the arguments are the sizes that this part needs to know."""

    # Called by the library at certain times; a part that has nothing to do then leaves them as they are

    def follow(self, guide: Any, cells: Any) -> None:
        """Called when a guide is sized on the model that this part belongs to, with the cells it is sized on."""

    def settle(self, z: Tensor) -> None:
        """Called at most once in a fit, when the latent space separates cells, with their states z [n, latent]."""

    def held(self, progress: float) -> Sequence[nn.Parameter]:
        """The parameters that a fit does not change at this progress, which goes from 0 to 1."""
        return ()

    def sized(self, *args: Any, **kwargs: Any) -> Self:
        """A copy of this declaration that owns parameters.

        They are drawn from torch's global generator, like those of any ``nn.Module``: ``torch.manual_seed`` before it
        makes them the same again. ``fit`` and ``load`` leave that generator as it was.
        """
        part = copy.deepcopy(self)
        part.build(*args, **kwargs)
        return part

    def __repr__(self) -> str:
        changed = (field for field in fields(self) if not _is_default(self, field))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def kinds(slot: type[P]) -> set[type[P]]:
    """All parts that fit a slot and are imported by now, those of a user's own file among them."""
    direct = set(slot.__subclasses__())
    return direct.union(*(kinds(part) for part in direct))


def _not_of_slot(name: str, slot: type[Part], value: Any, default: Any) -> str:
    """What is wrong with a value of a slot, and what to write instead: the part of this name if there is one."""
    asked = letters(getattr(value, "__name__", str(value)))
    part = next((f"{kind.__name__}()" for kind in kinds(slot) if letters(kind.__name__) == asked), None)
    example = f"write {name}={part}" if part else f"for example {name}={default!r}"
    return f"{name} must be a {slot.__name__}, not {value!r}: {example}"


def _is_default(part: Part, field: Field) -> bool:
    return repr(getattr(part, field.name)) == repr(field.default)
