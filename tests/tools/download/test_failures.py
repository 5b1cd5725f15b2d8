"""Failed downloads: one clear error, and no files left that look complete."""

import errno
from unittest.mock import Mock

import pytest
import requests
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import MaxRetryError

from helpers.files import names, sha256
from spacy_elmo import ElmoError
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.download import download


def test_a_wrong_checksum_is_an_error_that_names_both_and_the_file_is_removed(server, tiny, coming):
    tiny(sha256="0" * 64)
    found = sha256(server.files["weights.hdf5"])
    with pytest.raises(ElmoError, match=rf"weights\.hdf5: differs from the published file.*{'0' * 64}.*{found}"):
        download("tiny")
    assert names(coming) == ["options.json", "options.json.part.version"]
    assert server.ranges == [None]


def test_a_part_of_another_file_fails_once_and_is_gone(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1000))
    with pytest.raises(ElmoError, match="differs from the published file"):
        download("tiny")
    download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_wrong_size_is_an_error_that_names_both(server, tiny, coming):
    tiny(size=17)
    with pytest.raises(ElmoError, match=r"expected 17 bytes, got 1\d\d,\d\d\d"):
        download("tiny")
    assert names(coming) == ["options.json", "options.json.part.version"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_gone_is_an_error_that_names_its_address(server, tiny, cache, status):
    server.status = [status]
    with pytest.raises(ElmoError, match=rf"http://127.*options\.json: .*{status}"):
        download("tiny")
    assert len(server.requests) == 1
    assert names(cache) == ["tiny.lock"]


def test_a_server_in_lasting_trouble_is_an_error_after_some_attempts(server, tiny):
    server.status = [500] * 10
    with pytest.raises(ElmoError, match=r"no connection.*500"):
        download("tiny")
    assert len(server.requests) == 3


def test_no_network_is_an_error_of_one_line(tiny, cache, monkeypatch):
    def unreachable(*_, **__):
        raise requests.ConnectionError("name or service not known")

    monkeypatch.setattr(requests, "get", unreachable)
    with pytest.raises(ElmoError, match=r"options\.json: no connection.*name or service not known") as caught:
        download("tiny")
    assert "\n" not in str(caught.value)
    assert "/options.json as options.json and http" in str(caught.value)  # how to do without it
    assert str(caught.value).endswith(f"/weights.hdf5 as weights.hdf5 elsewhere and put them into {cache / 'tiny'}")
    assert "kept" not in str(caught.value)
    assert names(cache) == ["tiny.lock"]


def test_what_the_network_says_is_told_once(tiny, monkeypatch):
    reason = OSError("Name or service not known")
    pool = HTTPConnectionPool("somewhere")
    error = requests.ConnectionError(MaxRetryError(pool, "http://somewhere/options.json", reason))
    monkeypatch.setattr(requests, "get", Mock(side_effect=error))
    with pytest.raises(ElmoError, match=r"or it was lost \(Name or service not known\);"):
        download("tiny")


def test_a_page_instead_of_a_model_is_removed(server, tiny, cache):
    server.files["weights.hdf5"] = b"<html>Please log in</html>"
    with pytest.raises(ElmoError, match=r"tiny: the server sent no valid model"):
        download("tiny")
    assert names(cache) == ["tiny.lock"]


def test_a_full_disk_is_an_error_of_ours(tiny, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tool._Download, "_fetch_rest", full)
    with pytest.raises(ElmoError, match=r"cannot be written.*No space left"):
        download("tiny")


def test_a_cache_that_cannot_be_made_is_an_error_of_ours(tiny, cache):
    cache.write_text("a file")
    with pytest.raises(ElmoError, match="cache/tiny: cannot be written"):
        download("tiny")


def test_an_unknown_name_is_an_error_with_the_nearest(cache):
    with pytest.raises(ElmoError, match="did you mean allennlp-small"):
        download("allennlp-smal")
    for name in ("zzz", "nlpl-180", "180", "flair:huge"):
        with pytest.raises(ElmoError, match=f"^{name}: .*--list"):
            download(name)
