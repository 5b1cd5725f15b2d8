"""Read the text of every evaluation set in the folder of data: no training text may contain it."""

import csv
import html
import json
import lzma
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

Texts = Iterator[str]


def running(lines: Iterable[str]) -> Texts:
    """One text per file, tokenized, with lines `# path`; a space follows a hyphen ("Gore- Bush")."""
    yield re.sub(r"(?<=\w)- (?=\w)", "-", " ".join(line for line in lines if not line.startswith("#")))


def wikitext(lines: Iterable[str]) -> Texts:
    """The text between words that are `<unk>`, with "guest @-@ starring" as "guest-starring"."""
    yield from re.sub(r" @(.)@ ", r"\1", " ".join(lines)).split("<unk>")


def sentence_comments(lines: Iterable[str]) -> Texts:
    """CoNLL-U and similar formats: one text per file, from the comments with the sentences."""
    yield " ".join(line.removeprefix("# text = ") for line in lines if line.startswith("# text = "))


def columns(lines: Iterable[str]) -> Texts:
    """One word per line in the first column, a blank line between sentences."""
    text = "\n".join(line.split("\t")[0].strip() for line in lines)
    yield from (sentence.replace("\n", " ") for sentence in text.split("\n\n"))


def csv_column(name: str) -> Callable[[Iterable[str]], Texts]:
    """Make a function that reads one column of a CSV file with a header."""
    return lambda lines: (row[name] for row in csv.DictReader(lines))


def tab_separated(lines: Iterable[str]) -> Texts:
    """The second field of each line."""
    return (line.split("\t")[1] for line in lines if "\t" in line)


def json_fields(*names: str) -> Callable[[Iterable[str]], Texts]:
    """Make a function that reads the named fields of each line's object."""
    return lambda lines: (record[name] for record in map(json.loads, lines) for name in names)


READERS: dict[str, Callable[[Iterable[str]], Texts]] = {
    "heldout/masc/*.xz": running,
    "heldout/wikitext-2/*.xz": wikitext,
    "ner/uner-ewt/*.xz": sentence_comments,
    "ner/wnut17/*.xz": columns,
    "pos/ud-english-ewt/*.xz": sentence_comments,
    "textcat/banking77/*.xz": csv_column("text"),
    "textcat/hate-offensive/*.xz": csv_column("tweet"),
    "textcat/scicite/*.xz": json_fields("text"),
    "textcat/sms-spam/*.xz": tab_separated,
    "lm/blimp.tar.xz": json_fields("sentence_good", "sentence_bad"),
}


def texts(data: Path) -> Iterator[str]:
    """Yield the texts of all sets, with HTML entities resolved.

    Raises:
        FileNotFoundError: a set is missing.
    """
    for pattern, reader in READERS.items():
        paths = sorted(data.glob(pattern))
        if not paths:
            raise FileNotFoundError(
                f"{data / pattern}: no such evaluation set, so its text cannot be kept out of the training text"
            )
        for path in paths:
            for lines in _files(path):
                yield from map(html.unescape, reader(lines))


def _files(path: Path) -> Iterator[Iterable[str]]:
    """Yield the lines of the file, or of each file in the archive."""
    if path.name.endswith(".tar.xz"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".xz"):
                    with lzma.open(cast("IO[bytes]", archive.extractfile(member)), "rt", encoding="utf8") as file:
                        yield cast("IO[str]", file)
    else:
        with lzma.open(path, "rt", encoding="utf8") as file:
            yield cast("IO[str]", file)
