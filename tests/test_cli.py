"""The command line, from its grammar to what it leaves on the disk."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from command_line import QUICK, run

import pyroscvi as ps
from pyroscvi import catalogue
from pyroscvi.cli import main
from pyroscvi.cli.runs import open_folder, write_run
from pyroscvi.evidence import Refined
from pyroscvi.evidence.estimator import Importance
from pyroscvi.inference.run import Run


@pytest.fixture(scope="module")
def poisson(data) -> Path:
    run("fit", data, "--likelihood", "poisson", *QUICK, "--out", data.parent / "poisson")
    return data.parent / "poisson"


# Runs


def test_copy_forks_a_page(data, tmp_path, capsys):
    mine, out = tmp_path / "forked_page.py", tmp_path / "run"
    run("copy", "gmvae", mine)
    assert f"pyroscvi fit DATA.h5ad --model {mine} --out RUN" in capsys.readouterr().out
    copied, page = mine.read_text().splitlines(), catalogue.find("gmvae").text.splitlines()
    changed = [(new, old) for new, old in zip(copied, page, strict=True) if new != old]
    assert changed == [
        (
            "    >>> p = ForkedPage(latent=2, kinds=3).sized(cells.dims).responsibilities(torch.zeros(1, 2))",
            "    >>> p = GMVAE(latent=2, kinds=3).sized(cells.dims).responsibilities(torch.zeros(1, 2))",
        ),
        ('__all__ = ["ForkedPage"]', '__all__ = ["GMVAE"]'),
        ("class ForkedPage(Model):", "class GMVAE(Model):"),
    ]
    mine.write_text(mine.read_text().replace("kinds: int = 8", "kinds: int = 2"))
    run("fit", data, "--model", mine, *QUICK[:-2], "--out", out)
    assert json.loads((out / "configuration.json").read_text())["pages"] == ["forked_page.py"]
    assert f"{out}: Fit(ForkedPage(latent=3" in capsys.readouterr().out
    assert (out / "forked_page.py").read_text() == mine.read_text()

    assert main(["embed", str(out), str(data), "--out", str(tmp_path / "z.h5ad")]) == 1
    assert f"add --page {out / 'forked_page.py'}" in capsys.readouterr().err
    del sys.modules["forked_page"]
    run("embed", out, data, "--out", tmp_path / "z.h5ad", "--page", out / "forked_page.py")
    del sys.modules["forked_page"]


def test_fit_leaves_a_run(nb, data):
    asked = json.loads((nb / "configuration.json").read_text())
    assert asked["model"] == "SCVI(latent=3, decoder=MLP(widths=8), likelihood=NB())"
    assert asked["guide"] == "MeanField()"
    assert asked["fields"] == {"counts": "counts", "batch": "batch"}
    assert asked["training"]["epochs"] == len(pd.read_csv(nb / "history.csv")) == 3
    roles = pd.read_csv(nb / "cells.csv", index_col="cell")
    assert roles["held_out"].sum() == 6

    adata, latents, fit = ad.read_h5ad(data), ad.read_h5ad(nb / "latents.h5ad"), ps.load(nb)
    assert list(latents.obs_names) == list(adata.obs_names)
    assert list(latents.obs["cell_type"]) == list(adata.obs["cell_type"])
    np.testing.assert_array_equal(latents.obsm["X_pyroscvi"], fit.latent(adata))
    assert (nb / "history.png").read_bytes()[:4] == b"\x89PNG"
    assert not (nb / "checkpoints").exists()


def test_fit_of_the_command_line_equals_fit_in_python(nb, data):
    from pyroscvi.guides import MeanField
    from pyroscvi.models import SCVI
    from pyroscvi.parts import MLP, NB

    seen, unseen = ps.Fields(counts="counts", batch="batch").read(ad.read_h5ad(data)).split(0.1, seed=0)
    model = SCVI(latent=3, decoder=MLP(8), likelihood=NB())
    fit = ps.fit(model, MeanField(), seen, epochs=3, validation=unseen, progress=False)
    columns = ("epoch", "loss", "elbo_held_out")
    pd.testing.assert_frame_equal(fit.history[[*columns]], ps.load(nb).history[[*columns]])


@pytest.mark.parametrize(
    "command", [("fit", "d.h5ad"), ("compare", "d.h5ad", "--latent", "2", "3")], ids=lambda c: c[0]
)
def test_all_commands_that_read_data_have_the_same_options_for_columns(command, monkeypatch):
    import pyroscvi.cli.data
    import pyroscvi.cli.sweep
    from pyroscvi.data.fields import Fields

    options = {}

    def noted(data, fields, reading, genes, *_):
        options.update(fields=fields, hvg=genes.hvg)
        raise ValueError("noted")

    for module in (pyroscvi.cli.data, pyroscvi.cli.sweep):
        monkeypatch.setattr(module, "read_cells", noted)
    words = [*command, "--out", "o"]
    columns = ["--counts", "raw", "--batch", "donor", "--label", "type", "--category", "a", "--hvg", "9", "--category",
               "b", "--covariate", "c", "--size-factor", "s", "--spatial", "xy", "--section", "e"]  # fmt: skip
    assert main([*words, *columns]) == 1
    assert options["hvg"] == 9
    assert Fields(**options["fields"]) == Fields(
        counts="raw", batch="donor", label="type", categories=("a", "b"), covariates=("c",), size_factor="s",
        spatial="xy", section="e",
    )  # fmt: skip
    assert main(words) == 1
    assert Fields(**options["fields"]) == Fields()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_folder_is_looked_at_before_the_data_are_read(force, tmp_path, capsys):
    """Choosing genes takes minutes: a folder that is not free is refused at once."""
    (tmp_path / "broken.h5ad").write_text("not read")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert main(["fit", str(tmp_path / "broken.h5ad"), "--hvg", "5", "--out", str(tmp_path / "thesis"), *force]) == 1
    assert "holds something else already" in capsys.readouterr().err


def test_hvg_and_held_out(data, tmp_path):
    run("fit", data, *QUICK, "--hvg", 5, "--held-out", 0, "--out", tmp_path / "run")
    fit = ps.load(tmp_path / "run")
    assert fit.dims.genes == 5
    assert set(fit.fields.genes) < set(ad.read_h5ad(data).var_names)
    assert not pd.read_csv(tmp_path / "run" / "cells.csv")["held_out"].any()


def test_existing_files_are_not_overwritten_without_force(nb, data, tmp_path, capsys):
    command = ["fit", str(data), "--likelihood", "nb", *QUICK, "--out", str(nb)]
    before = (nb / "fit.safetensors").stat().st_mtime_ns
    assert main(command) == 1
    assert "finished: nothing is left to do. To repeat it, add --force" in capsys.readouterr().err
    assert main([*command, "--seed", "1"]) == 1
    assert "holds another run already" in capsys.readouterr().err
    assert (nb / "fit.safetensors").stat().st_mtime_ns == before

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    assert main([*command[:-1], str(other), "--force"]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert (other / "chapter.txt").read_text() == "years of work"

    copied = tmp_path / "scvi.py"
    run("copy", "scvi", copied)
    copied.write_text("mine")
    assert main(["copy", "scvi", str(copied)]) == 1
    assert copied.read_text() == "mine"
    run("copy", "scvi", copied, "--force")
    assert copied.read_text() != "mine"


def test_force_replaces_a_run(data, tmp_path):
    out = tmp_path / "run"
    run("fit", data, *QUICK, "--out", out)
    run("fit", data, *QUICK, "--seed", 1, "--out", out, "--force")
    assert json.loads((out / "configuration.json").read_text())["training"]["seed"] == 1
    assert ps.load(out).record["seed"] == 1


def test_force_keeps_files_that_pyroscvi_did_not_write(nb, data, tmp_path, capsys):
    """A folder with a file called configuration.json may be a project of its own."""
    project, copied = tmp_path / "project", tmp_path / "run"
    project.mkdir()
    (project / "configuration.json").write_text('{"name": "a web page"}')
    (project / "thesis.txt").write_text("years of work")
    command = ["fit", str(data), "--likelihood", "nb", *QUICK, "--out"]
    for force in ([], ["--force"]):
        assert main([*command, str(project), *force]) == 1
        assert "configuration.json is not as pyroscvi wrote it" in capsys.readouterr().err
    (project / "thesis.txt").unlink()
    assert main([*command, str(project)]) == 1  # nor is it overwritten where it is alone
    assert (project / "configuration.json").read_text() == '{"name": "a web page"}'

    shutil.copytree(nb, copied)
    (copied / "notes.txt").write_text("years of work")
    open_folder(copied, {"another": "run"}, force=True)
    assert sorted(file.name for file in copied.iterdir()) == ["configuration.json", "notes.txt"]


def test_force_keeps_a_file_that_another_program_replaced(nb, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(nb, copied)
    (copied / "cells.csv").write_text("my own cells")
    with pytest.raises(ValueError, match=r"cells\.csv is not as pyroscvi wrote it: move it elsewhere"):
        open_folder(copied, {"another": "run"}, force=True)
    assert {file.name for file in copied.iterdir()} == {file.name for file in nb.iterdir()}


RUN_FILES = ["cells.csv", "checksums.json", "configuration.json", "fit.safetensors", "history.csv", "latents.h5ad"]


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("damage", ["cut", "digit"])
def test_a_damaged_file_of_a_run_is_named(name, damage, nb, tmp_path, capsys):
    copied = tmp_path / "run"
    shutil.copytree(nb, copied)
    whole = (copied / name).read_bytes()
    digit = next(at for at in range(len(whole) // 2, len(whole)) if whole[at : at + 1].isdigit())
    other = bytes([(whole[digit] - ord("0") + 1) % 10 + ord("0")])
    cut = whole[: len(whole) * 3 // 4]
    (copied / name).write_bytes(cut if damage == "cut" else whole[:digit] + other + whole[digit + 1 :])
    assert main(["calibrate", str(copied), "--simulations", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is not as pyroscvi wrote it" in line


@pytest.mark.filterwarnings("default:.*names of several cells")
def test_repeated_names_of_cells_are_made_unique(data, tmp_path, capsys):
    adata, file, out = ad.read_h5ad(data), tmp_path / "repeated.h5ad", tmp_path / "run"
    adata.obs_names = ["same"] * 40 + [f"cell{n}" for n in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adata.write_h5ad(file)
    run("fit", file, *QUICK, "--out", out)
    assert "names of several cells are numbered in order of appearance" in capsys.readouterr().err
    latents, roles = ad.read_h5ad(out / "latents.h5ad"), pd.read_csv(out / "cells.csv", index_col="cell")
    assert list(latents.obs_names[:3]) == ["same", "same-1", "same-2"]
    assert list(latents.obs["cell_type"]) == list(adata.obs["cell_type"])
    assert roles.index.is_unique
    assert roles["held_out"].sum() == 6


def test_a_full_disk_at_the_end_of_a_run_says_what_to_do(nb, data, disk, monkeypatch, capsys):
    out, command = disk.path / "run", ["fit", str(data), "--likelihood", "nb", *QUICK, "--out", str(disk.path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr("pyroscvi.cli.runs.write_run", lambda *_: disk.fill() or write_run(*_))
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "fit.safetensors could not be written: No space left on device. Free some space: the same command" in line
    (disk.path / "ballast").unlink()
    run(*command)
    pd.testing.assert_frame_equal(
        ps.load(out).history.drop(columns="seconds"), ps.load(nb).history.drop(columns="seconds")
    )


def test_a_failed_run_does_not_block_the_next_run(data, tmp_path, capsys):
    command = ["fit", str(data), *QUICK, "--out", str(tmp_path / "run"), "--size"]
    assert main([*command, "size_factor"]) == 1  # and no column named
    assert capsys.readouterr().err.count("\n") == 1
    run(*command, "latent")


def test_an_interrupted_fit_is_resumed(nb, data, tmp_path, capsys, monkeypatch):
    out, whole_epoch = tmp_path / "run", Run.advance

    def until_the_third(state, *arguments, **options):
        if state.epoch == 2:
            raise KeyboardInterrupt
        return whole_epoch(state, *arguments, **options)

    command = ["fit", str(data), "--likelihood", "nb", *QUICK, "--out", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr("pyroscvi.cli.runs.SECONDS", 0.0)
        patched.setattr(Run, "advance", until_the_third)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines() == ["pyroscvi: interrupted: the same command goes on from here"]
    assert (out / "checkpoints" / "run.safetensors").is_file()
    assert main(["embed", str(out), str(data), "--out", str(tmp_path / "z.h5ad")]) == 1
    assert "unfinished" in capsys.readouterr().err
    run(*command)
    columns = ["epoch", "loss", "elbo_held_out"]
    pd.testing.assert_frame_equal(ps.load(out).history[columns], ps.load(nb).history[columns])


def test_compare_takes_cells_that_no_run_has_seen(nb, poisson, data, tmp_path, capsys):
    table = tmp_path / "table.csv"
    arguments = ("--data", data, "--particles", 20, "--out", table, "--picture", tmp_path / "table.png")
    run("compare", nb, poisson, *arguments)
    printed = capsys.readouterr().out
    assert "6 of 60 cells" in printed
    written = pd.read_csv(table, index_col="fit")
    assert set(written.index) == {"nb", "poisson"}
    assert written["verdict"].iloc[0] == "best"
    assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"

    adata = ad.read_h5ad(data)
    unseen = adata[pd.read_csv(nb / "cells.csv")["held_out"].to_numpy()]
    fits = {"nb": ps.load(nb), "poisson": ps.load(poisson)}
    again = ps.compare(fits, unseen, particles=20).table
    np.testing.assert_allclose(written["evidence"], again["evidence"])

    run("compare", nb, poisson, *arguments[:4], "--proposal", "refined", "--out", table, "--force")
    refined = ps.compare(fits, unseen, particles=20, estimator=Importance(Refined())).table
    np.testing.assert_allclose(pd.read_csv(table)["evidence"], refined["evidence"])
    assert (refined["evidence"] != again["evidence"]).any()


def test_compare_with_no_cell_left(nb, data, tmp_path, capsys):
    run("fit", data, *QUICK, "--held-out", 0, "--out", tmp_path / "all")
    assert main(["compare", str(nb), str(tmp_path / "all"), "--data", str(data)]) == 1
    assert "every cell" in capsys.readouterr().err


def test_calibrate_prints_a_table_and_draws(nb, data, tmp_path, capsys):
    table, ranks, check = (tmp_path / name for name in ("table.csv", "ranks.png", "check.png"))
    capsys.readouterr()
    run("calibrate", nb, "--data", data, "--simulations", 20, "--draws", 19, "--out", table, "--picture", ranks,
        "--predictive", check)  # fmt: skip
    printed = capsys.readouterr().out
    assert "20 simulated cells, 19 draws of each" in printed
    assert "quantity" in printed[: printed.index("\u2500\u2500\u2500")].splitlines()[-1]  # a table like that of compare
    assert "Posterior predictive check: 99 replicates" in printed
    rows = pd.read_csv(table, index_col=["draws", "quantity"])
    assert set(rows.index.get_level_values("draws")) == {"guide", "corrected"}
    assert "log p(x | z)" in rows.loc["guide"].index
    assert ranks.stat().st_size > 0
    assert check.stat().st_size > 0
    run("calibrate", nb, "--raw", "--simulations", 20)
    assert "importance-corrected" not in capsys.readouterr().out


def test_opening_a_run_removes_partial_files_of_a_killed_run(tmp_path):
    for name in ("fit", "cells"):
        open_folder(tmp_path / "run", {"a": "run"})
        (tmp_path / "run" / f".{name}.partial.csv").write_text("half")
    open_folder(tmp_path / "run", {"a": "run"})
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["configuration.json"]


@pytest.mark.parametrize("form", ["h5ad", "folder"])
def test_a_fit_leaves_its_counts_on_disk_if_asked(form, data, tmp_path):
    place, backed = data, ["--backed"]
    adata = ad.read_h5ad(data)
    if form == "folder":
        place, backed = tmp_path / "files", []  # counts of a folder are always read from disk
        place.mkdir()
        adata[:35].copy().write_h5ad(place / "a.h5ad")
        adata[35:].copy().write_h5ad(place / "b.h5ad")
    run("fit", place, "--batch", "batch", "--hvg", 8, *backed, *QUICK, "--out", tmp_path / "disk")
    run("fit", data, "--batch", "batch", "--hvg", 8, *QUICK, "--out", tmp_path / "memory")
    disk, memory = (ps.load(tmp_path / name) for name in ("disk", "memory"))
    assert disk.genes == memory.genes
    latents = ad.read_h5ad(tmp_path / "disk" / "latents.h5ad")
    np.testing.assert_array_equal(latents.obsm["X_pyroscvi"], disk.latent(adata))
    assert latents.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()


def test_results_are_json_for_programs(nb, data, capsys):
    about = json.loads((nb / "run.json").read_text())
    assert about["levels"]["batch"] == ["batch0", "batch1"]
    assert about["genes"] == [f"gene{n}" for n in range(12)]
    assert about["model"] == "SCVI(latent=3, decoder=MLP(widths=8), likelihood=NB())"
    assert about["settings"]["epochs"] == 3
    capsys.readouterr()
    run("list", "--json")
    pages = {page["name"]: page for page in json.loads(capsys.readouterr().out)}
    assert pages["scvi"]["kind"] == "models"
    assert "likelihood" in [slot["name"] for slot in pages["scvi"]["slots"]]
    run("compare", nb, "--data", data, "--particles", "10", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["fit"] == "nb"
    assert row["evidence"] < 0
    run("compare", nb, "--data", data, "--particles", "10", "--quiet")
    assert capsys.readouterr().out == ""
