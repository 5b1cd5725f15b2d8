"""The name of a public model in, its files in the cache directory out (behind `python -m spacy elmo download`)."""

import difflib
import json
import logging
import sys
import time
from collections.abc import Iterator
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
from spacy_elmo.support.progress import progress_bar

_FRUITLESS = 3  # attempts in a row that brought nothing, after which to give up
_PAUSE = 1.0  # seconds after the first of them, then twice, three times as many
_TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 2**16  # what a cut connection can lose


def download(name: str, show_progress: bool = False) -> dict[str, Any]:
    """Download a known model, or what of it is missing; or one of the Hugging Face hub, `hf:owner/name`, into the hub's
    own cache. Other names that `find_loosely` knows will do, such as `flair:small`, `small` and `218`.

    Returns `name, license, path, files`, of each file `name, url, bytes, sha256`.

    A file appears under its name once it is whole and its checksum, where one is known, is right; until then it is
    beside it as `FILE.part`, from where the next call goes on. The model is loaded once, to see that it is one; its
    name is not found before all its files are there.
    Of several calls at once, in threads or processes, one downloads a model and the others wait for it.

    Raises:
        ElmoError: the name is unknown, the server cannot be reached or has no such file, a checksum is wrong, the disk
            is full, or the cache directory cannot be written or locked.
    """
    if name.startswith(hugging_face.PREFIX):
        return _download_from_hub(hugging_face.HubModel.parse(name), show_progress)
    model = _find(name)
    directory = cache_directory() / model.name
    with _locked(model, directory, show_progress):
        paths = [_fetch(file, directory, show_progress) for file in model.files]
        try:
            formats.load(model.path)
        except ElmoError as error:
            for path in paths:
                path.unlink()
            raise ElmoError(f"{model.name}: what the server sent is not a model, and was removed ({error})") from None
    files = [
        {"name": file.name, "url": file.url, "bytes": path.stat().st_size, "sha256": pooch.file_hash(str(path))}
        for file, path in zip(model.files, paths, strict=True)
    ]
    return {"name": model.name, "license": model.license, "path": str(model.path), "files": files}


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


def _fetch(file: KnownFile, directory: Path, show_progress: bool) -> Path:
    """Download a file unless it is there; its path."""
    downloader = _Resuming(file, directory / f"{file.name}.part", show_progress)
    try:
        with _silent(pooch.get_logger()):
            path = pooch.retrieve(file.url, file.sha256, file.name, directory, downloader=downloader)
    except requests.HTTPError as error:
        raise ElmoError(f"{file.url}: the server does not give the file, is it still published? ({error})") from None
    except requests.RequestException as error:
        kept = "; what has come is kept, run the command again to go on" if downloader.part.exists() else ""
        with suppress(OSError):
            directory.rmdir()  # where nothing has come at all
        raise ElmoError(f"{file.url}: no connection, or it was cut ({_reason(error)}){kept}") from None
    except ValueError as error:
        raise ElmoError(f"{file.url}: not the file that was published ({error})") from None
    except OSError as error:
        raise ElmoError(f"{directory}: cannot be written ({error})") from None
    return Path(path)


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


class _Resuming:
    """As pooch's HTTPDownloader, but into a file of ours that outlives a cut connection.

    Beside it is a note of the version that it began with, so that it does not go on with another one.
    """

    def __init__(self, file: KnownFile, part: Path, show_progress: bool) -> None:
        self.file, self.part, self.show_progress = file, part, show_progress
        self.note = part.with_name(f"{part.name}.version")  # no .json, which could be taken for options

    def __call__(self, url: str, output_file: str, _: Any, check_only: bool = False) -> None:
        """Download into `output_file`, a temporary one whose checksum pooch verifies next."""
        fruitless, most = 0, self._done()
        while True:
            try:
                self._fetch_rest(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                fruitless = fruitless + 1 if self._done() <= most else 0
                most = max(most, self._done())
                if fruitless == _FRUITLESS:
                    raise
                time.sleep(_PAUSE * fruitless)
        size = self._done()
        self.part.replace(output_file)
        self.note.unlink(missing_ok=True)
        if self.file.size not in (None, size):
            raise ValueError(f"expected {self.file.size:,} bytes, got {size:,}")

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _begun(self) -> tuple[int, _Version]:
        """Bytes to go on behind and the version they are of; nothing where another version could not be told."""
        try:
            version = _Version(**json.loads(self.note.read_text("utf8")))
        except (OSError, ValueError, TypeError):  # none, or damaged
            version = _Version()
        done = self._done()
        return (done, version) if done and (version.validator or self.file.sha256) else (0, _Version())

    def _fetch_rest(self, url: str) -> None:
        """Go on from the end of the part, or anew where the server cannot or has another version by now."""
        done, begun = self._begun()
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        if begun.validator:
            headers["If-Range"] = begun.validator
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code >= 500:  # the server's trouble, which may pass
                raise requests.ConnectionError(f"the server answers {response.status_code} {response.reason}")
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


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Pooch tells of every file what we tell by a progress bar."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
