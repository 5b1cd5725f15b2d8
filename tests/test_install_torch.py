"""Which torch `make demo` installs: scripts/install_torch.py in a new environment, with indexes that the tests
serve."""

import contextlib
import functools
import importlib.util
import os
import platform
import runpy
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "install_torch.py"


def write_wheel(folder, version):
    """Write a wheel that claims to be torch. Returns its path."""
    path = folder / f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder, version):
    """Serve an index that has torch in this version. Gives its address."""
    (folder / "torch").mkdir(parents=True)
    wheel = write_wheel(folder / "torch", version)
    (folder / "torch" / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def port(listens):
    """Give an address without a server. It refuses at once or, if it listens, never answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        if listens:
            one.listen()
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


class Environment:
    """A virtual environment with only pip, whose default index is `default`."""

    def __init__(self, folder, default):
        self.folder, self.default = folder, default
        venv.create(folder)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        pip = Path(importlib.util.find_spec("pip").origin).parent
        (self.packages / "pip").symlink_to(pip)

    def run(self, **variables):
        """Return the output of the script."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH", "PYTHON"))}
        own = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.default, "no_proxy": "127.0.0.1"}
        command = [self.folder / "bin" / "python", SCRIPT]
        done = subprocess.run(command, env=clean | own | variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def torch(self):
        """Return the installed versions of torch."""
        return [path.name.removesuffix(".dist-info").removeprefix("torch-") for path in self.packages.glob("torch-*")]


@pytest.fixture
def indexes(tmp_path):
    """Give the address of one index for CPUs, and of pip's default index."""
    with serving(tmp_path / "cpu", "2.13.0+cpu") as cpu, serving(tmp_path / "default", "2.13.0") as default:
        yield cpu, default


@pytest.fixture
def environment(tmp_path, indexes):
    return Environment(tmp_path / "environment", indexes[1])


def test_an_index_that_answers_is_where_torch_comes_from(environment, indexes):
    printed = environment.run(TORCH_INDEX=indexes[0])
    assert environment.torch() == ["2.13.0+cpu"]
    assert f"installing torch==2.13.0 from {indexes[0]}" in printed
    assert "Downloading" in printed  # the user can watch it


def test_an_index_that_refuses_is_left_for_the_default_one(environment):
    with port(listens=False) as dead:
        printed = environment.run(TORCH_INDEX=dead)
    assert environment.torch() == ["2.13.0"]
    assert f"{dead} does not answer within 10 seconds" in printed


def test_an_index_without_such_a_torch_is_left_for_the_default_one(environment, tmp_path):
    with serving(tmp_path / "old", "1.0.0") as old:
        printed = environment.run(TORCH_INDEX=old)
    assert environment.torch() == ["2.13.0"]
    assert "asking pip's default index" in printed


def test_an_index_that_says_nothing_is_not_waited_for():
    answers = runpy.run_path(str(SCRIPT))["answers"]
    with port(listens=True) as silent:
        assert not answers(silent, seconds=0.2)


def test_no_index_is_the_default_one(environment):
    assert "from" not in environment.run(TORCH_INDEX="")
    assert environment.torch() == ["2.13.0"]


def test_a_wheel_file_is_installed_as_it_is(environment, tmp_path):
    wheel = write_wheel(tmp_path, "2.7.1")
    environment.run(TORCH=str(wheel), PIP_NO_INDEX="1")
    assert environment.torch() == ["2.7.1"]


@pytest.mark.parametrize(("version", "stays"), [("2.6.0", True), ("2.12.1+cu130", True), ("2.5.1", False)])
def test_an_installed_torch_stays_where_it_fits(version, stays, environment, tmp_path):
    environment.run(TORCH=str(write_wheel(tmp_path, version)), PIP_NO_INDEX="1")
    environment.run(TORCH_INDEX="", **({"PIP_NO_INDEX": "1"} if stays else {}))
    assert environment.torch() == [version if stays else "2.13.0"]


def test_one_that_is_asked_for_takes_the_place_of_an_installed_one(environment, tmp_path):
    environment.run(TORCH=str(write_wheel(tmp_path, "2.7.1")), PIP_NO_INDEX="1")
    environment.run(TORCH="torch==2.13.0", TORCH_INDEX="")
    assert environment.torch() == ["2.13.0"]


@pytest.fixture
def script(monkeypatch, indexes):
    """Give the script's names, with a test index as the one for CPUs."""
    for name in ("TORCH", "TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)
    names = runpy.run_path(str(SCRIPT))["main"].__globals__
    names["CPU_INDEX"] = indexes[0]
    return names


@pytest.mark.parametrize(
    ("system", "processor", "gpu", "from_cpu_index"),
    [
        ("linux", "x86_64", False, True),
        ("linux", "x86_64", True, False),
        ("linux", "aarch64", False, False),
        ("darwin", "x86_64", False, False),
        ("win32", "AMD64", False, False),
    ],
)
def test_the_cpu_build_is_for_linux_on_x86_without_a_gpu(
    system, processor, gpu, from_cpu_index, script, indexes, monkeypatch, tmp_path
):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: some'\n" if gpu else "#!/bin/sh\nexit 9\n")
    driver.chmod(0o755)
    asked = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script.update(installed=lambda: None, pip=lambda *arguments: asked.append(arguments) or 0)
    assert script["main"]() == 0
    from_index = ("--no-deps", "--index-url", indexes[0], "torch==2.13.0")
    assert asked == [from_index if from_cpu_index else ("torch==2.13.0",)]


def test_the_oldest_torch_is_that_of_the_package(script):
    assert f'"torch>={".".join(map(str, script["OLDEST"]))}"' in (ROOT / "pyproject.toml").read_text()


def test_the_release_is_checked_with_the_same_torch(script):
    assert f"$(or $(TORCH),{script['DEFAULT']})" in (ROOT / "Makefile").read_text()
