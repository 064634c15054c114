"""The command line: an error is one line on stderr, with what is wrong and what to do."""

import warnings
from pathlib import Path

import pytest
from command_line import run

from pyroscvi.cli import main

WRONG = [
    (["shwo"], "No such command 'shwo'"),
    (["show", "gmvea"], "no page 'gmvea'; did you mean 'gmvae'?"),
    (["copy", "scvi", "mine.txt"], "name it mine.py"),
    (["fit", "nowhere.h5ad", "--out", "run"], "nowhere.h5ad: there is no such file"),
    (["fit", "text.h5ad", "--out", "run"], "text.h5ad cannot be read"),
    (["fit", "DATA"], "Missing option '--out'"),
    (["fit", "DATA", "--out", "run", "--epochs", "many"], "'--epochs'"),
    (["fit", "DATA", "--out", "run", "--seed", str(2**64)], "'--seed'"),
    (["fit", "DATA", "--out", "run", "--prior", "mixture:0"], "components"),
    (["fit", "DATA", "--out", "run", "--stop-by", "elob"], "'elob' is not one of 'end', 'elbo', 'evidence'"),
    (["fit", "DATA", "--out", "run", "--model", "scvl"], "did you mean 'scvi'?"),
    (["fit", "DATA", "--out", "run", "--model", "mean_field"], "mean_field is no model"),
    (["fit", "DATA", "--out", "run", "--model", "./none.py"], "none.py: there is no such file"),
    (
        ["fit", "DATA", "--out", "run", "--model", "./broken.py"],
        "broken.py cannot be imported: RuntimeError: of the page",
    ),
    (["fit", "DATA", "--out", "run", "--model", "./exits.py"], "exits.py cannot be imported: SystemExit: 7"),
    (["fit", "DATA", "--out", "run", "--model", "./syntax.py"], "syntax.py cannot be imported: SyntaxError"),
    (["fit", "DATA", "--out", "run", "--guide", "scvi"], "scvi is no guide"),
    (["fit", "DATA", "--out", "run", "--prior", "mixtrue:8"], "did you mean 'mixture'?"),
    (["fit", "DATA", "--out", "run", "--model", "ppca", "--likelihood", "nb"], "no field of ppca 'likelihood'"),
    (["fit", "DATA", "--out", "run", "--likelihood", "poisson", "--dispersion", "per_gene"], "has no dispersion"),
    (["fit", "DATA", "--out", "run", "--batch", "donor"], "donor"),
    (["fit", "DATA", "--out", "run", "--counts", "raw"], "raw"),
    (["fit", "DATA", "--out", "run", "--counts", "mean"], "counts"),
    (["fit", "DATA", "--out", "run", "--held-out", "2"], "2"),
    (["fit", "DATA", "--out", "DATA"], "is a file: name a folder"),
    (["embed", "nowhere", "DATA", "--out", "z.h5ad"], "nowhere is no run folder"),
    (["embed", "RUN", "DATA", "--out", "DATA"], "exists already"),
    (["embed", "RUN", "DATA", "--out", "z.h5ad", "--color", "cell_typ"], "did you mean 'cell_type'?"),
    (["compare", "RUN", "RUN", "--data", "DATA"], "the same run folder is given twice"),
    (["compare", "RUN", "--data", "DATA", "--by", "donor"], "donor"),
    (["calibrate", "nowhere"], "nowhere is no run folder"),
    (["calibrate", "RUN", "--out", "DATA"], "exists already"),
    (["calibrate", "RUN", "--predictive", "check.png"], "--data"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_an_error_is_printed_on_one_line(arguments, message, nb, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.h5ad").write_text("not hdf5")
    Path("broken.py").write_text("raise RuntimeError('of the page')")
    Path("exits.py").write_text("raise SystemExit(7)")
    Path("syntax.py").write_text("def (")
    capsys.readouterr()
    given = [{"DATA": str(data), "RUN": str(nb)}.get(argument, argument) for argument in arguments]
    assert main(given) > 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyroscvi: ")
    assert message in line
    assert not Path("run").exists()


def test_an_unknown_device_is_an_error_of_one_line(data, tmp_path, capsys):
    assert main(["fit", str(data), "--device", "nosuch", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'nosuch' is no device: this machine has" in line


def test_running_out_of_memory_is_an_error_of_one_line(data, tmp_path, capsys):
    assert main(["fit", str(data), "--decoder", "mlp:99999999999", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not enough memory: use a smaller --latent, --decoder or --batch-size" in line


def test_an_unexpected_exception_is_an_error_of_one_line(monkeypatch, capsys):
    def broken():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("pyroscvi.cli.show.pages", broken)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == "pyroscvi: RuntimeError: two lines (set PYROSCVI_TRACEBACK=1 to see where)\n"
    monkeypatch.setenv("PYROSCVI_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["list"])


def test_ctrl_c_is_an_error_of_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("pyroscvi.cli.show.pages", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "pyroscvi: interrupted\n"


def test_a_warning_is_printed_on_one_line(monkeypatch, capsys):
    def warning():
        warnings.simplefilter("always")
        warnings.warn("mind\nthe gap", stacklevel=1)
        return {}

    monkeypatch.setattr("pyroscvi.cli.show.pages", warning)
    run("list")
    assert capsys.readouterr().err == "pyroscvi: warning: mind the gap\n"
