"""What is interrupted: each subject writes something, and says how much of it is there.

To add one, write a class with the methods of `harness.Subject` and add it to `SUBJECTS`.
"""

import hashlib
import http.server
import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import spacy
from common import Subject, facts, write_model
from runs import Embed, Encode, Pretrain

from spacy_elmo import formats
from spacy_elmo.errors import CorpusError
from spacy_elmo.formats.known import CACHE, KNOWN, KnownFile, KnownModel
from spacy_elmo.pipeline.cache import Cache
from spacy_elmo.pipeline.component import ElmoComponent
from spacy_elmo.pipeline.shim import shim_of
from spacy_elmo.support import files
from spacy_elmo.tools import download as download_tool
from spacy_elmo.tools import prepare as prepare_tool
from spacy_elmo.tools.convert import convert
from spacy_elmo.tools.download import download
from spacy_elmo.tools.prepare import prepare


class Convert(Subject):
    """`convert --force` over a model. Only one of the two models has a softmax."""

    def __init__(self, name: str, grows: bool, others: bool = False, exchanges: bool = True) -> None:
        self.name, self.grows, self.others, self.exchanges = name, grows, others, exchanges

    def make(self, folder: Path) -> None:
        """Make two models to read, and one to overwrite."""
        for number, name in enumerate(("old", "new")):
            write_model(folder / name, cell_clip=3.0 - number, seed=number, is_whole=self.grows == (name == "new"))
        shutil.copytree(folder / "old", folder / "target")
        if self.others:
            (folder / "target/notes.txt").write_text("mine")

    def write(self, folder: Path) -> None:
        """Overwrite it with the new model."""
        if not self.exchanges:
            files.exchange = lambda one, other: False
        convert(str(folder / "new"), folder / "target", force=True)

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Write the two models in turn."""
        if not self.exchanges:
            files.exchange = lambda one, other: False
        convert(str(folder / ("new", "old")[turn % 2]), folder / "target", force=True)

    def state(self, folder: Path) -> str:
        """Return which of the two is there, complete."""
        if self.others and (folder / "target/notes.txt").read_text() != "mine":
            return "another's file is lost"
        found = files.read_whole(folder / "target", formats.LAYOUT, lambda place: facts(formats.open_model(place)))
        names = [name for name in ("old", "new") if facts(formats.open_model(folder / name)) == found]
        return names[0] if names else "a mixture"


class Prepare(Subject):
    """`prepare` into a folder that does not exist, or that holds something else."""

    kept, ended = {"nothing", "corpus"}, {"corpus"}

    def __init__(self, name: str, others: bool = False, n_process: int = 1) -> None:
        self.name, self.others, self.n_process = name, others, n_process

    def make(self, folder: Path) -> None:
        """Make the raw text."""
        (folder / "raw").mkdir()
        for name in ("a", "b"):
            lines = (f"The bank of {name} number {number} is here .\n\n" for number in range(200))
            (folder / "raw" / f"{name}.txt").write_text("".join(lines))
        if self.others:
            (folder / "out").mkdir()
            (folder / "out/notes.txt").write_text("mine")

    def write(self, folder: Path) -> None:
        """Prepare it. If that is already done, it refuses."""
        prepare_tool._BATCH = 1_000
        try:
            prepare(folder / "raw", folder / "out", held_out=0.1, shuffle=True, n_process=self.n_process)
        except CorpusError as error:
            if "already exists" not in str(error):
                raise

    def state(self, folder: Path) -> str:
        """Return whether nothing or everything is there."""
        if self.others and (folder / "out/notes.txt").read_text() != "mine":
            return "another's file is lost"
        return files.read_whole(folder / "out", prepare_tool.PREPARED, self._state_in)

    def _state_in(self, place: Path) -> str:
        found = {str(path.relative_to(place)) for name in ("vocab.txt", "[a-z]*/*.txt") for path in place.glob(name)}
        if not found:
            return "nothing"
        whole = {"vocab.txt", *(f"{part}/{name}.txt" for part in ("train", "heldout") for name in ("a", "b"))}
        lines = [line for name in found - {"vocab.txt"} for line in (place / name).read_text().splitlines() if line]
        return "corpus" if found == whole and len(lines) == 400 else f"a part: {sorted(found)}, {len(lines)} lines"


class Download(Subject):
    """`download` of a model without known checksums, from a server that cuts the first connection.

    When the command is run again, the server has a new version.
    """

    kept, ended = {"nothing", "version 1"}, {"version 1", "version 2"}

    def __init__(self, name: str, tells_versions: bool) -> None:
        self.name, self.tells_versions = name, tells_versions
        self._port = _serve(tells_versions)

    def make(self, folder: Path) -> None:
        """Make both versions."""
        for number in (1, 2):
            write_model(folder / f"version {number}", cell_clip=number, seed=number)
            for path in (folder / f"version {number}").iterdir():
                if path.name not in ("options.json", "weights.hdf5"):
                    path.unlink()
        shutil.copytree(folder / "version 1", folder / "served")
        (folder / "cache").mkdir()

    def write(self, folder: Path) -> None:
        """Download what is served."""
        self._download(folder, "served")

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Download the two versions in turn."""
        self._download(folder, f"version {1 + turn % 2}")

    def _download(self, folder: Path, served: str) -> None:
        self._register(folder, served)
        download_tool._PAUSE, download_tool._CHUNK = 0.0, 2**11
        download("tiny")

    def between(self, folder: Path) -> None:
        """Serve a new version."""
        shutil.copytree(folder / "version 2", folder / "served", dirs_exist_ok=True)

    def state(self, folder: Path) -> str:
        """Return nothing, or which version is there, complete."""
        self._register(folder)
        if not KNOWN["tiny"].is_downloaded:
            return "nothing"
        digest = formats.digest(formats.load("tiny"))
        versions = {name: formats.open_model(folder / name).digest for name in ("version 1", "version 2")}
        return next((name for name in versions if versions[name] == digest), "a mixture")

    def _register(self, folder: Path, served: str = "served") -> None:
        os.environ[CACHE] = str(folder / "cache")
        url = f"http://127.0.0.1:{self._port}{quote(str(folder / served))}"
        served_files = (KnownFile(name, f"{url}/{name}") for name in ("options.json", "weights.hdf5"))
        KNOWN["tiny"] = KnownModel("tiny", "en", "a tiny one", tuple(served_files))


def _serve(tells_versions: bool) -> int:
    """Start a server in its own process. Return its port."""
    _Handler.tells_versions = tells_versions
    server = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    parent = os.getpid()
    if os.fork():
        server.socket.close()
        return server.server_port
    server.timeout = 0.5
    while os.getppid() == parent:
        server.handle_request()
    os._exit(0)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves any file by its path. It cuts the first connection for weights; a file next to them records that."""

    tells_versions = True

    def do_GET(self) -> None:
        """Answer with the file, or the rest of it."""
        path = Path(unquote(self.path))
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:9]}"' if self.tells_versions else ""
        if tag and self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted and self.headers.get("If-Range") in (None, tag) else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(self._cut(path, content[start:]))

    def _cut(self, path: Path, body: bytes) -> bytes:
        was_cut = path.parent.parent / "was cut"
        if path.name != "weights.hdf5" or was_cut.exists() or not os.access(was_cut.parent, os.W_OK):
            return body
        was_cut.touch()
        return body[: len(body) // 2]

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Component(Subject):
    """`to_disk` of the component over one that was saved before."""

    def __init__(self, name: str, exchanges: bool = True) -> None:
        self.name, self.exchanges = name, exchanges

    def make(self, folder: Path) -> None:
        """Make two models, and save a component with the first."""
        for number, name in enumerate(("old", "new")):
            write_model(folder / name, cell_clip=3.0 - number, seed=number, is_whole=False)
        component_of(folder / "old").to_disk(folder / "target")

    def write(self, folder: Path) -> None:
        """Save one with the second there."""
        if not self.exchanges:
            files.exchange = lambda one, other: False
        component_of(folder / "new").to_disk(folder / "target")

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Save the two in turn."""
        if not self.exchanges:
            files.exchange = lambda one, other: False
        component_of(folder / ("new", "old")[turn % 2]).to_disk(folder / "target")

    def state(self, folder: Path) -> str:
        """Return which of the two loads."""
        loaded = component_of(folder / "old").from_disk(folder / "target")
        digest = formats.digest(shim_of(loaded.model).bilm)
        names = [name for name in ("old", "new") if formats.open_model(folder / name).digest == digest]
        return names[0] if names else "a mixture"


class TrainingCache(Subject):
    """Fills the file of `cache_path`, ten sentences at a time. Half of the sentences are already there."""

    kept, ended = {"begun", "filled"}, {"filled"}

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, folder: Path) -> None:
        """Write half of it."""
        self._fill(folder, 50)

    def write(self, folder: Path) -> None:
        """Write the rest."""
        self._fill(folder, 100)

    def state(self, folder: Path) -> str:
        """Return whether part of it is missing. What is there must be right."""
        there = self._found(self._open(folder), range(100))
        if not all(np.array_equal(rows, self._rows(number)) for number, rows in there.items()):
            return "wrong rows"
        if not there.keys() >= set(range(50)):
            return "earlier content is lost"
        return "filled" if len(there) == 100 else "begun"

    def _fill(self, folder: Path, n: int) -> None:
        cache = self._open(folder)
        for first in range(0, n, 10):
            missing = set(range(first, first + 10)) - self._found(cache, range(first, first + 10)).keys()
            if missing:
                cache.put({cache.key([str(number)]): self._rows(number) for number in sorted(missing)})

    def _found(self, cache: Cache, numbers: range) -> dict[int, np.ndarray]:
        keys = {cache.key([str(number)]): number for number in numbers}
        return {keys[key]: rows for key, rows in cache.get(dict.fromkeys(keys, 20), 64)}

    def _open(self, folder: Path) -> Cache:
        return Cache(0, path=folder / "rows", header={"biLM": "tiny"})

    def _rows(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).normal(size=(20, 64)).astype(np.float32)


def component_of(weights: Path) -> ElmoComponent:
    """Return a component with these weights."""
    component: ElmoComponent = spacy.blank("en").add_pipe("elmo", config={"model": {"weights": str(weights)}})
    return component


SUBJECTS = {
    "cache": lambda: TrainingCache("training cache"),
    "component": lambda: Component("elmo.to_disk"),
    "component-steps": lambda: Component("elmo.to_disk, folders not exchanged", exchanges=False),
    "convert": lambda: Convert("convert --force", grows=True),
    "convert-smaller": lambda: Convert("convert --force, without softmax", grows=False),
    "convert-others": lambda: Convert("convert --force, next to other files", grows=True, others=True),
    "convert-steps": lambda: Convert("convert --force, folders not exchanged", grows=False, exchanges=False),
    "download": lambda: Download("download", tells_versions=True),
    "download-untold": lambda: Download("download, versions not told", tells_versions=False),
    "embed": lambda: Embed("embed"),
    "embed-over": lambda: Embed("embed --force", is_over_another=True),
    "embed-changed": lambda: Embed("embed --force, then another job", is_over_another=True, changes=True),
    "embed-npz": lambda: Embed("embed, npz", suffix=".npz"),
    "encode": Encode,
    "prepare": lambda: Prepare("prepare"),
    "prepare-others": lambda: Prepare("prepare, next to other files", others=True),
    "prepare-processes": lambda: Prepare("prepare --n-process 2", n_process=2),
    "pretrain": lambda: Pretrain("pretrain"),
    "pretrain-first": lambda: Pretrain("pretrain --init-from", begins_with_a_model=True),
}
