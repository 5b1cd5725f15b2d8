"""Turn BANKING77 (text,category per line) into spaCy's format: train.spacy, dev.spacy and test.spacy.

Run it with `python convert_banking77.py DATA OUT`. DATA is a folder with train.csv and test.csv, as published or
compressed with xz. They have no dev part, so it takes one question in ten of each category from train.csv.
"""

import argparse
import csv
import io
import lzma
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin

COLUMNS = ["text", "category"]


class DataError(ValueError):
    """A file is missing, damaged, or of another format."""


class Question(NamedTuple):
    """A customer's question and its category."""

    text: str
    category: str


def main() -> None:
    """Convert both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with train.csv and test.csv")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the .spacy files")
    arguments = parser.parse_args()

    train, dev = hold_out(read_questions(find(arguments.data, "train.csv")))
    test = list(read_questions(find(arguments.data, "test.csv")))
    parts = {"train": train, "dev": dev, "test": test}
    categories = categories_of(parts)
    nlp = spacy.blank("en")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, questions in parts.items():
        docs = [to_doc(nlp, question, categories) for question in questions]
        DocBin(docs=docs).to_disk(arguments.out / f"{part}.spacy")
        print(f"{part:<6} {summary(questions)}")


def find(folder: Path, name: str) -> Path:
    """Find the file of that name, or else the compressed one."""
    for path in (folder / name, folder / f"{name}.xz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: neither {name} nor {name}.xz is there")


def read_questions(path: Path) -> Iterator[Question]:
    """Yield the rows of a file; white space in a text, line breaks included, becomes single spaces."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if (header := next(rows, [])) != COLUMNS:
            raise DataError(f"{path}: expected the columns {','.join(COLUMNS)}, found {','.join(header)!r}")
        for row in rows:
            if len(row) != len(COLUMNS) or not all(field.strip() for field in row):
                raise DataError(f"{path}, line {rows.line_num}: expected a text and a category, found {row}")
            text, category = row
            yield Question(" ".join(text.split()), category.strip())
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: damaged ({error})") from None


def read_text(path: Path) -> str:
    """Read a file, compressed or not."""
    data = path.read_bytes()
    try:
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8-sig")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def hold_out(questions: Iterable[Question]) -> tuple[list[Question], list[Question]]:
    """Split into questions to train on and the dev part: the 2nd, 12th, 22nd... question of each category."""
    train: list[Question] = []
    dev: list[Question] = []
    seen: Counter[str] = Counter()
    for question in questions:
        seen[question.category] += 1
        (dev if seen[question.category] % 10 == 2 else train).append(question)
    return train, dev


def categories_of(parts: dict[str, list[Question]]) -> list[str]:
    """Return the categories of the training part; raise a DataError if another part has others."""
    known = {question.category for question in parts["train"]}
    if len(known) < 2:
        raise DataError(f"train.csv has {len(known)} categories; expected at least two")
    for part, questions in parts.items():
        if not questions:
            raise DataError(f"no questions for the {part} part")
        if unknown := {question.category for question in questions} - known:
            raise DataError(f"the {part} part has categories that train.csv lacks: {', '.join(sorted(unknown))}")
    return sorted(known)


def to_doc(nlp: Language, question: Question, categories: Iterable[str]) -> Doc:
    """Make a Doc with 1 for its own category and 0 for every other."""
    doc = nlp.make_doc(question.text)
    doc.cats = {category: float(category == question.category) for category in categories}
    return doc


def summary(questions: list[Question]) -> str:
    """Count questions and categories."""
    counts = Counter(question.category for question in questions).values()
    return f"{len(questions):,} questions in {len(counts)} categories, {min(counts)} to {max(counts)} in each"


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"✘ {error}")
