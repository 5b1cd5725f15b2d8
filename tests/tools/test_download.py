"""Downloads against a server of our own: whole, cut, resumed, wrong, refused."""

import errno
import hashlib
import http.server
import json
import re
import threading
import zipfile

import pytest
import requests
import spacy

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.formats import digest, known, load, locate
from spacy_elmo.formats.known import KNOWN, KnownFile, KnownModel
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.describe import describe
from spacy_elmo.tools.download import download


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by name. `cuts`: after how many bytes of a body to cut the next connections; `status`: what to
    answer to the next requests instead; `requests`: (name, Range header) of those that came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.status, self.requests = {}, [], [], []
        self.knows_ranges = True

    def file(self, name, sha256=None, size=None, served=None):
        """What the registry would say of a file of this server."""
        return KnownFile(name, f"http://127.0.0.1:{self.server_port}/{served or name}", size, sha256)

    @property
    def ranges(self):
        return [value for name, value in self.requests if name.endswith("weights.hdf5")]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path[1:]
        wanted = self.headers.get("Range")
        server.requests.append((name, wanted))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        if name not in server.files:
            self.send_error(404)
            return
        body = server.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts and name.endswith("weights.hdf5") else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(data):
    """Serves the files of tiny_2l_skip."""
    server = Server()
    for name in ("weights.hdf5", "options.json"):
        server.files[name] = (data / "tiny_2l_skip" / name).read_bytes()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory; no pause between attempts, small chunks (cuts below are multiples of them)."""
    monkeypatch.setenv("SPACY_ELMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tool, "_PAUSE", 0.0)
    monkeypatch.setattr(tool, "_CHUNK", 2**12)
    return tmp_path / "cache"


@pytest.fixture
def tiny(server, cache, monkeypatch):
    """Put a model into the registry; `tiny(sha256=...)` says more of its weights."""

    def put(**facts):
        files = (server.file("options.json"), server.file("weights.hdf5", **facts))
        monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files, "CC0"))

    put()
    return put


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


# --- what works ---


def test_a_model_is_downloaded_and_its_name_is_enough(server, tiny, cache, data):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights), size=len(weights))
    report = download("tiny")
    assert report["path"] == str(cache / "tiny")
    assert [(file["name"], file["bytes"], file["sha256"]) for file in report["files"]] == [
        (name, len(server.files[name]), sha256(server.files[name])) for name in ("options.json", "weights.hdf5")
    ]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]
    assert digest(load("tiny")) == digest(load(data / "tiny_2l_skip"))
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": "tiny"}})
    assert nlp("It works .")._.elmo.shape == (3, 32)
    assert load("tiny").card == {"name": "tiny", "language": "en", "description": "a tiny one", "license": "CC0"}
    assert describe("tiny")["license"] == "CC0"


def test_what_is_there_is_not_downloaded_again(server, tiny):
    download("tiny")
    before = len(server.requests)
    download("tiny")
    assert len(server.requests) == before


def test_an_archive_of_nlpl_is_downloaded_and_read_in_place(server, cache, data, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "218.zip", "w") as file:
        file.write(data / "tiny_2l_skip" / "weights.hdf5", "model.hdf5")
        file.write(data / "tiny_2l_skip" / "options.json", "options.json")
    server.files["218.zip"] = (tmp_path / "218.zip").read_bytes()
    monkeypatch.setitem(KNOWN, "nlpl-218", KnownModel("nlpl-218", "no", "Norwegian", (server.file("218.zip"),)))
    assert download("nlpl-218")["path"] == str(cache / "nlpl-218" / "218.zip")
    assert names(cache / "nlpl-218") == ["218.zip"]
    assert digest(load("nlpl-218")) == digest(load(data / "tiny_2l_skip"))
    assert locate("nlpl-218").name == "nlpl-218"


# --- cut connections ---


def test_a_cut_connection_is_gone_on_with(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 49_152]
    download("tiny")
    assert server.ranges == [None, "bytes=40960-", "bytes=90112-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 0, 0, 0]
    with pytest.raises(ElmoError, match=r"weights\.hdf5: no connection, or it was cut.*run the command again"):
        download("tiny")
    assert names(cache / "tiny") == ["options.json", "weights.hdf5.part"]
    with pytest.raises(WeightsError, match="python -m spacy elmo download tiny"):
        load("tiny")
    server.requests.clear()
    download("tiny")
    assert server.requests == [("weights.hdf5", "bytes=40960-")]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


def test_a_server_that_knows_no_ranges_begins_anew(server, tiny, cache):
    server.knows_ranges = False
    server.cuts = [40_960]
    download("tiny")
    assert server.ranges == [None, "bytes=40960-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_part_that_was_already_whole_is_taken(server, tiny, cache):
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(server.files["weights.hdf5"])
    download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_part_longer_than_the_file_is_thrown_away(server, tiny, cache):
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1_000_000))
    download("tiny")
    assert server.ranges == ["bytes=1000000-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_server_in_trouble_is_asked_again(server, tiny):
    server.status = [503, 502]
    download("tiny")
    server.status = []


# --- what fails ---


def test_a_wrong_checksum_is_an_error_that_names_both_and_the_file_is_removed(server, tiny, cache):
    tiny(sha256="0" * 64)
    found = sha256(server.files["weights.hdf5"])
    with pytest.raises(ElmoError, match=rf"weights\.hdf5: not the file.*{'0' * 64}.*{found}"):
        download("tiny")
    assert names(cache / "tiny") == ["options.json"]
    assert server.ranges == [None]


def test_a_part_of_another_file_fails_once_and_is_gone(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1000))
    with pytest.raises(ElmoError, match="not the file"):
        download("tiny")
    download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_wrong_size_is_an_error_that_names_both(server, tiny, cache):
    tiny(size=17)
    with pytest.raises(ElmoError, match=r"expected 17 bytes, got 1\d\d,\d\d\d"):
        download("tiny")
    assert names(cache / "tiny") == ["options.json"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_gone_is_an_error_that_names_its_address(server, tiny, cache, status):
    server.status = [status]
    with pytest.raises(ElmoError, match=rf"http://127.*options\.json: .*{status}"):
        download("tiny")
    assert len(server.requests) == 1
    assert names(cache / "tiny") == []


def test_a_server_in_lasting_trouble_is_an_error_after_some_attempts(server, tiny):
    server.status = [500] * 10
    with pytest.raises(ElmoError, match=r"no connection.*500"):
        download("tiny")
    assert len(server.requests) == 3


def test_no_network_is_an_error_of_one_line(tiny, monkeypatch):
    def unreachable(*_, **__):
        raise requests.ConnectionError("name or service not known")

    monkeypatch.setattr(requests, "get", unreachable)
    with pytest.raises(ElmoError, match=r"options\.json: no connection.*name or service not known") as caught:
        download("tiny")
    assert "\n" not in str(caught.value)


def test_a_page_instead_of_a_model_is_removed(server, tiny, cache):
    server.files["weights.hdf5"] = b"<html>Please log in</html>"
    with pytest.raises(ElmoError, match=r"tiny: what the server sent is not a model"):
        download("tiny")
    assert names(cache / "tiny") == []


def test_a_full_disk_is_an_error_of_ours(tiny, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tool._Resuming, "_fetch_rest", full)
    with pytest.raises(ElmoError, match=r"cannot be written.*No space left"):
        download("tiny")


def test_a_cache_that_cannot_be_made_is_an_error_of_ours(tiny, cache):
    cache.write_text("a file")
    with pytest.raises(ElmoError, match="cache/tiny: cannot be written"):
        download("tiny")


def test_an_unknown_name_is_an_error_with_the_nearest(cache):
    with pytest.raises(ElmoError, match="did you mean allennlp-small"):
        download("allennlp-smal")
    for name in ("zzz", "nlpl-144"):
        with pytest.raises(ElmoError, match="--list"):
            download(name)


# --- names ---


def test_a_known_model_is_not_downloaded_by_loading_it(cache, monkeypatch):
    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(WeightsError, match=r"python -m spacy elmo download allennlp-small .*\./allennlp-small"):
        load("allennlp-small")


def test_a_directory_of_that_name_is_named_as_a_path(cache, data, tmp_path, monkeypatch):
    (tmp_path / "allennlp-small").symlink_to(data / "tiny_2l_skip")
    monkeypatch.chdir(tmp_path)
    assert digest(load("./allennlp-small")) == digest(load(data / "tiny_2l_skip"))


def test_the_cache_is_the_users_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("SPACY_ELMO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert known.cache_directory().name == "spacy-elmo"
    monkeypatch.setenv("SPACY_ELMO_CACHE", "~/elmo")
    assert known.cache_directory().is_absolute()


def test_the_registry_is_well_formed(cache):
    for name, model in KNOWN.items():
        assert name == model.name
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert not model.is_downloaded
        assert {file.name for file in model.files} == {"options.json", "weights.hdf5"} or len(model.files) == 1
        for file in model.files:
            assert re.fullmatch(r"https?://[\w./-]+", file.url)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    small = KNOWN["allennlp-small"].files[1]
    assert (small.size, small.sha256[:8]) == (54_402_456, "747ba97a")
    assert json.loads(json.dumps(tool.known_models()))["models"][0]["name"] == "allennlp-small"
