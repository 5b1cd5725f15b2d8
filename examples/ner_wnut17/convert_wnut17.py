"""Turn WNUT-17 (a word and a BIO tag per line) into spaCy's format: train.spacy, dev.spacy and test.spacy.

Run it with `python convert_wnut17.py DATA OUT`. DATA is a folder with the three files below, as published or compressed
with xz. For data of your own, change their names.
"""

import argparse
import lzma
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}


class DataError(ValueError):
    """A file is missing, damaged, or of another format."""


@dataclass(frozen=True)
class Sentence:
    """Words and their tags: B-label and I-label for the first and further words of an entity, O for others."""

    words: list[str]
    tags: list[str]


def main() -> None:
    """Convert the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help=f"folder with {', '.join(FILES.values())}")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the .spacy files")
    arguments = parser.parse_args()

    parts = {part: list(read_sentences(find(arguments.data, name))) for part, name in FILES.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, sentences in parts.items():
        to_docbin(sentences).to_disk(arguments.out / f"{part}.spacy")
        print(f"{part:<6} {summary(sentences)}")


def find(folder: Path, name: str) -> Path:
    """Find the file of that name, or else the compressed one."""
    for path in (folder / name, folder / f"{name}.xz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: neither {name} nor {name}.xz is there")


def read_sentences(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of a file; they are separated by lines that are empty or only white space."""
    lines = read_text(path).split("\n")
    sentence, entities = Sentence([], []), 0
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            before = sentence.tags[-1] if sentence.tags else "O"
            word, tag = word_and_tag(line.rstrip("\r"), before, f"{path}, line {number}")
            sentence.words.append(word)
            sentence.tags.append(tag)
            entities += tag.startswith("B-")
        elif sentence.words:
            yield sentence
            sentence = Sentence([], [])
    if not entities:
        raise DataError(f"{path}: no entity in this file")


def read_text(path: Path) -> str:
    """Read a file, compressed or not."""
    data = path.read_bytes()
    try:
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8-sig")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def word_and_tag(line: str, before: str, place: str) -> tuple[str, str]:
    """Split a line into its two columns; before: the tag of the previous word, O at the start of a sentence."""
    columns = line.split("\t")
    if len(columns) != 2 or not columns[0].strip():
        raise DataError(f"{place}: expected a word, a tab and a tag, found {line!r}")
    word, tag = columns
    position, _, label = tag.partition("-")
    if tag != "O" and (position not in ("B", "I") or not label):
        raise DataError(f"{place}: {tag!r} is not a tag; expected O, B-label or I-label")
    if position == "I" and before[2:] != label:
        raise DataError(f"{place}: {tag} follows {before}; it can only follow B-{label} or I-{label}")
    return word, tag


def to_docbin(sentences: Iterable[Sentence]) -> DocBin:
    """Make Docs with entities.

    The files do not say where the spaces between the words were, so the Docs do not either. Then spaCy trains and
    evaluates on these words, not on those of its tokenizer.
    """
    vocab = Vocab()
    return DocBin(docs=[Doc(vocab, words=sentence.words, ents=sentence.tags) for sentence in sentences])


def summary(sentences: list[Sentence]) -> str:
    """Count sentences, words and entities."""
    tags = Counter(tag for sentence in sentences for tag in sentence.tags)
    labels = {tag[2:]: count for tag, count in tags.most_common() if tag.startswith("B-")}
    counts = ", ".join(f"{label} {count:,}" for label, count in labels.items())
    return f"{len(sentences):,} sentences, {tags.total():,} words, {sum(labels.values()):,} entities: {counts}"


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"✘ {error}")
