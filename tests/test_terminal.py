"""Names that users chose, as the command line prints them."""

import io

import pytest
from rich.console import Console

from pyroscvi.cli import main
from pyroscvi.cli.output import say
from pyroscvi.inference import progress


def test_control_characters_are_written_out_and_lines_are_kept(capsys):
    say("\x1b[31mred\x07\n[bold]b[/bold] \u202eabc")
    assert capsys.readouterr().out == "\\x1b[31mred\\x07\n[bold]b[/bold] \\u202eabc\n"


def test_an_error_names_a_hostile_file_safely(tmp_path, capsys):
    name = "\x1b[31m[red].h5ad"
    assert main(["fit", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\\x1b[31m[red].h5ad" in err


@pytest.mark.parametrize("name", ["[/red]", "\x1b]0;title\x07"])
def test_a_progress_bar_shows_a_hostile_name_safely(name, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=written, force_terminal=True, color_system=None, width=150)
    )
    with progress.counted(name, 10) as done:
        done(10)
    assert "\x1b]0" not in written.getvalue()
    assert name.replace("\x1b", "\\x1b").replace("\x07", "\\x07") in written.getvalue()
