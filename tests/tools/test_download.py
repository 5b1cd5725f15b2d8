"""Downloads against a server of our own: whole, cut, resumed, changed meanwhile, several at once, wrong, refused."""

import email.utils
import errno
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import h5py
import pytest
import requests
import spacy
import torch
from filelock import FileLock
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import MaxRetryError

from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.formats import digest, known, load, open_model
from spacy_elmo.formats.known import ALIASES, KNOWN, KnownFile, KnownModel
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.describe import describe
from spacy_elmo.tools.download import download


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by name. `checks`: names of those that were asked for only if they have changed. `cuts`: after
    how many bytes of a body to cut the next connections; `status`: what to answer to the next requests instead;
    `requests`: (name, Range header) of those that came, `if_ranges`: their If-Range; `validates_by`: see
    `validator`; `shift`: by how many bytes to miss a range that is asked for; `most`: how many bytes of it to send;
    `gate`: bodies of weights wait for it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.status, self.requests, self.if_ranges, self.checks = {}, [], [], [], [], []
        self.knows_ranges, self.knows_if_range, self.validates_by = True, True, "ETag"
        self.shift, self.most = 0, None
        self.gate = threading.Event()
        self.gate.set()

    def file(self, name, sha256=None, size=None, served=None):
        """What the registry would say of a file of this server."""
        return KnownFile(name, f"http://127.0.0.1:{self.server_port}/{served or name}", size, sha256)

    def validator(self, name):
        """The header that tells this content of a file from others, and its value."""
        tag = hashlib.sha256(self.files[name]).hexdigest()[:7]
        return {
            "ETag": ("ETag", f'"{tag}"'),
            "weak ETag": ("ETag", f'W/"{tag}"'),
            "Last-Modified": ("Last-Modified", email.utils.formatdate(int(tag, 16), usegmt=True)),
            "nothing": ("X-Nothing", ""),
        }[self.validates_by]

    @property
    def ranges(self):
        return [value for name, value in self.requests if name.endswith("weights.hdf5")]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path[1:]
        wanted, if_range = self.headers.get("Range"), self.headers.get("If-Range")
        condition = self.headers.get("If-None-Match") or self.headers.get("If-Modified-Since")
        if condition:
            server.checks.append(name)
        else:
            server.requests.append((name, wanted))
        if name.endswith("weights.hdf5"):
            server.if_ranges.append(if_range)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        if name not in server.files:
            self.send_error(404)
            return
        body, validator = server.files[name], server.validator(name)
        if condition == validator[1]:
            self.send_response(304)
            self.end_headers()
            return
        fits = if_range in (None, validator[1]) or not server.knows_if_range
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_ranges and fits else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        sent = body
        if start:
            start += server.shift
            sent = body[start:][: server.most]
            self.send_header("Content-Range", f"bytes {start}-{start + len(sent) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(sent)))
        self.send_header(*validator)
        self.end_headers()
        if name.endswith("weights.hdf5"):
            server.gate.wait(60)
            sent = sent[: server.cuts.pop(0)] if server.cuts else sent
        self.wfile.write(sent)

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
    server.gate.set()
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
def coming(cache):
    """Where what has come of the model `tiny` waits for the rest."""
    return cache / ".tiny.download"


@pytest.fixture
def tiny(server, cache, monkeypatch):
    """Put a model into the registry; `tiny(sha256=...)` says more of its weights."""

    def put(**facts):
        files = (server.file("options.json"), server.file("weights.hdf5", **facts))
        monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files, "CC0"))

    put()
    return put


@pytest.fixture
def publish(server, cache, monkeypatch):
    """Put files on the server, and a model of them into the registry."""

    def put(name, contents):
        server.files.update(contents)
        files = tuple(map(server.file, contents))
        monkeypatch.setitem(KNOWN, name, KnownModel(name, "en", "a published one", files))

    return put


def contents_of(folder):
    """The files of a folder and of its folders, by their names in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def packed(folder, inside="."):
    """A tar.gz of a folder, whose files lie in a folder `inside` there."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(folder, inside)
    return file.getvalue()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def changed(weights):
    """Weights of the same size in which every number is another one."""
    file = io.BytesIO(weights)
    with h5py.File(file, "r+") as root:

        def halve(_, node):
            if isinstance(node, h5py.Dataset):
                node[...] = node[...] / 2

        root.visititems(halve)
    return file.getvalue()


def cut_download(server, at=40_960):
    """A download that is given up after so many bytes of the weights. Forgets the requests for it."""
    server.cuts = [at, 0, 0, 0]
    with pytest.raises(ElmoError, match="run the command again"):
        download("tiny")
    server.cuts.clear()
    server.requests.clear()
    server.if_ranges.clear()


def wait_until(condition):
    """Wait for another thread or process; fail after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Downloading(threading.Thread):
    """`download("tiny")` in a thread."""

    def __init__(self, **settings):
        super().__init__(daemon=True)
        self.settings, self.report = settings, None
        self.start()

    def run(self):
        self.report = download("tiny", **self.settings)

    def finish(self):
        """Its report, once it is at its end."""
        self.join(60)
        assert not self.is_alive()
        return self.report


@pytest.fixture
def other_process(tiny):
    """A process that downloads the same model."""
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
    assert open_model("nlpl-218").name == "nlpl-218"


def test_a_module_in_a_tar_is_downloaded_and_read_in_place(publish, cache, tensorflow_models):
    module = tensorflow_models / "hub_tiny_2l_skip"
    publish("module", {"elmo_ru.tar.gz": packed(module)})
    assert download("module")["path"] == str(cache / "module" / "elmo_ru.tar.gz")
    assert digest(load("module")) == digest(load(module))


def test_a_model_in_a_folder_of_a_tar_is_downloaded(publish, data):
    publish("embeddia", {"slovenian-elmo.tar.gz": packed(data / "tiny_2l_skip", "slovenian")})
    download("embeddia")
    assert digest(load("embeddia")) == digest(load(data / "tiny_2l_skip"))


def test_a_model_of_elmoformanylangs_is_downloaded(publish, data, tmp_path):
    model = data / "elmoformanylangs" / "clip3"
    with zipfile.ZipFile(tmp_path / "149.zip", "w") as file:
        for name, content in contents_of(model).items():
            file.writestr(name, content)
    publish("nlpl-149", {"149.zip": (tmp_path / "149.zip").read_bytes()})
    download("149")
    assert digest(load("nlpl-149")) == digest(load(model))


# --- models of several files ---


CHECKPOINT = ("options.json", "model.ckpt-60.index", "model.ckpt-60.data-00000-of-00001", "vocab.txt")


@pytest.fixture
def checkpoint(publish, tensorflow_models):
    """Publish a checkpoint, `ckpt`, as AllenNLP publishes its own; the folder that it is of."""
    folder = tensorflow_models / "trained_chars"
    publish("ckpt", {name: (folder / name).read_bytes() for name in CHECKPOINT})
    return folder


def test_a_checkpoint_is_downloaded_with_its_softmax(checkpoint, cache):
    assert download("ckpt")["path"] == str(cache / "ckpt")
    found, expected = open_model("ckpt"), open_model(checkpoint)
    assert found.digest == expected.digest
    assert found.vocabulary == expected.vocabulary
    assert torch.equal(found.softmax().weight, expected.softmax().weight)


@pytest.mark.parametrize("missing", CHECKPOINT)
def test_a_model_without_one_of_its_files_is_not_there_and_only_that_one_is_fetched_next(
    server, checkpoint, cache, missing
):
    content = server.files.pop(missing)
    with pytest.raises(ElmoError, match=rf"{missing}: .*still published"):
        download("ckpt")
    with pytest.raises(WeightsError, match="ckpt is not downloaded"):
        load("ckpt")
    assert not known_models_by_name()["ckpt"]["downloaded"]
    there = set(names(cache / ".ckpt.download")) if (cache / ".ckpt.download").exists() else set()
    server.files[missing] = content
    server.requests.clear()
    download("ckpt")
    assert {name for name, _ in server.requests} == set(CHECKPOINT) - there
    assert missing in {name for name, _ in server.requests}
    assert digest(load("ckpt")) == digest(load(checkpoint))


def test_parts_that_do_not_belong_together_are_all_removed(server, checkpoint, cache, tensorflow_models):
    part = "model.ckpt-60.data-00000-of-00001"
    server.files[part] = (tensorflow_models / "trained_words" / part).read_bytes()
    with pytest.raises(ElmoError, match="ckpt: what the server sent is not a model"):
        download("ckpt")
    assert names(cache) == ["ckpt.lock"]


def known_models_by_name():
    return {model["name"]: model for model in tool.known_models()["models"]}


# --- cut connections ---


def test_a_cut_connection_is_gone_on_with(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 49_152]
    download("tiny")
    assert server.ranges == [None, "bytes=40960-", "bytes=90112-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next(server, tiny, cache, coming):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 0, 0, 0]
    with pytest.raises(ElmoError, match=r"weights\.hdf5: no connection, or it was cut.*run the command again"):
        download("tiny")
    notes = ["options.json.part.version", "weights.hdf5.part.version"]
    assert names(coming) == ["options.json", notes[0], "weights.hdf5.part", notes[1]]
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


def test_a_part_that_was_already_whole_is_taken(server, tiny, cache, coming):
    weights = server.files["weights.hdf5"]
    cut_download(server)
    (coming / "weights.hdf5.part").write_bytes(weights)
    download("tiny")
    assert server.ranges == [f"bytes={len(weights)}-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_part_longer_than_the_file_is_thrown_away(server, tiny, cache):
    tiny(sha256=sha256(server.files["weights.hdf5"]))
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1_000_000))
    download("tiny")
    assert server.ranges == ["bytes=1000000-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_server_that_sends_another_range_begins_anew(server, tiny, cache):
    cut_download(server)
    server.shift = 1
    download("tiny")
    assert server.ranges == ["bytes=40960-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_server_that_sends_less_than_the_rest_is_asked_for_more(server, tiny, cache):
    cut_download(server)
    server.most = 65_536
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=106496-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_beginning_anew_again_and_again_comes_to_an_end(server, tiny):
    server.validates_by = "nothing"
    server.cuts = [8_192, 4_096] * 5
    with pytest.raises(ElmoError, match="run the command again"):
        download("tiny")
    assert server.ranges == [None] * 4


def test_a_server_in_trouble_is_asked_again(server, tiny):
    server.status = [503, 502]
    download("tiny")
    server.status = []


# --- files that change between two attempts ---


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_of_unknown_checksum_is_gone_on_with_if_it_is_still_the_same(server, tiny, cache, header):
    server.validates_by = header
    cut_download(server)
    download("tiny")
    assert server.ranges == ["bytes=40960-"]
    assert server.if_ranges == [server.validator("weights.hdf5")[1]]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_that_has_changed_is_begun_anew(server, tiny, cache, header):
    server.validates_by = header
    old = server.validator("weights.hdf5")[1]
    cut_download(server)
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    server.cuts = [49_152]
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=49152-"]
    assert server.if_ranges == [old, server.validator("weights.hdf5")[1]]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


@pytest.mark.parametrize("header", ["weak ETag", "nothing"])
def test_a_file_whose_change_could_not_be_told_is_begun_anew(server, tiny, cache, header):
    server.validates_by = header
    cut_download(server)
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    download("tiny")
    assert server.ranges == [None]
    assert server.if_ranges == [None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


@pytest.mark.parametrize("header", ["weak ETag", "nothing"])
def test_a_known_checksum_is_enough_to_go_on(server, tiny, header):
    tiny(sha256=sha256(server.files["weights.hdf5"]))
    server.validates_by = header
    cut_download(server)
    download("tiny")
    assert server.ranges == ["bytes=40960-"]
    assert server.if_ranges == [None]


@pytest.mark.parametrize("note", [None, "", "[]", '{"validator": ', "null"])
def test_a_part_of_unknown_origin_is_begun_anew(server, tiny, cache, note):
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1000))
    if note is not None:
        (cache / "tiny/weights.hdf5.part.version").write_text(note)
    download("tiny")
    assert server.ranges == [None]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


@pytest.mark.parametrize(("header", "more"), [("nothing", b" "), ("ETag", b"")])
def test_a_server_without_if_range_is_found_out_by_the_size_or_tag_it_sends(server, tiny, cache, header, more):
    cut_download(server)
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"]) + more
    server.knows_if_range, server.validates_by = False, header
    download("tiny")
    assert server.ranges == ["bytes=40960-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


def test_the_version_of_the_first_bytes_is_kept_over_several_cuts(server, tiny):
    first = server.validator("weights.hdf5")[1]
    cut_download(server)
    server.validates_by, server.knows_if_range = "nothing", False
    server.cuts = [49_152]
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=90112-"]
    assert server.if_ranges == [first, first]


def test_a_changed_file_that_ends_where_the_part_does_is_begun_anew(server, tiny, cache):
    cut_download(server)
    server.files["weights.hdf5"], server.knows_if_range = bytes(40_960), False
    with pytest.raises(ElmoError, match="is not a model"):
        download("tiny")
    assert server.ranges == ["bytes=40960-", None]


def test_what_a_cut_download_leaves_is_not_taken_for_options(server, cache, coming, monkeypatch):
    files = (server.file("options.json", served="weights.hdf5"), server.file("weights.hdf5"))
    monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files))
    cut_download(server)
    assert names(coming) == ["options.json.part", "options.json.part.version"]
    (coming / "weights.hdf5").touch()
    with pytest.raises(OptionsError, match=r"no options\.json beside it"):
        open_model(coming).options  # noqa: B018


@pytest.mark.parametrize("header", ["ETag", "Last-Modified", "weak ETag", "nothing"])
def test_options_of_an_earlier_version_are_fetched_anew(server, tiny, cache, header):
    """They had come whole when the run was cut, and could not be told from those that belong to the new weights."""
    server.validates_by = header
    cut_download(server)
    old = server.files["options.json"]
    new = server.files["options.json"] = old.replace(b'"cell_clip": 3', b'"cell_clip": 1')
    weights = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    assert new != old
    download("tiny")
    assert contents_of(cache / "tiny") == {"options.json": new, "weights.hdf5": weights}


def test_options_that_change_while_the_weights_come_are_fetched_anew(server, tiny, cache):
    server.gate.clear()
    downloading = Downloading()
    wait_until(lambda: server.ranges)
    new = server.files["options.json"] = server.files["options.json"].replace(b'"cell_clip": 3', b'"cell_clip": 1')
    server.gate.set()
    downloading.finish()
    assert (cache / "tiny/options.json").read_bytes() == new
    assert server.requests == [("options.json", None), ("weights.hdf5", None), ("options.json", None)]
    assert server.checks == ["options.json", "weights.hdf5"]


def test_a_server_that_replaces_its_files_all_the_time_is_an_error(server, tiny, cache, monkeypatch):
    monkeypatch.setattr(tool._Download, "is_current", lambda self: False)
    with pytest.raises(ElmoError, match="replaces its files all the time"):
        download("tiny")
    assert not (cache / "tiny").exists()


def test_what_earlier_versions_left_of_a_cut_download_is_gone_on_with_and_cleared_away(server, tiny, cache):
    weights, old = server.files["weights.hdf5"], cache / "tiny"
    note = json.dumps({"validator": server.validator("weights.hdf5")[1], "total": len(weights)})
    old.mkdir(parents=True)
    (old / "options.json").write_text("of an earlier version")
    (old / "weights.hdf5.part").write_bytes(weights[:40_960])
    (old / "weights.hdf5.part.version").write_text(note)
    (old / "tmpab12_xyz").write_text("of pooch")
    download("tiny")
    assert server.requests == [("options.json", None), ("weights.hdf5", "bytes=40960-")]
    assert contents_of(old) == {name: server.files[name] for name in ("options.json", "weights.hdf5")}
    assert names(cache) == ["tiny", "tiny.lock"]


def test_a_damaged_model_is_fetched_again_and_stays_until_then(server, tiny, cache):
    download("tiny")
    (cache / "tiny/weights.hdf5").write_bytes(b"damaged")
    server.status = [404]
    with pytest.raises(ElmoError, match="still published"):
        download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == b"damaged"
    download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


# --- several at once ---


def test_of_two_threads_one_downloads_and_the_other_waits_and_says_so(server, tiny, capsys):
    server.gate.clear()
    first = Downloading()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    printed = []
    wait_until(lambda: printed.append(capsys.readouterr().err) or "tiny: another download of it" in "".join(printed))
    server.gate.set()
    assert first.finish() == second.finish() is not None
    assert server.requests == [("options.json", None), ("weights.hdf5", None)]
    assert ("".join(printed) + capsys.readouterr().err).count("\n") == 1


def test_a_process_waits_for_another_which_downloads(server, tiny, other_process, cache, capsys):
    server.gate.clear()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    wait_until(lambda: "another download" in capsys.readouterr().err)
    server.gate.set()
    assert second.finish()
    assert other_process.wait(60) == 0
    assert server.requests == [("options.json", None), ("weights.hdf5", None)]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_killed_process_leaves_no_lock(server, tiny, other_process, cache, capsys):
    server.gate.clear()
    wait_until(lambda: server.ranges)
    second = Downloading(show_progress=True)
    wait_until(lambda: "another download" in capsys.readouterr().err)
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


# --- what fails ---


def test_a_wrong_checksum_is_an_error_that_names_both_and_the_file_is_removed(server, tiny, coming):
    tiny(sha256="0" * 64)
    found = sha256(server.files["weights.hdf5"])
    with pytest.raises(ElmoError, match=rf"weights\.hdf5: not the file.*{'0' * 64}.*{found}"):
        download("tiny")
    assert names(coming) == ["options.json", "options.json.part.version"]
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
    assert "kept" not in str(caught.value)
    assert names(cache) == ["tiny.lock"]


def test_what_the_network_says_is_told_once(tiny, monkeypatch):
    reason = OSError("Name or service not known")
    pool = HTTPConnectionPool("somewhere")
    error = requests.ConnectionError(MaxRetryError(pool, "http://somewhere/options.json", reason))
    monkeypatch.setattr(requests, "get", Mock(side_effect=error))
    with pytest.raises(ElmoError, match=r"or it was cut \(Name or service not known\)$"):
        download("tiny")


def test_a_page_instead_of_a_model_is_removed(server, tiny, cache):
    server.files["weights.hdf5"] = b"<html>Please log in</html>"
    with pytest.raises(ElmoError, match=r"tiny: what the server sent is not a model"):
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


# --- names ---


@pytest.mark.parametrize("name", ["allennlp-small", "flair:small", "nlpl-149"])
def test_a_known_model_is_not_downloaded_by_loading_it(cache, monkeypatch, name):
    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(WeightsError, match=f"{name} is not downloaded: python -m spacy elmo download {name}$"):
        load(name)


@pytest.mark.parametrize("name", ["allennlp-small", "flair:small", "nlpl-149"])
def test_a_path_that_exists_wins_over_a_name(cache, data, tmp_path, monkeypatch, name):
    (tmp_path / name).symlink_to(data / "tiny_2l_skip")
    monkeypatch.chdir(tmp_path)
    expected = digest(load(data / "tiny_2l_skip"))
    assert {digest(load(path)) for path in (name, f"./{name}", Path(name))} == {expected}
    assert open_model(name).card == open_model(data / "tiny_2l_skip").card


def test_what_is_downloaded_is_checked_also_where_a_path_has_its_name(server, tiny, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert download("tiny")["name"] == "tiny"


@pytest.mark.parametrize("name", ["flair:wee", "wee", "tiny"])
def test_a_name_of_flair_is_an_alias(tiny, cache, data, monkeypatch, name):
    monkeypatch.setitem(ALIASES, "flair:wee", "tiny")
    report = download(name)
    assert (report["name"], report["path"]) == ("tiny", str(cache / "tiny"))
    assert digest(load("flair:wee")) == digest(load("tiny")) == digest(load(data / "tiny_2l_skip"))
    assert open_model("flair:wee").name == "tiny"


def test_a_bare_name_of_flair_is_none_of_weights(tiny, monkeypatch):
    monkeypatch.setitem(ALIASES, "flair:wee", "tiny")
    download("wee")
    with pytest.raises(WeightsError, match="wee: no such weights"):
        load("wee")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *(
            (f"{start}{name}", f"allennlp-{name}")
            for name in ("small", "medium", "original")
            for start in ("", "flair:")
        ),
        ("large", "allennlp-original-5.5b"),
        ("flair:5.5B", "allennlp-original-5.5b"),
        ("pt", "flair-portuguese"),
        ("flair:portuguese", "flair-portuguese"),
        ("pubmed", "allennlp-pubmed"),
        ("218", "nlpl-218"),
        ("218.zip", "nlpl-218"),
        ("149", "nlpl-149"),
        ("tayga_lemmas_elmo_2048_2019", "nlpl-199"),
    ],
)
def test_names_of_flair_simple_elmo_and_rusvectores_are_known(name, found):
    assert known.find_loosely(name) is KNOWN[found]


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
        assert model.source
        assert model.language is None or re.fullmatch(r"[a-z]{2,3}", model.language)
        assert len({file.name for file in model.files}) == len(model.files)
        assert "options.json" in {file.name for file in model.files} or len(model.files) == 1
        for file in model.files:
            assert re.fullmatch(r"https?://[\w./-]+[^/]", file.url)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    small = KNOWN["allennlp-small"].files[1]
    assert (small.size, small.sha256[:8]) == (54_402_456, "747ba97a")
    assert json.loads(json.dumps(tool.known_models()))["models"][0]["name"] == "allennlp-small"
    assert set(ALIASES.values()) <= set(KNOWN)


def test_the_models_of_elmoformanylangs_have_the_numbers_of_nlpl():
    languages = {number: KNOWN[f"nlpl-{number}"].language for number in range(136, 180)}
    some = {136: "ar", 140: "cu", 144: "en", 149: "fi", 153: "grc", 158: "id", 165: "nb", 172: "sl", 179: "zh"}
    assert some.items() <= languages.items()
    assert KNOWN["nlpl-149"].files[0].url == "http://vectors.nlpl.eu/repository/11/149.zip"
    assert all(KNOWN[f"nlpl-{number}"].license.startswith("MIT") for number in languages)


def test_the_docs_list_every_model_with_its_source_and_licence():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf8")
    rows, licence = {}, None
    for line in re.findall(r"^\| `.*`.*\|.*\|.*\|.*\|.*\|$", page.partition("## Public models")[2], re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        licence = licence if cells[4] == "as above" else cells[4]
        rows.update(dict.fromkeys(re.findall(r"`(.+?)`", cells[0]), (licence, cells[5])))
    many = {f"nlpl-{number}" for number in range(136, 180)}
    assert set(rows) | many == set(KNOWN)
    for name, (licence, source) in rows.items():
        assert source == KNOWN[name].source
        assert licence.startswith(KNOWN[name].license or "?")
    for name in many:
        assert f"{name[5:]} {KNOWN[name].description.partition(', ')[2]}" in page.replace("\n", " ")


@pytest.mark.parametrize(
    ("language", "some", "others"),
    [
        ("fi", {"nlpl-149"}, {"fr", "en"}),
        ("nb", {"nlpl-165", "nlpl-218"}, {"nn", "en"}),
        ("no", {"nlpl-165", "nlpl-166", "nlpl-218"}, {"en"}),
        ("ZH", {"nlpl-179", "elmoformanylangs-zhs"}, {"ja"}),
    ],
)
def test_the_list_is_of_one_language_if_you_like(cache, language, some, others):
    models = tool.known_models(language)["models"]
    assert some <= {model["name"] for model in models}
    assert not others & {model["language"] for model in models}


def test_a_language_without_models_is_an_error_that_names_those_with_some(cache):
    with pytest.raises(ElmoError, match=r"for the language finnish; there are models for ar, .*, fi, "):
        tool.known_models("finnish")
