"""Downloads public models by name into the cache directory (behind `python -m spacy elmo download`)."""

import difflib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests
from filelock import FileLock, Timeout

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import hugging_face
from spacy_elmo.formats.known import CACHE, KNOWN, KnownFile, KnownModel, cache_directory, find_loosely
from spacy_elmo.support.files import link_or_copy, patiently, recover, replacing
from spacy_elmo.support.progress import progress_bar

_ROUNDS = 5  # Fetch files again this often, if they changed on the server in between.
_FRUITLESS = 3  # Give up after this many attempts in a row without new bytes.
_PAUSE = 1.0  # Seconds after the first such attempt, then two and three times as many.
_TIMEOUT = 30.0  # Seconds without an answer.
_CHUNK = 2**16  # Bytes that a lost connection can cost.


def download(name: str, show_progress: bool = False) -> dict[str, Any]:
    """Download the missing files of a known model, or a model of the Hugging Face hub (`hf:owner/name`) into the hub's
    own cache. All names that `find_loosely` knows work, such as `flair:small`, `small` and `218`.

    The bundled model needs no download.

    Returns `name, license, path, files`; each of the files has `name, url, bytes, sha256`.

    A model appears under its name once all its files are complete and of one version, their known checksums match, and
    the model can be loaded. Until then they are in the hidden folder `.NAME.download` next to it, and the next call
    resumes from there.
    Of several calls at once, in threads or processes, one downloads a model and the others wait.

    Raises:
        ElmoError: the name is unknown, the server cannot be reached or has no such file, a checksum is wrong, the disk
            is full, or the cache directory cannot be written or locked.
    """
    if name.startswith(hugging_face.PREFIX):
        return _download_from_hub(hugging_face.HubModel.parse(name), show_progress)
    if name == formats.BUNDLED:
        return _bundled()
    model = _find(name)
    directory = cache_directory() / model.name
    staging = directory.with_name(f".{model.name}.download")
    with _locked(model, directory, show_progress):
        recover(directory, _names(model))
        if not _is_whole(model, directory):
            try:
                _take_over(model, directory, staging)
                _fetch_all([_Download(file, staging, show_progress) for file in model.files])
                _check(model, staging)
                with replacing(directory, _names(model)) as new:
                    for file in model.files:
                        link_or_copy(staging / file.name, new / file.name)
            except _NoConnectionError as error:
                raise ElmoError(f"{error}; {_by_hand(model, directory)}") from None
            except OSError as error:
                raise ElmoError(f"{directory}: cannot be written ({error})") from None
            finally:
                with suppress(OSError):
                    staging.rmdir()  # if nothing was received
        shutil.rmtree(staging, ignore_errors=True)
    files = [
        {"name": file.name, "url": file.url, "bytes": path.stat().st_size, "sha256": pooch.file_hash(str(path))}
        for file in model.files
        for path in [directory / file.name]
    ]
    return {"name": model.name, "license": model.license, "path": str(model.path), "files": files}


def _bundled() -> dict[str, Any]:
    """Return what `download` returns, for the model that comes with spacy-elmo."""
    path, card = formats.MODELS / formats.BUNDLED, formats.open_model(formats.BUNDLED).card
    return {"name": formats.BUNDLED, "license": card.get("license"), "path": str(path), "files": []}


def _download_from_hub(model: hugging_face.HubModel, show_progress: bool) -> dict[str, Any]:
    """Download the files of a model with huggingface_hub, all of one commit, and return what `download` returns."""
    hub = hugging_face.import_hub()
    with _explained(model), _hub_bars(hub, show_progress):
        first = Path(hub.hf_hub_download(model.repository, hugging_face.NEEDED[0], revision=model.revision))
        commit, paths = first.parent.name, [first]
        for name in (*hugging_face.NEEDED[1:], *hugging_face.OTHERS):
            try:
                paths.append(Path(hub.hf_hub_download(model.repository, name, revision=commit)))
            except hub.errors.LocalEntryNotFoundError:  # no connection; a subclass of the next error
                raise
            except hub.errors.EntryNotFoundError:
                if name in hugging_face.NEEDED:
                    raise
    try:
        formats.load(str(model))
    except ElmoError as error:
        raise ElmoError(f"{model}: the repository has no model that can be read ({error})") from None
    files = [
        {
            "name": path.name,
            "url": hub.hf_hub_url(model.repository, path.name, revision=commit),
            "bytes": path.stat().st_size,
            "sha256": pooch.file_hash(str(path)),
        }
        for path in paths
    ]
    return {"name": str(model), "license": None, "path": str(first.parent), "files": files}


@contextmanager
def _explained(model: hugging_face.HubModel) -> Iterator[None]:
    """Turn the errors of huggingface_hub, of many types and with many lines, into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # these include all of its own errors
        reason = " ".join(filter(None, str(error).splitlines())) or type(error).__name__
        raise ElmoError(f"{model}: cannot be downloaded ({reason})") from None


@contextmanager
def _hub_bars(hub: Any, show_progress: bool) -> Iterator[None]:
    """Show or hide huggingface_hub's own progress bars."""
    was_off = hub.utils.are_progress_bars_disabled()
    if not show_progress:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not show_progress and not was_off:
            hub.utils.enable_progress_bars()


def known_models(language: str | None = None) -> dict[str, Any]:
    """Return what `download --list --json` prints: all known models, or those for text in one language.

    Raises:
        ElmoError: there is no known model for this language.
    """
    chosen = [model for model in KNOWN.values() if language is None or model.serves(language.lower())]
    if not chosen:
        codes = sorted({model.language for model in KNOWN.values() if model.language})
        raise ElmoError(f"no model is known for the language {language}; there are models for {', '.join(codes)}")
    models = [{**asdict(model), "downloaded": model.is_downloaded} for model in chosen]
    return {"cache": str(cache_directory()), "models": models}


def table(facts: dict[str, Any]) -> str:
    """Return the known models as readable lines, with a mark at those that are downloaded."""
    rows = [("  name", "language", "MB", "license", "description"), *map(_row, facts["models"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    any_downloaded = any(model["downloaded"] for model in facts["models"])
    return "\n".join([*lines, "", f"{'✔: is in' if any_downloaded else 'Downloads go to'} {facts['cache']}"])


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table. The licence is shown without the place that states it."""
    sizes = [file["size"] for file in model["files"] if file["size"]]
    return (
        f"{'✔' if model['downloaded'] else ' '} {model['name']}",
        model["language"] or "?",
        f"{sum(sizes) / 1e6:.0f}" if sizes else "?",
        (model["license"] or "?").partition(" (")[0],
        model["description"],
    )


def _find(name: str) -> KnownModel:
    if model := find_loosely(name):
        return model
    candidates = [known for known in KNOWN if _digits(known) == _digits(name)]  # never suggest another NLPL id
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.85)
    hint = f"did you mean {near[0]}?" if near else "see python -m spacy elmo download --list"
    raise ElmoError(f"{name}: no model of this name is known; {hint}")


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _locked(model: KnownModel, directory: Path, show_progress: bool) -> AbstractContextManager[object]:
    """Lock the model against other downloads. The operating system holds the lock, so it ends with its process."""
    # The lock is next to the directory, because that only has the files of a model.
    lock = FileLock(directory.with_name(f"{model.name}.lock"))
    try:
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            if show_progress:
                print(f"ℹ {model.name}: another process downloads this model; waiting for it", file=sys.stderr)
            return lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: older filelock on a file system without locks
        if model.is_downloaded:  # a read-only cache that somebody else filled
            return nullcontext()
        raise ElmoError(
            f"{directory}: cannot be written or locked ({error}); set {CACHE} to a folder for downloads"
        ) from None


def _names(model: KnownModel) -> list[str]:
    """Return the names that its folder may have: its files, and what earlier versions left of a partial download."""
    return [f"{file.name}{end}" for end in ("", ".part", ".part.version") for file in model.files]


def _is_whole(model: KnownModel, directory: Path) -> bool:
    """Whether all files exist, and the model can be loaded."""
    try:
        return all(_is_right(file, directory / file.name) for file in model.files) and bool(formats.load(model.path))
    except ElmoError:
        return False


def _is_right(file: KnownFile, path: Path) -> bool:
    """Whether the file exists, and matches its checksum if that is known."""
    return path.is_file() and file.sha256 in (None, pooch.file_hash(str(path)))


def _take_over(model: KnownModel, directory: Path, staging: Path) -> None:
    """Create the staging folder, and move usable and partial files into it, also those that earlier versions left."""
    staging.mkdir(parents=True, exist_ok=True)
    for file in model.files:
        if file.sha256 and _is_right(file, directory / file.name) and not (staging / file.name).exists():
            link_or_copy(directory / file.name, staging / file.name)
        for name in (f"{file.name}.part", f"{file.name}.part.version"):
            if (directory / name).is_file() and not (staging / name).exists():
                (directory / name).rename(staging / name)
    if directory.is_dir():
        for path in directory.iterdir():
            if re.fullmatch("tmp[a-z0-9_]{8}", path.name):  # left by pooch when a download was killed
                path.unlink()


def _fetch_all(downloads: Sequence["_Download"]) -> None:
    """Fetch what is missing. Fetch files again that the server has replaced in between, until all are of one version.

    If the earlier files are still current after the last one was fetched, all existed on the server together.
    """
    latest = None
    for _ in range(_ROUNDS):
        for download in downloads:
            if not download.is_done:
                download.fetch()
                latest = download
        others = [download for download in downloads if download is not latest and not download.file.sha256]
        stale = [download for download in others if len(downloads) > 1 and not download.is_current()]
        if not stale:
            return
        for download in stale:
            download.discard()
    raise ElmoError(f"{downloads[0].file.url}: the server keeps replacing its files; try again later")


def _check(model: KnownModel, staging: Path) -> None:
    """Check that the received files are a model by loading them; remove them otherwise."""
    try:
        formats.load(staging / model.files[0].name if len(model.files) == 1 else staging)
    except ElmoError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise ElmoError(f"{model.name}: the server sent no valid model; the files were removed ({error})") from None


class _NoConnectionError(ElmoError):
    """The server cannot be reached, or the connection was lost."""


def _by_hand(model: KnownModel, directory: Path) -> str:
    """Say how to install the model on a machine without network."""
    files = " and ".join(f"{file.url} as {file.name}" for file in model.files)
    return f"on a machine without network, get {files} elsewhere and put them into {directory}"


def _reason(error: Exception) -> object:
    """Return the innermost reason of an error of requests: its own text is long and repeats the address."""
    first = error.args[0] if error.args else error
    return getattr(first, "reason", first)


class _Version(NamedTuple):
    """The version of a file that a server sent; None where the server does not say. total: bytes of the whole file."""

    validator: str | None = None
    total: int | None = None

    @classmethod
    def of(cls, response: requests.Response) -> "_Version":
        """Read it from a response. The validator is one for If-Range: a strong ETag, or the date if there is no ETag
        (RFC 9110, 13.1.5)."""
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):  # weak: other bytes may have it, too
            validator = None
        length = response.headers.get("Content-Length", "")
        total = response.headers.get("Content-Range", length).rpartition("/")[2]
        return cls(validator, int(total) if total.isdecimal() else None)

    def contradicts(self, other: "_Version") -> bool:
        """Whether the two cannot be the same version."""
        return any(None not in pair and pair[0] != pair[1] for pair in zip(self, other, strict=True))


class _Download:
    """The download of a file into a folder, in as many connections as it takes.

    Until the file is complete, it is `FILE.part`. A note next to it says which version it is, so that the download
    never continues with another version.
    """

    def __init__(self, file: KnownFile, folder: Path, show_progress: bool) -> None:
        self.file, self.show_progress = file, show_progress
        self.path = folder / file.name
        self.part = folder / f"{file.name}.part"
        self.note = folder / f"{file.name}.part.version"  # no .json, which could be taken for options
        self.is_of_now = False  # fetched in this call

    @property
    def is_done(self) -> bool:
        """Whether the file is complete, and a change on the server could be detected."""
        is_known = self.is_of_now or self.file.sha256 or self._noted().validator
        return bool(is_known) and _is_right(self.file, self.path)

    def fetch(self) -> None:
        """Fetch the missing part of the file.

        Raises:
            ElmoError: the server cannot be reached, or sends another file than the published one.
        """
        self.path.unlink(missing_ok=True)
        with self._explained():
            self._fetch()
            if reason := self._find_fault():
                self.discard()
                raise ElmoError(f"{self.file.url}: differs from the published file ({reason})")
        patiently(self.part.replace, self.path)
        self.is_of_now = True

    def is_current(self) -> bool:
        """Whether the server still has the version that was received."""
        version = self._noted()
        validator = version.validator or ""
        condition = {"If-None-Match" if validator.startswith('"') else "If-Modified-Since": validator}
        with self._explained(), self._request(condition if validator else {}) as response:
            if response.status_code == requests.codes.not_modified:
                return True
            response.raise_for_status()
            return not version.contradicts(_Version.of(response))

    def discard(self) -> None:
        """Remove what was received."""
        for path in (self.path, self.part, self.note):
            path.unlink(missing_ok=True)
        self.is_of_now = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        url = self.file.url
        try:
            yield
        except requests.HTTPError as error:
            raise ElmoError(f"{url}: the server refuses the file; is it still published? ({error})") from None
        except requests.RequestException as error:
            kept = "; the received part is kept, run the command again to resume" if self._has_come() else ""
            raise _NoConnectionError(f"{url}: no connection, or it was lost ({_reason(error)}){kept}") from None

    def _has_come(self) -> bool:
        return self.part.exists() or self.path.exists()

    def _find_fault(self) -> str | None:
        """Say what is wrong with the received file; None if nothing is."""
        size, sha256 = self.file.size, self.file.sha256
        if size not in (None, self._done()):
            return f"expected {size:,} bytes, got {self._done():,}"
        found = pooch.file_hash(str(self.part)) if sha256 else None
        return f"expected SHA-256 {sha256}, got {found}" if found != sha256 else None

    def _fetch(self) -> None:
        fruitless, most = 0, self._done()
        while True:
            try:
                self._fetch_rest()
                return
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                fruitless = fruitless + 1 if self._done() <= most else 0
                most = max(most, self._done())
                if fruitless == _FRUITLESS:
                    raise
                time.sleep(_PAUSE * fruitless)

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _noted(self) -> _Version:
        try:
            return _Version(**json.loads(self.note.read_text("utf8")))
        except (OSError, ValueError, TypeError):  # missing or damaged
            return _Version()

    def _begun(self) -> tuple[int, _Version]:
        """Return how many bytes there are and their version; nothing if a change of version could not be detected."""
        done, version = self._done(), self._noted()
        return (done, version) if done and (version.validator or self.file.sha256) else (0, _Version())

    def _request(self, headers: dict[str, str]) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **headers}
        response = requests.get(self.file.url, headers=headers, stream=True, timeout=_TIMEOUT)
        if response.status_code >= 500:  # a problem of the server, which may pass
            response.close()
            raise requests.ConnectionError(f"the server answers {response.status_code} {response.reason}")
        return response

    def _fetch_rest(self) -> None:
        """Continue from the end of the part; start again if the server cannot, or has another version by now."""
        done, begun = self._begun()
        headers = {}
        if done:
            headers["Range"] = f"bytes={done}-"
        if begun.validator:
            headers["If-Range"] = begun.validator
        with self._request(headers) as response:
            answered = response.headers.get("Content-Range", "")
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self._check_range(response, begun, fits=answered == f"bytes */{done}")
                return  # nothing follows the part: it is complete
            response.raise_for_status()
            if response.status_code == requests.codes.partial_content:
                self._check_range(response, begun, fits=answered.startswith(f"bytes {done}-"))
            else:
                done = 0
            self._write(response, done)

    def _check_range(self, response: requests.Response, begun: _Version, fits: bool) -> None:
        """Drop the part unless the answer fits it: some servers ignore If-Range, or answer with another range."""
        if not fits or begun.contradicts(_Version.of(response)):
            self.part.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)
            raise requests.ConnectionError("the existing part is not of this file; it is downloaded again")

    def _write(self, response: requests.Response, done: int) -> None:
        """Append the response after the first `done` bytes of the part."""
        version = _Version.of(response)
        with (
            self.part.open("ab" if done else "wb") as part,
            progress_bar(self.show_progress, self.file.name, version.total, initial=done, unit="B") as bar,
        ):
            if not done:  # after the old bytes were removed, before new ones are written
                self.note.write_text(json.dumps(version._asdict()), "utf8")
            for chunk in response.iter_content(_CHUNK):
                part.write(chunk)
                bar.update(len(chunk))
        if version.total not in (None, self._done()):
            raise requests.ConnectionError(f"received {self._done():,} of {version.total:,} bytes")
