"""Read data sets from ../shared/data: sentences and texts with their gold annotation, for the other scripts.

Sentences come with their tokens. spaCy's blank English pipeline splits texts to classify into tokens, without
whitespace. Each item is read as one sentence.
"""

import csv
import json
import lzma
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

import spacy
from spacy.language import Language

# Entity labels of UNER's train file that its released data do not have (see its SOURCE.txt).
DROPPED = {"B-OTH", "I-OTH", "B-O"}
BANKING_DEV = 1_000  # queries held out of banking77's train file, because there is no dev file


@dataclass(frozen=True)
class Item:
    """A sentence or text with its gold annotation: a tag for each word, or one label."""

    words: list[str]
    gold: list[str] | str


@dataclass(frozen=True)
class Corpus:
    """The three parts of a data set."""

    train: list[Item]
    dev: list[Item]
    test: list[Item]

    @property
    def labels(self) -> list[str]:
        """Labels of the texts; an empty list if words have tags."""
        items = [*self.train, *self.dev, *self.test]
        return sorted({item.gold for item in items if isinstance(item.gold, str)})

    def train_sample(self, percent: int, seed: int) -> list[Item]:
        """Return this share of the training data, the same for the same seed."""
        if percent == 100:
            return self.train
        return random.Random(seed).sample(self.train, max(1, round(len(self.train) * percent / 100)))


# Readers


def read_wnut17(data: Path) -> Corpus:
    """WNUT-17: a word and an IOB tag per line. Lines that begin with # are words."""
    names = ("wnut17train.conll.xz", "emerging.dev.conll.xz", "emerging.test.annotated.xz")
    return Corpus(*(list(read_columns(data / "ner/wnut17" / name, 0, 1, numbered=False)) for name in names))


def read_uner_ewt(data: Path) -> Corpus:
    """Universal NER on English-EWT, without the labels that only its train file has."""
    paths = (data / f"ner/uner-ewt/en_ewt-ud-{part}.iob2.xz" for part in ("train", "dev", "test"))
    return Corpus(*([without_dropped(item) for item in read_columns(path, 1, 2)] for path in paths))


def read_ud_ewt(data: Path) -> Corpus:
    """UD English-EWT: words and their UPOS tags."""
    paths = (data / f"pos/ud-english-ewt/en_ewt-ud-{part}.conllu.xz" for part in ("train", "dev", "test"))
    return Corpus(*(list(read_columns(path, 1, 3)) for path in paths))


def read_scicite(data: Path) -> Corpus:
    """SciCite: citing sentences and the purpose of the citation."""
    paths = (data / f"textcat/scicite/{part}.txt.xz" for part in ("train", "dev", "test"))
    return Corpus(*([text_item(one["text"], one["label"]) for one in read_json_lines(path)] for path in paths))


def read_banking77(data: Path) -> Corpus:
    """banking77: queries and their intents. The dev part is the end of the shuffled train file."""
    train, test = (read_queries(data / f"textcat/banking77/{part}.csv.xz") for part in ("train", "test"))
    random.Random(0).shuffle(train)
    n_dev = min(BANKING_DEV, len(train) // 10)
    return Corpus(train[:-n_dev], train[-n_dev:], test)


def read_hate_offensive(data: Path) -> Corpus:
    """Tweets (offensive text), and whether they are hate speech, merely offensive, or neither."""
    with open_text(data / "textcat/hate-offensive/labeled_data.csv.xz") as lines:
        return split_by_number(text_item(row["tweet"], row["class"]) for row in csv.DictReader(lines))


def read_spam(data: Path) -> Corpus:
    """SMS Spam Collection: text messages, spam or ham."""
    with open_text(data / "textcat/sms-spam/SMSSpamCollection.xz") as lines:
        return split_by_number(text_item(row[1], row[0]) for row in csv.reader(lines, delimiter="\t"))


def split_by_number(items: Iterable[Item]) -> Corpus:
    """Split a set without parts: every tenth item, counted from 1, goes to the test part, the next one to dev."""
    parts: dict[int, list[Item]] = {0: [], 1: [], 2: []}
    for number, item in enumerate(items, start=1):
        parts[min(number % 10, 2)].append(item)
    return Corpus(parts[2], parts[1], parts[0])


def read_columns(path: Path, word: int, tag: int, numbered: bool = True) -> Iterator[Item]:
    """Read sentences of tab-separated lines, with an empty line (or only tabs) after each.

    numbered: the first column is the number of the word. Such files have comments, and lines whose number is a range or
        a fraction are not words.
    """
    words: list[str] = []
    tags: list[str] = []
    with open_text(path) as lines:
        for line in (*lines, ""):
            fields = line.rstrip("\r\n").split("\t")
            if not fields[0].strip():
                if words:
                    yield Item(words, tags)
                words, tags = [], []
            elif not numbered or fields[0].isdigit():
                words.append(fields[word])
                tags.append(fields[tag])


def without_dropped(item: Item) -> Item:
    """Return the item with O instead of the labels that do not count."""
    return Item(item.words, ["O" if tag in DROPPED else tag for tag in item.gold])


def read_json_lines(path: Path) -> Iterator[dict[str, str]]:
    """Read one JSON object per line."""
    with open_text(path) as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def read_queries(path: Path) -> list[Item]:
    """Read a CSV file of texts and categories, with a header."""
    with open_text(path) as lines:
        return [text_item(row["text"], row["category"]) for row in csv.DictReader(lines)]


def open_text(path: Path) -> TextIO:
    """Open a compressed text file; only \\n and \\r\\n end a line."""
    return lzma.open(path, "rt", encoding="utf-8", newline="")


def text_item(text: str, label: str) -> Item:
    """Split a text into words."""
    return Item([token.text for token in english().make_doc(text) if not token.is_space], label)


@cache
def english() -> Language:
    """Return a pipeline with only a tokenizer."""
    return spacy.blank("en")


def n_words(items: Iterable[Item]) -> int:
    """Count the words of all items."""
    return sum(len(item.words) for item in items)
