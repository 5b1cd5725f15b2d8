"""The name of a public model in, its files in the cache directory out (behind `python -m spacy elmo download`)."""

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

_ROUNDS = 5  # of fetching anew what has changed on the server meanwhile
_FRUITLESS = 3  # attempts in a row that brought nothing, after which to give up
_PAUSE = 1.0  # seconds after the first of them, then twice, three times as many
_TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 2**16  # what a cut connection can lose


def download(name: str, show_progress: bool = False) -> dict[str, Any]:
    """Download a known model, or what of it is missing; or one of the Hugging Face hub, `hf:owner/name`, into the hub's
    own cache. Other names that `find_loosely` knows will do, such as `flair:small`, `small` and `218`.

    Of the bundled model nothing is downloaded.

    Returns `name, license, path, files`, of each file `name, url, bytes, sha256`.

    A model appears under its name once all its files are whole, of one version, and have the checksums that are known,
    and it could be loaded. Until then they lie in the hidden folder `.NAME.download` beside it, from where the next
    call goes on.
    Of several calls at once, in threads or processes, one downloads a model and the others wait for it.

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
                    staging.rmdir()  # where nothing has come at all
        shutil.rmtree(staging, ignore_errors=True)
    files = [
        {"name": file.name, "url": file.url, "bytes": path.stat().st_size, "sha256": pooch.file_hash(str(path))}
        for file in model.files
        for path in [directory / file.name]
    ]
    return {"name": model.name, "license": model.license, "path": str(model.path), "files": files}


def _bundled() -> dict[str, Any]:
    """The same as `download` returns, of the model that comes with spacy-elmo."""
    path, card = formats.MODELS / formats.BUNDLED, formats.open_model(formats.BUNDLED).card
    return {"name": formats.BUNDLED, "license": card.get("license"), "path": str(path), "files": []}


def _download_from_hub(model: hugging_face.HubModel, show_progress: bool) -> dict[str, Any]:
    """Download the files of a model by huggingface_hub, all of one commit; the same as `download` returns."""
    hub = hugging_face.import_hub()
    with _explained(model), _hub_bars(hub, show_progress):
        first = Path(hub.hf_hub_download(model.repository, hugging_face.NEEDED[0], revision=model.revision))
        commit, paths = first.parent.name, [first]
        for name in (*hugging_face.NEEDED[1:], *hugging_face.OTHERS):
            try:
                paths.append(Path(hub.hf_hub_download(model.repository, name, revision=commit)))
            except hub.errors.LocalEntryNotFoundError:  # no connection; which is one of the next kind, too
                raise
            except hub.errors.EntryNotFoundError:
                if name in hugging_face.NEEDED:
                    raise
    try:
        formats.load(str(model))
    except ElmoError as error:
        raise ElmoError(f"{model}: what the repository holds is not a model that can be read ({error})") from None
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
    """What huggingface_hub raises, of many kinds and on many lines, as one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # among them all of its own
        reason = " ".join(filter(None, str(error).splitlines())) or type(error).__name__
        raise ElmoError(f"{model}: cannot be downloaded ({reason})") from None


@contextmanager
def _hub_bars(hub: Any, show_progress: bool) -> Iterator[None]:
    """Progress bars are huggingface_hub's own, shown or not."""
    was_off = hub.utils.are_progress_bars_disabled()
    if not show_progress:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not show_progress and not was_off:
            hub.utils.enable_progress_bars()


def known_models(language: str | None = None) -> dict[str, Any]:
    """What `download --list --json` prints: all known models, or those for text in one language.

    Raises:
        ElmoError: no known model is for that language.
    """
    chosen = [model for model in KNOWN.values() if language is None or model.serves(language.lower())]
    if not chosen:
        codes = sorted({model.language for model in KNOWN.values() if model.language})
        raise ElmoError(f"no known model is for the language {language}; there are models for {', '.join(codes)}")
    models = [{**asdict(model), "downloaded": model.is_downloaded} for model in chosen]
    return {"cache": str(cache_directory()), "models": models}


def table(facts: dict[str, Any]) -> str:
    """The known models as lines to read; those that are downloaded are marked."""
    rows = [("  name", "language", "MB", "license", "description"), *map(_row, facts["models"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    any_downloaded = any(model["downloaded"] for model in facts["models"])
    return "\n".join([*lines, "", f"{'✔: is in' if any_downloaded else 'Downloads go to'} {facts['cache']}"])


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table. The licence is without the place where it is stated."""
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
    candidates = [known for known in KNOWN if _digits(known) == _digits(name)]  # not one NLPL id for another
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.85)
    hint = f"did you mean {near[0]}?" if near else "see python -m spacy elmo download --list"
    raise ElmoError(f"{name}: no model of that name is known; {hint}")


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _locked(model: KnownModel, directory: Path, show_progress: bool) -> AbstractContextManager[object]:
    """Keep other downloads of the model out. The operating system holds the lock, so none outlives its process."""
    # beside the directory, which holds a model's files only
    lock = FileLock(directory.with_name(f"{model.name}.lock"))
    try:
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            if show_progress:
                print(f"ℹ {model.name}: another download of it is under way; waiting for its end", file=sys.stderr)
            return lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: older filelocks where a file system has no locks
        if model.is_downloaded:  # a cache to read only, which others filled
            return nullcontext()
        raise ElmoError(
            f"{directory}: cannot be written or locked ({error}); say in {CACHE} where downloads should go"
        ) from None


def _names(model: KnownModel) -> list[str]:
    """Of all that may lie in its folder: the files, and what earlier versions kept there of a cut download."""
    return [f"{file.name}{end}" for end in ("", ".part", ".part.version") for file in model.files]


def _is_whole(model: KnownModel, directory: Path) -> bool:
    """Whether all files are there, and are a model."""
    try:
        return all(_is_right(file, directory / file.name) for file in model.files) and bool(formats.load(model.path))
    except ElmoError:
        return False


def _is_right(file: KnownFile, path: Path) -> bool:
    """Whether it is there and has the checksum, if that is known."""
    return path.is_file() and file.sha256 in (None, pooch.file_hash(str(path)))


def _take_over(model: KnownModel, directory: Path, staging: Path) -> None:
    """Make the place for what comes, and go on with what is there already, as earlier versions left it, too."""
    staging.mkdir(parents=True, exist_ok=True)
    for file in model.files:
        if file.sha256 and _is_right(file, directory / file.name) and not (staging / file.name).exists():
            link_or_copy(directory / file.name, staging / file.name)
        for name in (f"{file.name}.part", f"{file.name}.part.version"):
            if (directory / name).is_file() and not (staging / name).exists():
                (directory / name).rename(staging / name)
    if directory.is_dir():
        for path in directory.iterdir():
            if re.fullmatch("tmp[a-z0-9_]{8}", path.name):  # of a killed download by pooch
                path.unlink()


def _fetch_all(downloads: Sequence["_Download"]) -> None:
    """Fetch what is missing, and again what has been replaced on the server meanwhile, until all are of one time.

    All files that came before the latest one still being the same, they are those that were there together with it.
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
    raise ElmoError(f"{downloads[0].file.url}: the server replaces its files all the time; try again later")


def _check(model: KnownModel, staging: Path) -> None:
    """Load what has come, to see that it is a model; what is none is removed."""
    try:
        formats.load(staging / model.files[0].name if len(model.files) == 1 else staging)
    except ElmoError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise ElmoError(f"{model.name}: what the server sent is not a model, and was removed ({error})") from None


class _NoConnectionError(ElmoError):
    """The server cannot be reached, or no longer."""


def _by_hand(model: KnownModel, directory: Path) -> str:
    """What to do on a machine that never has a connection."""
    files = " and ".join(f"{file.url} as {file.name}" for file in model.files)
    return f"on a machine that has none, get {files} from elsewhere and put them into {directory}"


def _reason(error: Exception) -> object:
    """The innermost of an error of requests, whose own text is long and names the address again."""
    first = error.args[0] if error.args else error
    return getattr(first, "reason", first)


class _Version(NamedTuple):
    """Which version of a file a server gave, None where it does not say. total: bytes of the whole file."""

    validator: str | None = None
    total: int | None = None

    @classmethod
    def of(cls, response: requests.Response) -> "_Version":
        """validator: what If-Range takes, a strong ETag, or the date where there is no ETag (RFC 9110, 13.1.5)."""
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):  # weak: other bytes may have it too
            validator = None
        length = response.headers.get("Content-Length", "")
        total = response.headers.get("Content-Range", length).rpartition("/")[2]
        return cls(validator, int(total) if total.isdecimal() else None)

    def contradicts(self, other: "_Version") -> bool:
        """Whether the two cannot be the same."""
        return any(None not in pair and pair[0] != pair[1] for pair in zip(self, other, strict=True))


class _Download:
    """A file of a server, which comes into a folder in as many connections as it takes.

    What has come is `FILE.part`, until all is there. Beside it is a note of the version that it is of, so that it does
    not go on with another one.
    """

    def __init__(self, file: KnownFile, folder: Path, show_progress: bool) -> None:
        self.file, self.show_progress = file, show_progress
        self.path = folder / file.name
        self.part = folder / f"{file.name}.part"
        self.note = folder / f"{file.name}.part.version"  # no .json, which could be taken for options
        self.is_of_now = False  # fetched in this call

    @property
    def is_done(self) -> bool:
        """Whether all of it is there, and another version could be told."""
        is_known = self.is_of_now or self.file.sha256 or self._noted().validator
        return bool(is_known) and _is_right(self.file, self.path)

    def fetch(self) -> None:
        """Fetch what is missing of it.

        Raises:
            ElmoError: the server cannot be reached, or does not send the file that was published.
        """
        self.path.unlink(missing_ok=True)
        with self._explained():
            self._fetch()
            if reason := self._find_fault():
                self.discard()
                raise ElmoError(f"{self.file.url}: not the file that was published ({reason})")
        patiently(self.part.replace, self.path)
        self.is_of_now = True

    def is_current(self) -> bool:
        """Whether the server still has the version that has come."""
        version = self._noted()
        validator = version.validator or ""
        condition = {"If-None-Match" if validator.startswith('"') else "If-Modified-Since": validator}
        with self._explained(), self._request(condition if validator else {}) as response:
            if response.status_code == requests.codes.not_modified:
                return True
            response.raise_for_status()
            return not version.contradicts(_Version.of(response))

    def discard(self) -> None:
        """Remove what has come."""
        for path in (self.path, self.part, self.note):
            path.unlink(missing_ok=True)
        self.is_of_now = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        url = self.file.url
        try:
            yield
        except requests.HTTPError as error:
            raise ElmoError(f"{url}: the server does not give the file, is it still published? ({error})") from None
        except requests.RequestException as error:
            kept = "; what has come is kept, run the command again to go on" if self._has_come() else ""
            raise _NoConnectionError(f"{url}: no connection, or it was cut ({_reason(error)}){kept}") from None

    def _has_come(self) -> bool:
        return self.part.exists() or self.path.exists()

    def _find_fault(self) -> str | None:
        """What is wrong with what has come."""
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
        except (OSError, ValueError, TypeError):  # none, or damaged
            return _Version()

    def _begun(self) -> tuple[int, _Version]:
        """Bytes to go on behind and the version they are of; nothing where another version could not be told."""
        done, version = self._done(), self._noted()
        return (done, version) if done and (version.validator or self.file.sha256) else (0, _Version())

    def _request(self, headers: dict[str, str]) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **headers}
        response = requests.get(self.file.url, headers=headers, stream=True, timeout=_TIMEOUT)
        if response.status_code >= 500:  # the server's trouble, which may pass
            response.close()
            raise requests.ConnectionError(f"the server answers {response.status_code} {response.reason}")
        return response

    def _fetch_rest(self) -> None:
        """Go on from the end of the part, or anew where the server cannot or has another version by now."""
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
                return  # nothing lies behind the part: it is whole
            response.raise_for_status()
            if response.status_code == requests.codes.partial_content:
                self._check_range(response, begun, fits=answered.startswith(f"bytes {done}-"))
            else:
                done = 0
            self._write(response, done)

    def _check_range(self, response: requests.Response, begun: _Version, fits: bool) -> None:
        """Some servers know no If-Range, or answer with another range."""
        if not fits or begun.contradicts(_Version.of(response)):
            self.part.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)
            raise requests.ConnectionError("the part that was there is not of this file; begun anew")

    def _write(self, response: requests.Response, done: int) -> None:
        """Put what comes behind the `done` bytes of the part."""
        version = _Version.of(response)
        with (
            self.part.open("ab" if done else "wb") as part,
            progress_bar(self.show_progress, self.file.name, version.total, initial=done, unit="B") as bar,
        ):
            if not done:  # after the old bytes are gone, before there are new ones
                self.note.write_text(json.dumps(version._asdict()), "utf8")
            for chunk in response.iter_content(_CHUNK):
                part.write(chunk)
                bar.update(len(chunk))
        if version.total not in (None, self._done()):
            raise requests.ConnectionError(f"{self._done():,} of {version.total:,} bytes came")
