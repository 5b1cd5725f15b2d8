import os
import platform
import runpy
import shutil
import subprocess
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import setuptools

from spacy_elmo.bilm import kernels
from spacy_elmo.formats import load

ROOT = Path(__file__).resolve().parents[2]


def predict(data, times=2):
    bilm = load(data / "tiny_2l_clip")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            bilm.encode([["We", "sat", "here"]])
    return [str(warning.message) for warning in caught]


def test_first_prediction_warns_once_of_a_missing_compiled_part(data, monkeypatch, without_compiled_part):
    without_compiled_part()
    monkeypatch.setattr(kernels, "is_for_this_platform", lambda: True)
    (message,) = predict(data)
    assert "was not built" in message
    assert predict(data) == []


def test_training_does_not_warn(data, without_compiled_part):
    without_compiled_part()
    bilm = load(data / "tiny_2l_clip").requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in bilm.stream_with_gradients([["We", "sat", "here"]]):
            batch.layers.sum().backward()


def test_no_warning_where_there_is_no_compiled_part_to_build(data, monkeypatch, without_compiled_part):
    without_compiled_part()
    monkeypatch.setattr(sys, "platform", "win32")
    assert predict(data) == []
    assert kernels.why_missing().startswith("there is no compiled part for ")


@pytest.mark.skipif(kernels.is_missing(), reason="built without a C compiler")
def test_no_warning_where_it_was_built(data):
    assert predict(data) == []
    assert kernels.why_missing() is None


def test_part_that_does_not_load_is_told_from_one_that_was_not_built(monkeypatch, without_compiled_part):
    without_compiled_part()
    monkeypatch.setattr(kernels, "is_for_this_platform", lambda: True)
    monkeypatch.setattr(kernels, "_failure", ImportError("libc.so.6: version `GLIBC_2.99' not found"))
    assert "does not load (libc.so.6: version `GLIBC_2.99' not found)" in kernels.why_missing()


@pytest.mark.skipif(kernels.is_missing(), reason="built without a C compiler")
def test_part_that_was_built_from_other_source_is_not_used(monkeypatch, without_compiled_part):
    monkeypatch.setattr(kernels._kernels, "SOURCE", kernels._kernels.SOURCE + 1)
    found, failure = kernels._load()
    assert found is None
    without_compiled_part()
    monkeypatch.setattr(kernels, "_failure", failure)
    assert (
        "built from another version of _kernels.c, _kernels_level.h and _kernels_training.h): install"
        in kernels.why_missing()
    )


def test_package_without_the_file_says_so_itself(data):
    code = (
        "import sys; sys.modules['spacy_elmo.bilm._kernels'] = None\n"
        "from spacy_elmo.formats import load\n"
        f"bilm = load({str(data / 'tiny_2l_clip')!r})\n"
        "bilm.encode([['We']]), bilm.encode([['We']])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is slower than it could be") == kernels.is_for_this_platform()


SOURCE = """
import sys
from spacy_elmo.bilm import kernels
print("imported", file=sys.stderr)
from spacy_elmo.tools import machine
print(machine.table(machine.describe_all(sys.argv[1])))
"""


@pytest.mark.skipif(not kernels.is_for_this_platform(), reason="there is no compiled part here")
def test_a_clone_that_hides_an_installed_compiled_part_is_told_once_with_both_folders(data, site, tmp_path):
    """This happens if you run `pip install .` and then a command in the clone: the current directory is first on the
    path."""
    clone = tmp_path / "clone" / "spacy_elmo"
    shutil.copytree(ROOT / "spacy_elmo", clone, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.hdf5"))
    shutil.copy(ROOT / "setup.py", clone.parent)
    run = [sys.executable, "-c", SOURCE, data / "tiny_2l_skip"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(run, cwd=clone.parent, env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("compiled part")]
    at_import, later = done.stderr.split("imported\n")
    assert "spacy_elmo" not in later
    for said in (line, at_import):
        assert said.count(f"{clone} has no usable compiled part") == 1
        assert said.count(f"hides {site / 'spacy_elmo'}, which has one") == 1
        assert "run from another directory" in said
        assert f"pip install --editable {clone.parent})" in said


@pytest.fixture
def site(tmp_path):
    """Make a directory with the package and a compiled part for this Python."""
    bilm = tmp_path / "site-packages" / "spacy_elmo" / "bilm"
    bilm.mkdir(parents=True)
    (bilm / f"_kernels{EXTENSION_SUFFIXES[-1]}").touch()
    return tmp_path / "site-packages"


def test_only_another_package_with_a_compiled_part_for_this_python_is_hidden(site, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), "", str(tmp_path / "none")])
    assert kernels._find_hidden() is None
    monkeypatch.setattr(sys, "path", [str(ROOT), str(site)])
    assert kernels._find_hidden() == site / "spacy_elmo"
    for file in site.glob("**/_kernels*"):
        file.rename(file.with_name("_kernels.other-python.so"))
    assert kernels._find_hidden() is None


def test_a_folder_that_may_not_be_looked_into_hides_nothing_and_stops_nothing(site, tmp_path, monkeypatch):
    """Root can read every folder, so the test raises the error that Python before 3.14 raises."""
    look = Path.is_file

    def refuse(path):
        if tmp_path / "closed" in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "closed"), str(site)])
    assert kernels._find_hidden() == site / "spacy_elmo"


def test_a_package_that_is_no_clone_is_to_be_installed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_kernels", None)
    monkeypatch.setattr(kernels, "_hidden", tmp_path / "other")
    monkeypatch.setattr(kernels, "is_for_this_platform", lambda: True)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "spacy_elmo" / "bilm" / "kernels.py"))
    assert "install spacy-elmo again in this environment" in kernels.why_missing()


def test_a_link_to_the_same_package_is_not_another(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path / "link")])
    assert kernels._find_hidden() is None


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("processor", ["x86_64", "aarch64", "arm64", "AMD64", "riscv64"])
def test_platforms_are_those_of_setup(system, processor, monkeypatch):
    asked = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: asked.update(settings))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    runpy.run_path(str(ROOT / "setup.py"))
    assert bool(asked["ext_modules"]) == kernels.is_for_this_platform()


def test_an_editable_install_is_one_that_type_checkers_follow(monkeypatch):
    asked = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: asked.update(settings))
    runpy.run_path(str(ROOT / "setup.py"))
    assert asked["options"]["editable_wheel"] == {"mode": "compat"}
