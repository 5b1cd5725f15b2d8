"""Turn Jigsaw's toxic comments into spaCy's format: CSV files in; train.spacy, dev.spacy and test.spacy out.

Run it with `python convert_toxic.py DATA OUT`: DATA is a folder with train.csv, as it was published (columns id,
comment_text and the six labels) or compressed with xz. The dev part is one comment in ten of it; so is the test part,
unless test.csv and test_labels.csv are there, whose comments with the label -1 are left out: nobody has judged them.
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
    """A file is missing, damaged, or not what it should be."""


class Comment(NamedTuple):
    """What somebody wrote, and which of the labels fit: none, one or several."""

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
    """The file of that name, or else the compressed one."""
    for path in (folder / name, folder / f"{name}.xz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: neither {name} nor {name}.xz is there")


def read_parts(folder: Path) -> dict[str, list[Comment]]:
    """The comments of each part; the 2nd, 12th, 22nd... of train.csv are dev, the 7th, 17th, 27th... may be test."""
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
    """The comments of a file that has text and labels."""
    for where, row in read_rows(path, [TEXT, *LABELS]):
        yield to_comment(where, row[TEXT], row)


def join(texts: Path, judgements: Path) -> Iterator[Comment]:
    """The comments of a file whose labels are in another, those that nobody has judged left out."""
    judged = {row["id"]: (where, row) for where, row in read_rows(judgements, ["id", *LABELS])}
    for where, row in read_rows(texts, ["id", TEXT]):
        if row["id"] not in judged:
            raise DataError(f"{where}: the comment {row['id']!r} is not in {judgements}")
        where_judged, labels = judged[row["id"]]
        if labels[LABELS[0]] != "-1":
            yield to_comment(where_judged, row[TEXT], labels)


def to_comment(where: str, text: str, row: dict[str, str]) -> Comment:
    """A comment; white space in its text, line ends too, becomes single spaces."""
    for label in LABELS:
        if row[label] not in ("0", "1"):
            raise DataError(f"{where}: {label} is {row[label]!r}, expected 0 or 1")
    return Comment(" ".join(text.split()), frozenset(label for label in LABELS if row[label] == "1"))


def read_rows(path: Path, columns: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row is, and what it says."""
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
    """What a file says, compressed or not."""
    data = path.read_bytes()
    try:
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8-sig")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def check(parts: dict[str, list[Comment]]) -> None:
    """See that there is something to learn of each label, and something to measure."""
    for part, comments in parts.items():
        if not comments:
            raise DataError(f"there is no comment for the {part} part")
    for label in LABELS:
        if {label in comment.labels for comment in parts["train"]} != {True, False}:
            raise DataError(f"train.csv: {label} is said of all comments, or of none; there is nothing to learn of it")


def to_doc(nlp: Language, comment: Comment) -> Doc:
    """A Doc whose labels have 1, and the others 0."""
    doc = nlp.make_doc(comment.text)
    doc.cats = {label: float(label in comment.labels) for label in LABELS}
    return doc


def summary(comments: list[Comment]) -> str:
    """How much there is of what."""
    counts = [f"{label} {sum(label in comment.labels for comment in comments):,}" for label in LABELS]
    return f"{len(comments):,} comments: {', '.join(counts)}"


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"✘ {error}")
