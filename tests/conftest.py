import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

# The models here are tiny. A second thread would not help, and would be slow on a busy machine. Set this before torch
# is
# imported. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

# As if the compiled part had not been built. Set before other conftest.py files import it.
if "--without-kernels" in sys.argv:
    sys.modules["spacy_elmo.bilm._kernels"] = None  # type: ignore[assignment] # importing it fails from now on

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from helpers.models import write_predictor
from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions

# Use the same examples in every run, so that you can reproduce a failure in CI at home.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")

TESTS = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-kernels", action="store_true", help="run as where the compiled part was not built")


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their number. Some hold the time, and a test must have the same name in all processes."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of reference weights and outputs that are part of the tests."""
    return TESTS / "data"


@pytest.fixture(scope="session")
def tensorflow_models(data, tmp_path_factory) -> Path:
    """Return the folder of models that TensorFlow saved (data/tensorflow/README.md). Do not change its files."""
    folder = tmp_path_factory.mktemp("tensorflow")
    for archive in ("references", "made"):
        with tarfile.open(data / "tensorflow" / f"{archive}.tar.xz") as tar:
            tar.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return ../shared next to the checkout, or the folder in SPACY_ELMO_SHARED. Without it the test is skipped.

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
    """Return the width of the bundled model's vectors, from its options file."""
    options = TESTS.parent / "spacy_elmo" / "models" / "en_elmo_sm" / "options.json"
    return 2 * json.loads(options.read_text())["lstm"]["projection_dim"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel of the package."""
    root, source = tmp_path_factory.mktemp("wheel"), TESTS.parent
    (root / "source").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, root / "source")
    skipped = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(source / "spacy_elmo", root / "source" / "spacy_elmo", ignore=skipped)
    run = [sys.executable, "-m", "build", "--wheel", "--outdir", root, root / "source"]
    subprocess.run(run, check=True, capture_output=True)
    (built,) = root.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install() -> Callable[[Path, Path], None]:
    """Return a function that installs a wheel without its dependencies into a directory."""

    def install(wheel: Path, site: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
        subprocess.run(pip, check=True, capture_output=True)

    return install


@pytest.fixture
def import_benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a module of the benchmarks or of the experiments."""
    for directory in ("experiments", "benchmarks"):
        monkeypatch.syspath_prepend(str(TESTS.parent / directory))
    return importlib.import_module


@pytest.fixture(scope="session")
def sentences(data) -> list[list[str]]:
    """Return the 32 sentences that the originals encoded: emoji, CJK, lone surrogates, long, empty and special
    tokens."""
    return json.loads((data / "sentences.json").read_bytes())


@pytest.fixture
def whole_model(data, tmp_path) -> Path:
    """Make a directory with all parts of a model: `tiny_2l_skip`, five words, and a random softmax."""
    bilm, out = formats.load(data / "tiny_2l_skip"), tmp_path / "model"
    bilm.card = {"name": "tiny", "license": "CC0"}
    return write_predictor(bilm, ["<S>", "</S>", "<UNK>", "the", "bank"], out)


@pytest.fixture
def without_compiled_part(monkeypatch) -> Callable[[], None]:
    """Return a function that makes the package behave as if the compiled part had not been built."""
    from spacy_elmo.bilm import kernels

    def take_away() -> None:
        monkeypatch.setattr(kernels, "_kernels", None)
        monkeypatch.setattr(kernels, "_chosen", None)
        monkeypatch.setattr(kernels, "_failure", ModuleNotFoundError("No module named 'spacy_elmo.bilm._kernels'"))
        monkeypatch.setattr(kernels, "_hidden", None)
        monkeypatch.setattr(kernels, "_is_warned", False)

    return take_away


def make(
    dim=6,
    projection_dim=3,
    n_layers=2,
    skip=True,
    cell_clip=3.0,
    proj_clip=3.0,
    filters=((1, 2), (2, 3)),
    embedding_dim=4,
    activation="relu",
    n_highway=1,
    max_characters=16,
    seed=0,
):
    """Make a biLM of this architecture with random weights and nonzero biases."""
    options = {
        "lstm": {
            "dim": dim,
            "projection_dim": projection_dim,
            "n_layers": n_layers,
            "use_skip_connections": skip,
            "cell_clip": cell_clip,
            "proj_clip": proj_clip,
        },
        "char_cnn": {
            "filters": [list(pair) for pair in filters],
            "embedding": {"dim": embedding_dim},
            "activation": activation,
            "n_highway": n_highway,
            "max_characters_per_token": max_characters,
            "n_characters": 262,
        },
    }
    bilm = BiLM(BiLMOptions.from_dict(options), seed=None).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bilm.parameters():
            fan_in = parameter.shape[-2] if parameter.dim() > 1 else 4
            parameter.normal_(std=1.5 * fan_in**-0.5, generator=generator)
        bilm.embedder.embedding[0].zero_()  # "no token", which is in no file
    return bilm


@pytest.fixture(scope="session")
def make_bilm():
    """Return a function that makes a small biLM with random weights. Its arguments set the architecture."""
    return make


@st.composite
def architectures(draw):
    """Draw keyword arguments of `make` that cover everything options.json can say."""
    max_characters = draw(st.sampled_from([3, 16, 50]))
    sizes = st.sampled_from(sorted({1, 2, 3, min(7, max_characters), max_characters}))
    filters = draw(st.lists(st.tuples(sizes, st.integers(1, 3)), min_size=1, max_size=3))
    n_filters = sum(number for _, number in filters)
    projection_dim = draw(st.sampled_from([n_filters, 2, 5]))
    clips = st.sampled_from([None, 0, 0.1, 0.3, 3])
    return {
        "dim": projection_dim + draw(st.sampled_from([0, 1, 4])),
        "projection_dim": projection_dim,
        "n_layers": draw(st.integers(1, 3)),
        "skip": draw(st.booleans()),
        "cell_clip": draw(clips),
        "proj_clip": draw(clips),
        "filters": filters,
        "embedding_dim": draw(st.integers(1, 4)),
        "activation": draw(st.sampled_from(["relu", "tanh"])),
        "n_highway": draw(st.integers(0, 3)),
        "max_characters": max_characters,
        "seed": draw(st.integers(0, 2**31)),
    }


def tokens():
    """Draw strings of any code points, including lone surrogates and strings with a special meaning."""
    return st.one_of(
        st.text(st.characters(codec=None), max_size=20),
        st.sampled_from(["<S>", "</S>", "<UNK>", "", "word", "x" * 49, "é" * 30, "\ud800"]),
    )


def lists_of_sentences(**sizes):
    return st.lists(st.lists(tokens(), max_size=6), **sizes)


@st.composite
def operands(draw, rows, n_in, n_out):
    """Draw the operands of a product, up to these sizes: inputs, weight, bias or None, and activation or limit."""
    rows, n_in, n_out = (draw(st.integers(1, most)) for most in (rows, n_in, n_out))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, n_in), (n_in, n_out), (n_out,)))
    how = draw(st.sampled_from([{}, {"activation": "relu"}, {"activation": "sigmoid"}, {"limit": 0.5}]))
    return x, weight, bias if draw(st.booleans()) else None, how


@pytest.fixture(scope="session")
def strategies():
    """Give strategies for `data.draw`, since test modules cannot import this file."""
    drawn = {"architectures": architectures, "lists_of_sentences": lists_of_sentences}
    return SimpleNamespace(**drawn, operands=operands, tokens=tokens)
