import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from helpers.embedding import LINES, contents
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import embed as tool
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.encoder import Encoder


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(
        num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    # workers cannot import this module
    __import__("ray.cloudpickle").cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


class Mortal(Encoder):
    """Kills its process once, the first time that a process gets the marked sentence."""

    grave: Path

    def __call__(self, sentences):
        if any("die" in sentence for sentence in sentences) and not self.grave.exists():
            self.grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(sentences)


@pytest.mark.slow
def test_ray_gives_the_file_of_one_process_even_where_an_actor_is_killed(ray, tmp_path, model, monkeypatch):
    from ray.data import DataContext

    text = tmp_path / "text.txt"
    lines = [f"line number {n} " + "so " * (n % 7) for n in range(400)]
    lines[150] = "here one shall die"
    text.write_text("\n".join(lines))
    settings = {"model": model, "batch_size": 20}
    embed_file(text, tmp_path / "one.h5", **settings)
    options = DataContext.get_current().execution_options.preserve_order
    grave = tmp_path / "grave"
    monkeypatch.setattr(Mortal, "grave", grave, raising=False)
    monkeypatch.setattr(tool, "Encoder", Mortal)
    embed_file(text, tmp_path / "many.h5", engine="ray", workers=2, **settings)
    assert grave.exists()
    one, many = contents(tmp_path / "one.h5"), contents(tmp_path / "many.h5")
    assert one.keys() == many.keys()
    assert one.pop("sentence_to_index") == many.pop("sentence_to_index")
    for name, vectors in one.items():
        np.testing.assert_allclose(many[name], vectors, rtol=0, atol=1e-6)
    assert DataContext.get_current().execution_options.preserve_order == options


@pytest.mark.slow
def test_ray_that_cannot_be_reached_is_an_error_and_nothing_is_left(tmp_path, text, model, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")

    def unreachable(address, **_):
        raise ConnectionError(f"nothing answers at {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(ElmoError, match=r"Ray cannot be reached.*at nowhere:1"):
        embed_file(text, tmp_path / "out.h5", model=model, engine="ray", ray_address="nowhere:1")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


UNTIL_KILLED = """
import os, signal, sys
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.spool import Spool
Spool.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
embed_file(sys.argv[1], sys.argv[2], model=sys.argv[3], engine="ray", batch_size=1)
"""


def processes_with(mark):
    """Return the commands of processes that inherited an environment variable. Ended processes have none."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_that_ray_has_started_end_when_their_parent_is_killed(tmp_path, text, model):
    pytest.importorskip("ray.data")
    mark = f"SPACY_ELMO_TEST={tmp_path}"
    environment = {**os.environ, "SPACY_ELMO_TEST": str(tmp_path)}
    call = [sys.executable, "-c", UNTIL_KILLED, str(text), str(tmp_path / "out.h5"), model]
    assert subprocess.run(call, env=environment, capture_output=True).returncode == -signal.SIGKILL
    until = time.monotonic() + 300  # Ray's own agents look for their parent from time to time
    while (left := processes_with(mark)) and time.monotonic() < until:
        time.sleep(0.5)
    assert left == []
    embed_file(text, tmp_path / "out.h5", model=model, batch_size=1, resume=True)
    assert len(contents(tmp_path / "out.h5")) == len(LINES) + 1


class Failing(Encoder):
    def __call__(self, sentences):
        raise RuntimeError("out of luck")


@pytest.mark.slow
def test_actor_that_fails_is_an_error_and_what_is_done_is_kept(ray, text, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tool, "Encoder", Failing)
        with pytest.raises(ElmoError, match=r"out of luck.*--resume"):
            embed_file(text, tmp_path / "out.h5", model=model, engine="ray")
    embed_file(text, tmp_path / "out.h5", model=model, engine="local", resume=True)
    assert len(contents(tmp_path / "out.h5")) == len(LINES) + 1
