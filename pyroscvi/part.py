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
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Self, dataclass_transform

from torch import nn

from pyroscvi.ranges import Range

__all__ = ["Part"]


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
        """Raise ValueError for a number that is out of the range that the type of its field states (``ranges``)."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            for limit in getattr(field.type, "__metadata__", ()):
                if isinstance(limit, Range) and not limit.contains(value):
                    raise ValueError(
                        f"{type(self).__name__}: {field.name} must be {limit.words}, not {value!r} "
                        f"(the default is {field.default!r})"
                    )

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Create the parameters; the arguments are the sizes that this part needs to know."""

    def sized(self, *args: Any, **kwargs: Any) -> Self:
        """A copy of this declaration that owns parameters."""
        part = copy.deepcopy(self)
        part.build(*args, **kwargs)
        return part

    def __repr__(self) -> str:
        changed = (field for field in fields(self) if not _is_default(self, field))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def _is_default(part: Part, field: Field) -> bool:
    return repr(getattr(part, field.name)) == repr(field.default)
