"""Turn Jigsaw's toxic comments (CSV files) into spaCy's format: train.spacy, dev.spacy and test.spacy.

Run it with `python convert_toxic.py DATA OUT`. DATA is a folder with train.csv, as published (columns id, comment_text
and the six labels) or compressed with xz. The dev part is one comment in ten of it. So is the test part, unless
test.csv and test_labels.csv are there. Of these, comments with the label -1 are left out, because nobody has judged
them.
"""

import argparse
import csv
import io
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin

TEXT = "comment_text"
LABELS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


class DataError(ValueError):
    """A file is missing, damaged, or of another format."""


class Comment(NamedTuple):
    """A comment's text and the labels that fit: none, one or several."""

    text: str
    labels: frozenset[str]


def main() -> None:
    """Convert the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with train.csv; test.csv and test_labels.csv")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the .spacy files")
    arguments = parser.parse_args()

    parts = read_parts(arguments.data)
    check(parts)
    nlp = spacy.blank("en")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, comments in parts.items():
        DocBin(docs=[to_doc(nlp, comment) for comment in comments]).to_disk(arguments.out / f"{part}.spacy")
        print(f"{part:<6} {summary(comments)}")


def find(folder: Path, name: str) -> Path:
    """Find the file of that name, or else the compressed one."""
    for path in (folder / name, folder / f"{name}.xz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: neither {name} nor {name}.xz is there")


def read_parts(folder: Path) -> dict[str, list[Comment]]:
    """Read each part. Of train.csv, the 2nd, 12th, 22nd... comments are dev, and the 7th, 17th, 27th... may be test."""
    comments = list(read_comments(find(folder, "train.csv")))
    places = {"dev": 2, "test": 7}
    apart = []
    try:
        apart = [find(folder, name) for name in ("test.csv", "test_labels.csv")]
        del places["test"]
    except DataError:
        pass
    parts = {
        "train": [one for n, one in enumerate(comments, 1) if n % 10 not in places.values()],
        **{part: comments[place - 1 :: 10] for part, place in places.items()},
    }
    return {**parts, "test": list(join(*apart))} if apart else parts


def read_comments(path: Path) -> Iterator[Comment]:
    """Yield the comments of a file with text and labels."""
    for where, row in read_rows(path, [TEXT, *LABELS]):
        yield to_comment(where, row[TEXT], row)


def join(texts: Path, judgements: Path) -> Iterator[Comment]:
    """Yield the comments of a file whose labels are in another file, without those that nobody has judged."""
    judged = {row["id"]: (where, row) for where, row in read_rows(judgements, ["id", *LABELS])}
    for where, row in read_rows(texts, ["id", TEXT]):
        if row["id"] not in judged:
            raise DataError(f"{where}: the comment {row['id']!r} is not in {judgements}")
        where_judged, labels = judged[row["id"]]
        if labels[LABELS[0]] != "-1":
            yield to_comment(where_judged, row[TEXT], labels)


def to_comment(where: str, text: str, row: dict[str, str]) -> Comment:
    """Make a comment; white space in its text, line breaks included, becomes single spaces."""
    for label in LABELS:
        if row[label] not in ("0", "1"):
            raise DataError(f"{where}: {label} is {row[label]!r}, expected 0 or 1")
    return Comment(" ".join(text.split()), frozenset(label for label in LABELS if row[label] == "1"))


def read_rows(path: Path, columns: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with its place in the file."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(rows, [])
        if missing := [name for name in columns if name not in header]:
            raise DataError(f"{path}: no column {', '.join(missing)} among {','.join(header)!r}")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise DataError(f"{where}: expected {len(header)} fields, found {len(row)}: {row}")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: damaged ({error})") from None


def read_text(path: Path) -> str:
    """Read a file, compressed or not."""
    data = path.read_bytes()
    try:
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8-sig")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def check(parts: dict[str, list[Comment]]) -> None:
    """Check that each label can be learned, and that there is something to measure."""
    for part, comments in parts.items():
        if not comments:
            raise DataError(f"no comments for the {part} part")
    for label in LABELS:
        if {label in comment.labels for comment in parts["train"]} != {True, False}:
            raise DataError(f"train.csv: {label} fits all comments, or none; expected some with it and some without")


def to_doc(nlp: Language, comment: Comment) -> Doc:
    """Make a Doc with 1 for the comment's labels and 0 for the others."""
    doc = nlp.make_doc(comment.text)
    doc.cats = {label: float(label in comment.labels) for label in LABELS}
    return doc


def summary(comments: list[Comment]) -> str:
    """Count comments and labels."""
    counts = [f"{label} {sum(label in comment.labels for comment in comments):,}" for label in LABELS]
    return f"{len(comments):,} comments: {', '.join(counts)}"


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"✘ {error}")
