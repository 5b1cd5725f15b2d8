import importlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# The models here are tiny: a second thread would bring nothing, and on a busy machine cost much. Set before torch
# is imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# As where the compiled part was not built. Set before other conftest.py import it.
if "--without-kernels" in sys.argv:
    sys.modules["spacy_elmo.bilm._kernels"] = None  # type: ignore[assignment] # its import fails from now on

import pytest
from hypothesis import settings

# The same examples in every run: a failure in CI is one that can be had at home.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")

TESTS = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-kernels", action="store_true", help="run as where the compiled part was not built")


@pytest.fixture(scope="session")
def data() -> Path:
    """Reference weights and outputs that the tests carry along."""
    return TESTS / "data"


@pytest.fixture(scope="session")
def tensorflow_models(data, tmp_path_factory) -> Path:
    """Folder of the models that TensorFlow has saved, see data/tensorflow/README.md; to be left as they are."""
    folder = tmp_path_factory.mktemp("tensorflow")
    for archive in ("references", "made"):
        with tarfile.open(data / "tensorflow" / f"{archive}.tar.xz") as tar:
            tar.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return ../shared beside the checkout, or where SPACY_ELMO_SHARED says; without it the test is skipped.

    With SPACY_ELMO_REQUIRE_SHARED=1 the test fails instead.
    """
    path = Path(os.environ.get("SPACY_ELMO_SHARED") or TESTS.parent.parent / "shared")
    if not (path / "references").is_dir():
        reason = f"no reference data: {path} has no references (SPACY_ELMO_SHARED names another place)"
        if os.environ.get("SPACY_ELMO_REQUIRE_SHARED") == "1":
            pytest.fail(f"{reason}, and SPACY_ELMO_REQUIRE_SHARED=1 asks for it", pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def bundled_width() -> int:
    """Width of the bundled model's vectors, by its options file."""
    options = TESTS.parent / "spacy_elmo" / "models" / "en_elmo_sm" / "options.json"
    return 2 * json.loads(options.read_text())["lstm"]["projection_dim"]


@pytest.fixture(scope="session")
def install() -> Callable[[Path, Path], None]:
    """Install a wheel, without what it depends on, into a directory."""

    def install(wheel: Path, site: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
        subprocess.run(pip, check=True, capture_output=True)

    return install


@pytest.fixture
def import_benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    """A function that imports a module of the benchmarks or of the experiments."""
    for directory in ("experiments", "benchmarks"):
        monkeypatch.syspath_prepend(str(TESTS.parent / directory))
    return importlib.import_module


@pytest.fixture(scope="session")
def sentences(data) -> list[list[str]]:
    """The 32 sentences that the originals encoded: emoji, CJK, lone surrogates, long, empty and special tokens."""
    return json.loads((data / "sentences.json").read_bytes())


@pytest.fixture
def without_compiled_part(monkeypatch) -> Callable[[], None]:
    """A function after which everything is as where the compiled part was not built."""
    from spacy_elmo.bilm import kernels

    def take_away() -> None:
        monkeypatch.setattr(kernels, "_kernels", None)
        monkeypatch.setattr(kernels, "_chosen", None)
        monkeypatch.setattr(kernels, "_failure", ModuleNotFoundError("No module named 'spacy_elmo.bilm._kernels'"))
        monkeypatch.setattr(kernels, "_is_warned", False)

    return take_away
