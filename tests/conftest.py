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

# The models here are tiny: a second thread would bring nothing, and on a busy machine cost much. Set before torch
# is imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# As where the compiled part was not built. Set before other conftest.py import it.
if "--without-kernels" in sys.argv:
    sys.modules["spacy_elmo.bilm._kernels"] = None  # type: ignore[assignment] # its import fails from now on

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from helpers.models import write_predictor
from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions

# The same examples in every run: a failure in CI is one that can be had at home.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")

TESTS = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-kernels", action="store_true", help="run as where the compiled part was not built")


def pytest_make_parametrize_id(val, argname):
    """Bytes are named by their number: some hold the time, and all processes have to give a test the same name."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


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
def wheel(tmp_path_factory) -> Path:
    """The package as its wheel."""
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
def whole_model(data, tmp_path) -> Path:
    """A new directory with all parts of a model: `tiny_2l_skip`, five words, and a random softmax."""
    bilm, out = formats.load(data / "tiny_2l_skip"), tmp_path / "model"
    bilm.card = {"name": "tiny", "license": "CC0"}
    return write_predictor(bilm, ["<S>", "</S>", "<UNK>", "the", "bank"], out)


@pytest.fixture
def without_compiled_part(monkeypatch) -> Callable[[], None]:
    """A function after which everything is as where the compiled part was not built."""
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
    """A biLM with random weights, biases not zero, of the architecture asked for."""
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
        bilm.embedder.embedding[0].zero_()  # "no token", which no file has
    return bilm


@pytest.fixture(scope="session")
def make_bilm():
    """Make a small biLM with random weights; arguments say which architecture."""
    return make


@st.composite
def architectures(draw):
    """Keyword arguments of `make`, over everything that options.json can say."""
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
    """Strings of any code points, lone surrogates too, and what has a meaning of its own."""
    return st.one_of(
        st.text(st.characters(codec=None), max_size=20),
        st.sampled_from(["<S>", "</S>", "<UNK>", "", "word", "x" * 49, "é" * 30, "\ud800"]),
    )


def lists_of_sentences(**sizes):
    return st.lists(st.lists(tokens(), max_size=6), **sizes)


@st.composite
def operands(draw, rows, n_in, n_out):
    """Of a product, of up to these sizes: inputs, weight, bias or None, and what is done with the sums."""
    rows, n_in, n_out = (draw(st.integers(1, most)) for most in (rows, n_in, n_out))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, n_in), (n_in, n_out), (n_out,)))
    how = draw(st.sampled_from([{}, {"activation": "relu"}, {"activation": "sigmoid"}, {"limit": 0.5}]))
    return x, weight, bias if draw(st.booleans()) else None, how


@pytest.fixture(scope="session")
def strategies():
    """Strategies for `data.draw`, since test modules cannot import this file."""
    drawn = {"architectures": architectures, "lists_of_sentences": lists_of_sentences}
    return SimpleNamespace(**drawn, operands=operands, tokens=tokens)
