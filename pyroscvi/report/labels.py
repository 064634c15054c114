"""Names of fits, fields, genes and cell types, made fit for a picture: never read as a formula, and never too long."""

from textwrap import wrap

from pyroscvi.names import printable


def label(name: object, width: int = 28, lines: int = 3) -> str:
    r"""The name in at most so many ``lines`` of at most ``width`` characters; the middle of a longer name is left out.

    A dollar sign would start a formula for matplotlib, and is escaped.

    >>> label("$x^$")
    '\\$x^\\$'
    >>> label("negative binomial, latent 10, mixture", width=20)
    'negative binomial,\nlatent 10, mixture'
    >>> label("negative binomial, latent 10, mixture", width=20, lines=1)
    'negative …0, mixture'
    """
    text = printable(name)
    rows, length = wrap(text, width), width * lines
    while len(rows) > lines:
        rows = wrap(f"{text[: length // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{text[-length // 2 :]}", width)
        length -= 1
    return "\n".join(rows or [" "]).replace("$", r"\$")
