"""The command line, as its tests call it."""

from pyroscvi.cli import main

QUICK = ("--counts", "counts", "--batch", "batch", "--latent", "3", "--epochs", "3", "--decoder", "mlp:8")


def run(*arguments: object) -> None:
    """The command line, for commands that should succeed."""
    assert main([str(argument) for argument in arguments]) == 0
