"""What is installed is what is here, built as an installer would build it; without a network."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The source distribution, and the wheel that is built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("needs a git checkout, to know which files are ours")
    for name in filter(None, listed.stdout.split("\0")):
        original, copied = ROOT / name, source / name
        if original.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, copied, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"sdist": next(out.glob("*.tar.gz")), "wheel": next(out.glob("*.whl"))}


def ours() -> set[str]:
    """Every module and marker of the package, as it is imported, and the source of its kernel."""
    files = [*ROOT.glob("pyroscvi/**/*.py"), *ROOT.glob("pyroscvi/**/*.cpp"), ROOT / "pyroscvi" / "py.typed"]
    zoo = [ROOT / "pyroscvi" / kind / file.name for kind in ("models", "guides") for file in (ROOT / kind).glob("*.py")]
    return {str(file.relative_to(ROOT)) for file in [*files, *zoo]}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
    held = {name for name in names if ".dist-info/" not in name}
    assert held == ours()
    assert {"pyroscvi/models/scvi.py", "pyroscvi/guides/mean_field.py", "pyroscvi/py.typed"} <= held
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_has_the_command(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        assert "pyroscvi = pyroscvi.cli:main" in wheel.read(entry).decode()


def test_pages_of_the_wheel_are_files(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        assert wheel.read("pyroscvi/models/scvi.py") == (ROOT / "models" / "scvi.py").read_bytes()


def test_the_wheel_runs_from_elsewhere(built, tmp_path):
    """Unpacked in a folder of its own, the wheel has its catalogue, and installs no package called models."""
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(tmp_path)
    program = f"""
import sys
sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if p and p != {str(ROOT)!r}]
import importlib.util
import pyroscvi
assert pyroscvi.__file__.startswith({str(tmp_path)!r}), pyroscvi.__file__
assert importlib.util.find_spec("models") is None
print(*pyroscvi.list_models())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"scvi", "gmvae", "ppca"} < set(done.stdout.split())


def test_the_sdist_can_be_built_from(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "pyroscvi/models/scvi.py"} <= names


def test_the_version_is_one():
    import pyroscvi

    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in cited
    assert pyroscvi.__version__ == PROJECT["version"]


def test_constraints_pin_everything_that_is_asked_for():
    pinned = {canonicalize_name(Requirement(pin).name): Requirement(pin) for pin in PINS}
    assert all(str(pin.specifier).startswith("==") for pin in pinned.values())
    assert str(pinned["torch"].specifier) == "==2.13.0"
    assert "pyroscvi" not in pinned
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["test"], *extras["docs"]]:
        asked = Requirement(text)
        (version,) = (spec.version for spec in pinned[canonicalize_name(asked.name)].specifier)
        assert asked.specifier.contains(version), text


def test_scanpy_comes_with_what_seurat_v3_and_leiden_need():
    """``highly_variable_genes(flavor="seurat_v3")`` imports scikit-misc, and ``tl.leiden`` imports igraph."""
    (scanpy,) = [asked for asked in map(Requirement, PROJECT["dependencies"]) if asked.name == "scanpy"]
    extras = [text for text in requires("scanpy") or () if "extra ==" in text]
    needed = [
        Requirement(text).name
        for text in extras
        if any(Requirement(text).marker.evaluate({"extra": extra}) for extra in scanpy.extras)
    ]
    assert {"scikit-misc", "igraph", "leidenalg"} <= set(needed) <= {Requirement(pin).name for pin in PINS}


def test_no_addresses_are_pinned():
    assert not [line for line in PINS if "://" in line or "@" in line]
