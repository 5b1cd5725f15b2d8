"""A test server, and models on it in the registry."""

import email.utils
import hashlib
import http.server
import re
import threading

import pytest

from spacy_elmo import ElmoError
from spacy_elmo.formats.known import KNOWN, KnownFile, KnownModel
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.download import download


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by name.

    checks: names of files that were requested only if they have changed.
    cuts: after how many bytes of a body to cut the next connections.
    status: responses to the next requests instead.
    requests: (name, Range header) of the requests so far; if_ranges: their If-Range headers.
    validates_by: see `validator`.
    shift: by how many bytes a requested range is off; most: how many bytes of the range to send.
    gate: responses with weights wait for it.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.status, self.requests, self.if_ranges, self.checks = {}, [], [], [], [], []
        self.knows_ranges, self.knows_if_range, self.validates_by = True, True, "ETag"
        self.shift, self.most = 0, None
        self.gate = threading.Event()
        self.gate.set()

    def file(self, name, sha256=None, size=None, served=None):
        """Return the registry's entry for a file of this server."""
        return KnownFile(name, f"http://127.0.0.1:{self.server_port}/{served or name}", size, sha256)

    def validator(self, name):
        """Return the header that identifies this content of a file, and its value."""
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
    """Serve the files of tiny_2l_skip."""
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
    """Return an empty cache directory. Attempts have no pause, and chunks are small (cuts below are multiples of
    them)."""
    monkeypatch.setenv("SPACY_ELMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tool, "_PAUSE", 0.0)
    monkeypatch.setattr(tool, "_CHUNK", 2**12)
    return tmp_path / "cache"


@pytest.fixture
def coming(cache):
    """Return where the unfinished download of the model `tiny` is."""
    return cache / ".tiny.download"


@pytest.fixture
def tiny(server, cache, monkeypatch):
    """Put a model into the registry. `tiny(sha256=...)` adds facts about its weights."""

    def put(**facts):
        files = (server.file("options.json"), server.file("weights.hdf5", **facts))
        monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files, "CC0"))

    put()
    return put


@pytest.fixture
def publish(server, cache, monkeypatch):
    """Return a function that puts files on the server, and a model of them into the registry."""

    def put(name, contents):
        server.files.update(contents)
        files = tuple(map(server.file, contents))
        monkeypatch.setitem(KNOWN, name, KnownModel(name, "en", "a published one", files))

    return put


@pytest.fixture
def cut_download(server):
    """Return a function that makes a download fail after this many bytes of the weights. It then clears the
    requests."""

    def cut(at=40_960):
        server.cuts = [at, 0, 0, 0]
        with pytest.raises(ElmoError, match="run the command again"):
            download("tiny")
        server.cuts.clear()
        server.requests.clear()
        server.if_ranges.clear()

    return cut
