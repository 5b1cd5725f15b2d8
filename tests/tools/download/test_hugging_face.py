"""Models of the Hugging Face hub: from a server on this machine into the hub's cache, and only from there."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from spacy_elmo import ElmoError
from spacy_elmo.formats import digest, load, open_model
from spacy_elmo.formats.hugging_face import HubModel
from spacy_elmo.tools.download import download

COMMITS = {"main": "a" * 40, "v1": "b" * 40}

# Tries everything in one process, because starting one takes seconds. Prints the result for each name.
SCRIPT = """
import json, sys
from spacy_elmo import ElmoError
from spacy_elmo.formats import open_model
from spacy_elmo.tools.download import download

found = {}
def tried(name, call):
    try:
        found[name] = call()
    except ElmoError as error:
        found[name] = f"{type(error).__name__}: {error}"
def opened(name):
    model = open_model(name)
    return {"name": model.name, "card": model.card, "digest": model.digest, "vocabulary": model.vocabulary}
tried("before", lambda: opened("hf:me/tiny"))
for name in sys.argv[1:]:
    tried("download " + name, lambda: download(name))
    tried("open " + name, lambda: opened(name))
print(json.dumps(found))
"""


class Hub(http.server.ThreadingHTTPServer):
    """Answers as the hub does. files: by repository, commit and name; requests: the method and path of each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.server.requests.append((self.command, self.path))
        parts = self.path.lstrip("/").split("/")
        repository, kind, revision, name = "/".join(parts[:2]), parts[2:3], *(parts[3:5] or ("", ""))
        commit = COMMITS.get(revision, revision)
        known = {key[0] for key in self.server.files}, {key[1] for key in self.server.files}
        body = self.server.files.get((repository, commit, name)) if kind == ["resolve"] else None
        self.send_response(404 if body is None else 200)
        if body is None:
            missing = "Repo" if repository not in known[0] else "Revision" if commit not in known[1] else "Entry"
            self.send_header("X-Error-Code", f"{missing}NotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def source(data):
    return data / "tiny_2l_skip"


@pytest.fixture(scope="module")
def hub(source):
    """Serve a hub with three repositories: a model, a model without its weights, and a web page."""
    hub = Hub()
    for name in ("options.json", "weights.hdf5"):
        for commit in COMMITS.values():
            hub.files["me/tiny", commit, name] = (source / name).read_bytes()
        hub.files["me/page", COMMITS["main"], name] = b"<html>"
    hub.files["me/tiny", COMMITS["v1"], "vocab.txt"] = b"<S>\n</S>\n<UNK>\n"
    hub.files["me/half", COMMITS["main"], "options.json"] = (source / "options.json").read_bytes()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


@pytest.fixture(scope="module")
def found(hub, tmp_path_factory):
    """Return the result for each name, from a process that uses this hub."""
    pytest.importorskip("huggingface_hub", reason="names of the hub need the extra hf")
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    names = ["hf:me/tiny", "hf:me/tiny@v1", "hf:me/tiny@v2", "hf:me/half", "hf:me/page", "hf:me/none"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_that_is_not_there_yet_names_the_command_that_fetches_it(found):
    assert found["before"] == ("WeightsError: hf:me/tiny is not downloaded: python -m spacy elmo download hf:me/tiny")


def test_a_downloaded_model_is_opened_by_its_name(found, source):
    report, opened = found["download hf:me/tiny"], found["open hf:me/tiny"]
    assert [file["name"] for file in report["files"]] == ["options.json", "weights.hdf5"]
    for file in report["files"]:
        content = (source / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert file["url"].endswith(f"/me/tiny/resolve/{COMMITS['main']}/{file['name']}")
    assert opened["digest"] == digest(load(source))
    assert (opened["name"], opened["card"], opened["vocabulary"]) == ("hf:me/tiny", {"name": "me/tiny"}, None)


def test_a_revision_is_another_model(found):
    names = [file["name"] for file in found["download hf:me/tiny@v1"]["files"]]
    assert names == ["options.json", "weights.hdf5", "vocab.txt"]
    assert found["download hf:me/tiny@v1"]["path"].endswith(COMMITS["v1"])
    assert found["open hf:me/tiny@v1"]["vocabulary"] == ["<S>", "</S>", "<UNK>"]


@pytest.mark.parametrize("name", ["hf:me/tiny@v2", "hf:me/half", "hf:me/none"])
def test_what_is_not_on_the_hub_is_one_line_that_names_it(found, name):
    said = found[f"download {name}"]
    assert said.startswith(f"ElmoError: {name}: cannot be downloaded (")
    assert "404" in said
    assert "\n" not in said
    assert found[f"open {name}"] == f"WeightsError: {name} is not downloaded: python -m spacy elmo download {name}"


def test_what_is_no_model_says_so(found):
    said = found["download hf:me/page"]
    assert said.startswith("ElmoError: hf:me/page: the repository has no model that can be read (")
    assert "options.json" in said


def test_nothing_is_fetched_when_a_model_is_opened(found, hub):
    n = len(hub.requests)
    for name in ("hf:me/tiny", "hf:me/more"):
        with pytest.raises(ElmoError, match=f"{name} is not downloaded"):  # in this process' own cache
            open_model(name)
    assert len(hub.requests) == n


@pytest.mark.parametrize(
    "name", ["hf:", "hf:me", "hf:me/a/b", "hf:me/tiny@", "hf:me/tiny@../x", "hf:../tiny", "hf:me/ti ny"]
)
def test_other_names_are_an_error_that_says_how_they_are_written(name):
    for call in (open_model, download):
        with pytest.raises(ElmoError, match="expected hf:owner/name, or hf:owner/name@revision"):
            call(name)


def test_a_path_that_exists_wins(source, tmp_path, monkeypatch):
    (tmp_path / "hf:me").mkdir()
    (tmp_path / "hf:me" / "tiny").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    assert open_model("hf:me/tiny").digest == digest(load(source))


def test_without_huggingface_hub_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (open_model, download):
        with pytest.raises(ElmoError, match=r'pip install "spacy-elmo\[hf\]"'):
            call("hf:me/tiny")


def test_names_are_written_with_their_revision():
    assert str(HubModel.parse("hf:me/tiny")) == str(HubModel.parse("hf:me/tiny@main")) == "hf:me/tiny"
    assert str(HubModel.parse("hf:me/tiny@refs/pr/1")) == "hf:me/tiny@refs/pr/1"
