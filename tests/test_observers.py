"""Observers look at a fit after every epoch: checkpoints that are kept, and event files for TensorBoard."""

import sys
from types import ModuleType

import pytest
from command_line import QUICK, run
from fits import quick

import pyroscvi as ps
from pyroscvi.cli import main
from pyroscvi.fitting.observers import Checkpoints, TensorBoard
from pyroscvi.guides import MeanField
from pyroscvi.models import SCVI


@pytest.fixture
def written(monkeypatch):
    """What a SummaryWriter was given, from a module in the place of torch's, which needs a package of its own."""
    added, module = [], ModuleType("torch.utils.tensorboard")

    class SummaryWriter:
        def __init__(self, folder):
            added.append(folder)

        def add_scalar(self, name, value, epoch):
            added.append((name, value, epoch))

        def flush(self):
            pass

    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return added


def test_fits_are_kept_and_nothing_changes(cells, tmp_path):
    options = {"epochs": 4, "validation": 0.1}
    plain = quick(SCVI(latent=2), MeanField(), cells, **options)
    kept = quick(SCVI(latent=2), MeanField(), cells, **options, observers=[Checkpoints(tmp_path / "kept", every=2)])
    assert kept.history["loss"].tolist() == plain.history["loss"].tolist()
    assert [file.name for file in sorted((tmp_path / "kept").iterdir())] == [
        "epoch_0002.safetensors", "epoch_0004.safetensors"
    ]  # fmt: skip
    second = ps.load(tmp_path / "kept" / "epoch_0002.safetensors")
    assert len(second.history) == 2
    assert second.latent(cells).shape == (60, 2)
    with pytest.raises(ValueError, match="with n at least 1, not 0"):
        Checkpoints(tmp_path, every=0)


def test_history_goes_to_tensorboard(cells, written, tmp_path):
    fit = quick(SCVI(latent=2), MeanField(), cells, epochs=2, observers=[TensorBoard(tmp_path / "events")])
    assert written[0] == str(tmp_path / "events")
    losses = [value for name, value, _ in written[1:] if name == "loss"]
    assert losses == fit.history["loss"].tolist()
    assert {epoch for _, _, epoch in written[1:]} == {1, 2}


def test_without_tensorboard_an_error_names_the_package(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"TensorBoard\(\.\.\.\) needs the package tensorboard: pip install"):
        TensorBoard(tmp_path)
    assert main(["fit", str(data), *QUICK, "--tensorboard", "--out", str(tmp_path / "run")]) == 1
    assert "--tensorboard needs the package tensorboard: pip install tensorboard" in capsys.readouterr().err


def test_a_run_keeps_fits_and_is_replaced_with_them(data, tmp_path):
    command = ("fit", data, *QUICK, "--epochs", "2", "--keep-every", "1", "--out", tmp_path / "run")
    run(*command)
    kept = {"epoch_0001.safetensors", "epoch_0002.safetensors"}
    assert {file.name for file in (tmp_path / "run" / "kept").iterdir()} == kept
    run(*command, "--force")
