"""The name of a public model in, its files in the cache directory out (behind `python -m spacy elmo download`)."""

import difflib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pooch
import requests

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats.known import KNOWN, KnownFile, KnownModel, cache_directory
from spacy_elmo.pretraining.progress import progress_bar

_FRUITLESS = 3  # attempts in a row that brought nothing, after which to give up
_PAUSE = 1.0  # seconds after the first of them, then twice, three times as many
_TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 2**16  # what a cut connection can lose


def download(name: str, show_progress: bool = False) -> dict[str, Any]:
    """Download a known model, or what of it is missing.

    Returns `name, license, path, files`, of each file `name, url, bytes, sha256`.

    A file appears under its name once it is whole and its checksum, where one is known, is right; until then it is
    beside it as `FILE.part`, from where the next call goes on. The model is loaded once, to see that it is one.

    Raises:
        ElmoError: the name is unknown, the server cannot be reached or has no such file, a checksum is wrong, or the
            disk is full.
    """
    model = _find(name)
    directory = cache_directory() / name
    paths = [_fetch(file, directory, show_progress) for file in model.files]
    try:
        formats.load(name)
    except ElmoError as error:
        for path in paths:
            path.unlink()
        raise ElmoError(f"{name}: what the server sent is not a model, and was removed ({error})") from None
    files = [
        {"name": file.name, "url": file.url, "bytes": path.stat().st_size, "sha256": pooch.file_hash(str(path))}
        for file, path in zip(model.files, paths, strict=True)
    ]
    return {"name": name, "license": model.license, "path": str(model.path), "files": files}


def known_models() -> dict[str, Any]:
    """What `download --list --json` prints."""
    models = [{**asdict(model), "downloaded": model.is_downloaded} for model in KNOWN.values()]
    return {"cache": str(cache_directory()), "models": models}


def table(facts: dict[str, Any]) -> str:
    """The known models as lines to read; those that are downloaded are marked."""
    lines = [f"  {'name':<27}{'language':<10}{'MB':>7}  description"]
    for model in facts["models"]:
        sizes = [file["size"] for file in model["files"] if file["size"]]
        size = f"{sum(sizes) / 1e6:.0f}" if sizes else "?"
        mark = "✔" if model["downloaded"] else " "
        lines.append(f"{mark} {model['name']:<27}{model['language']:<10}{size:>7}  {model['description']}")
    return "\n".join([*lines, "", f"✔ downloaded, to {facts['cache']}"])


def _find(name: str) -> KnownModel:
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.85)  # not one NLPL id for another
    hint = f"did you mean {near[0]}?" if near else "see python -m spacy elmo download --list"
    raise ElmoError(f"{name}: no model of that name is known; {hint}")


def _fetch(file: KnownFile, directory: Path, show_progress: bool) -> Path:
    """Download a file unless it is there; its path."""
    downloader = _Resuming(file, directory / f"{file.name}.part", show_progress)
    try:
        with _silent(pooch.get_logger()):
            path = pooch.retrieve(file.url, file.sha256, file.name, directory, downloader=downloader)
    except requests.HTTPError as error:
        raise ElmoError(f"{file.url}: the server does not give the file, is it still published? ({error})") from None
    except requests.RequestException as error:
        raise ElmoError(
            f"{file.url}: no connection, or it was cut ({error}); what has come is kept, run the command again to go on"
        ) from None
    except ValueError as error:
        raise ElmoError(f"{file.url}: not the file that was published ({error})") from None
    except OSError as error:
        raise ElmoError(f"{directory}: cannot be written ({error})") from None
    return Path(path)


class _Resuming:
    """As pooch's HTTPDownloader, but into a file of ours that outlives a cut connection."""

    def __init__(self, file: KnownFile, part: Path, show_progress: bool) -> None:
        self.file, self.part, self.show_progress = file, part, show_progress

    def __call__(self, url: str, output_file: str, _: Any, check_only: bool = False) -> None:
        """Download into `output_file`, a temporary one whose checksum pooch verifies next."""
        fruitless = 0
        while True:
            before = self._done()
            try:
                self._fetch_rest(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                fruitless = fruitless + 1 if self._done() <= before else 0
                if fruitless == _FRUITLESS:
                    raise
                time.sleep(_PAUSE * fruitless)
        size = self._done()
        self.part.replace(output_file)
        if self.file.size not in (None, size):
            raise ValueError(f"expected {self.file.size:,} bytes, got {size:,}")

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _fetch_rest(self, url: str) -> None:
        """Go on from the end of the part, or anew where the server cannot."""
        done = self._done()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self._check_complete(response, done)
                return
            if response.status_code >= 500:  # the server's trouble, which may pass
                raise requests.ConnectionError(f"the server answers {response.status_code} {response.reason}")
            response.raise_for_status()
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
            start = done if goes_on else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            with (
                self.part.open("ab" if goes_on else "wb") as part,
                progress_bar(self.show_progress, self.file.name, total, initial=start, unit="B") as bar,
            ):
                for chunk in response.iter_content(_CHUNK):
                    part.write(chunk)
                    bar.update(len(chunk))
        if total is not None and self._done() != total:
            raise requests.ConnectionError(f"{self._done():,} of {total:,} bytes came")

    def _check_complete(self, response: requests.Response, done: int) -> None:
        """Nothing lies behind the part: it is whole, or of another file and of no use."""
        if response.headers.get("Content-Range") != f"bytes */{done}":
            self.part.unlink()
            raise requests.ConnectionError("the part that was there is not of this file; begun anew")


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Pooch tells of every file what we tell by a progress bar."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
