"""Names that users chose, as the command line prints them."""

import io

import pytest
from fits import quick
from rich.console import Console

from pyroscvi.cli import main
from pyroscvi.cli.output import say
from pyroscvi.guides import MeanField
from pyroscvi.inference import progress
from pyroscvi.models import SCANVI


def test_control_characters_are_written_out_and_lines_are_kept(capsys):
    say("\x1b[31mred\x07\n[bold]b[/bold] \u202eabc")
    assert capsys.readouterr().out == "\\x1b[31mred\\x07\n[bold]b[/bold] \\u202eabc\n"


def test_an_error_names_a_hostile_file_safely(tmp_path, capsys):
    name = "\x1b[31m[red].h5ad"
    assert main(["fit", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\\x1b[31m[red].h5ad" in err


@pytest.fixture
def bars(monkeypatch):
    """What progress writes to a terminal."""
    written = io.StringIO()
    terminal = {"file": written, "force_terminal": True, "color_system": None, "width": 150}
    monkeypatch.setattr(progress, "Console", lambda **_: Console(**terminal))
    return written


def test_a_bar_appears_after_two_seconds_and_only_for_the_outermost_loop(bars, monkeypatch):
    with progress.counted("short", 10) as done:
        done(10)
    assert not bars.getvalue()
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.counted("outer", 10) as done, progress.counted("inner", 10) as inner:
        done(5)
        inner(10)
    with progress.quietly(), progress.counted("quiet", 10) as done:
        done(10)
    assert "outer" in bars.getvalue()
    assert "inner" not in bars.getvalue()
    assert "quiet" not in bars.getvalue()


def test_analyses_show_how_many_cells_are_done(bars, monkeypatch, cells):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    fit = quick(SCANVI(latent=2), MeanField(), cells, epochs=1)
    fit.annotate(cells, particles=2)
    assert "posterior samples" in bars.getvalue()
    assert "60 of 60 cells" in bars.getvalue()
    fit.generate(cells)
    assert "computing" in bars.getvalue()


@pytest.mark.parametrize("name", ["[/red]", "\x1b]0;title\x07"])
def test_a_progress_bar_shows_a_hostile_name_safely(name, bars, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.counted(name, 10) as done:
        done(10)
    assert "\x1b]0" not in bars.getvalue()
    assert name.replace("\x1b", "\\x1b").replace("\x07", "\\x07") in bars.getvalue()
