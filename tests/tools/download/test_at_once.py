"""Several downloads of a model at once: one downloads, the others wait."""

import subprocess
import sys

import pytest
from filelock import FileLock

from helpers.downloads import Downloading, wait_until
from spacy_elmo import ElmoError
from spacy_elmo.formats.known import KNOWN
from spacy_elmo.tools.download import download


@pytest.fixture
def other_process(tiny):
    """Start a process that downloads the same model."""
    code = (
        "from spacy_elmo.formats.known import KNOWN, KnownFile, KnownModel\n"
        "from spacy_elmo.tools.download import download\n"
        f"KNOWN['tiny'] = {KNOWN['tiny']!r}\n"
        "download('tiny')"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    yield process
    process.kill()
    process.wait()


def test_of_two_threads_one_downloads_and_the_other_waits_and_says_so(server, tiny, capsys):
    server.gate.clear()
    first = Downloading()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    printed = []
    wait_until(
        lambda: (
            printed.append(capsys.readouterr().err) or "tiny: another process downloads this model" in "".join(printed)
        )
    )
    server.gate.set()
    assert first.finish() == second.finish() is not None
    assert server.requests == [("options.json", None), ("weights.hdf5", None)]
    assert ("".join(printed) + capsys.readouterr().err).count("\n") == 1


def test_a_process_waits_for_another_which_downloads(server, tiny, other_process, cache, capsys):
    server.gate.clear()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    wait_until(lambda: "another process downloads" in capsys.readouterr().err)
    server.gate.set()
    assert second.finish()
    assert other_process.wait(60) == 0
    assert server.requests == [("options.json", None), ("weights.hdf5", None)]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_killed_process_leaves_no_lock(server, tiny, other_process, cache, capsys):
    server.gate.clear()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    wait_until(lambda: "another process downloads" in capsys.readouterr().err)
    other_process.kill()
    wait_until(lambda: len(server.ranges) == 2)
    server.gate.set()
    assert second.finish()
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_waiting_is_silent_where_no_bar_is_shown(server, tiny, cache, capsys):
    cache.mkdir()
    with FileLock(cache / "tiny.lock"):
        waiting = Downloading()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert not server.requests
    assert waiting.finish()
    assert capsys.readouterr().err == ""


def test_downloads_of_other_models_are_not_waited_for(tiny, cache):
    cache.mkdir()
    with FileLock(cache / "tiny-2.lock"):
        assert Downloading().finish()


def test_a_failed_download_frees_the_lock(server, tiny):
    server.status = [404]
    with pytest.raises(ElmoError, match="still published"):
        download("tiny")
    assert Downloading().finish()


def test_a_lock_that_cannot_be_made_is_an_error_that_names_the_directory(server, tiny, cache):
    (cache / "tiny.lock").mkdir(parents=True)
    with pytest.raises(ElmoError, match=r"cache/tiny: cannot be written or locked .*SPACY_ELMO_CACHE"):
        download("tiny")
    assert not server.requests


def test_a_cache_of_others_that_cannot_be_locked_serves_what_is_there(server, tiny, cache):
    report = download("tiny")
    server.requests.clear()
    (cache / "tiny.lock").unlink(missing_ok=True)
    (cache / "tiny.lock").mkdir()
    assert download("tiny") == report
    assert not server.requests
