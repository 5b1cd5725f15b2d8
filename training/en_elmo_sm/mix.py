"""Make the text that en_elmo_sm is trained on: `python mix.py DATA OUT`. If stopped, it resumes at the next call.

DATA: the folder of licensed texts and evaluation sets (`pretraining/`, `heldout/`, `ner/` ...).
OUT/clean/<source>.txt: cleaned text without evaluation text and copies; one paragraph per line, a blank line between
    documents.
OUT/text/: one document in a hundred of each source in `heldout/<source>.txt`. The others are in `train/mix.txt`, in
    random order and as often as their weight says.
OUT/corpus/: the same text as `prepare` writes it, for `pretrain`. OUT/report.json and a table show what was kept.
The same input gives the same bytes. To mix again with other weights, delete OUT/text and OUT/corpus.
"""

import argparse
import json
import lzma
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import clean
import evaluation_sets
from clean import Documents
from overlap import SHORTEST, EvaluationRuns, SeenRuns, Words, runs
from sources import SOURCES, Source

from spacy_elmo.pretraining.text import read_lines, read_sentences
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.tools.prepare import prepare

KNOWN = Path(__file__).resolve().parents[2] / "experiments" / "data" / "vocabulary.txt.xz"  # of the first bundled model
VOCABULARY = 80_000  # Entries, with all of the known ones; 100,000 would know 0.3% more of the text.
HELD_OUT = 100  # One document in this many is held out.
COPY = 0.5  # A paragraph is a copy if more than this share of its runs of words was there before.
RAW_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass
class Tally:
    """Tokens of a source after each step: spaCy's tokens, except `raw` (runs of letters, single characters)."""

    raw: int = 0
    cleaned: int = 0
    evaluation: int = 0  # dropped as evaluation text
    copies: int = 0  # dropped as copies
    kept: int = 0
    documents: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"evaluation": 0, "copies": 0})  # paragraphs


class Filter:
    """Drops evaluation text and copies, and counts them."""

    def __init__(self, evaluation: Path, tokenize: Callable[[str], Any]) -> None:
        self._tokenize = tokenize
        self._evaluation = EvaluationRuns(tokenize(text)[1] for text in evaluation_sets.texts(evaluation))
        self._seen = SeenRuns()

    def remember(self, text: str) -> None:
        """Count a paragraph as seen."""
        words = self._tokenize(text)[1]
        if len(words) >= SHORTEST:
            self._seen.add(runs(words))

    def keeps(self, text: str, tally: Tally) -> bool:
        """Return whether a paragraph is new and not evaluation text."""
        tokens, words = self._tokenize(text)
        tally.cleaned += tokens
        if len(words) >= SHORTEST:
            hashes = runs(words)
            if self._evaluation.has_any(hashes):
                tally.evaluation += tokens
                tally.dropped["evaluation"] += 1
                return False
            if self._seen.share(hashes) > COPY:
                tally.copies += tokens
                tally.dropped["copies"] += 1
                return False
            self._seen.add(hashes)
        tally.kept += tokens
        return True


def clean_all(sources: tuple[Source, ...], data: Path, out: Path, show_progress: bool) -> None:
    """Write `out/<source>.txt` and its tally, `.json`, for each source that lacks them.

    If a source is made again, all sources below it are made again, because they may share text with it.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    while done < len(sources) and (out / f"{sources[done].name}.json").is_file():
        done += 1
    if done == len(sources):
        return
    for source in sources[done:]:
        (out / f"{source.name}.json").unlink(missing_ok=True)
    filter_ = Filter(data, Words())
    for source in sources[:done]:
        for line in read_lines(out / f"{source.name}.txt"):
            filter_.remember(line)
    for source in sources[done:]:
        _clean(source, source.paths(data / "pretraining"), out, filter_, show_progress)


def _clean(source: Source, paths: list[Path], out: Path, filter_: Filter, show_progress: bool) -> None:
    if not paths:
        raise FileNotFoundError(f"{source.name}: no text of this source")
    tally, text = Tally(), out / f"{source.name}.txt"
    size = sum(path.stat().st_size for path in paths)
    with text.open("w", encoding="utf8", newline="\n") as file, progress_bar(show_progress, source.name, size) as bar:
        raw = (document for path in paths for document in clean.read(path, bar.update))
        for document in source.clean(_counted(raw, tally)):
            kept = [paragraph for paragraph in document if filter_.keeps(paragraph, tally)]
            if kept:
                file.write("\n" * (tally.documents > 0) + "\n".join(kept) + "\n")
                tally.documents += 1
    (out / f"{source.name}.json").write_text(json.dumps(asdict(tally)), encoding="utf8")


def _counted(documents: Documents, tally: Tally) -> Iterator[clean.Document]:
    for document in documents:
        tally.raw += sum(len(RAW_TOKEN.findall(line)) for line in document)
        yield document


def mix(sources: tuple[Source, ...], texts: Path, out: Path, seed: int = 0) -> None:
    """Hold documents out, weight and shuffle the others: `out/heldout/<source>.txt`, `out/train/mix.txt`.

    One document in a hundred is held out, or one if a source has fewer. `out/share.json` has the share of each source's
    bytes that is read; bytes read twice count twice.
    """
    (out / "heldout").mkdir(parents=True)
    (out / "train").mkdir()
    train: list[Place] = []
    share: dict[str, float] = {}
    with ExitStack() as files:
        for source in sources:
            places = _places(files.enter_context((texts / f"{source.name}.txt").open("rb")))
            every = min(HELD_OUT, len(places))
            _write(places[every // 2 :: every], out / "heldout" / f"{source.name}.txt")
            chance = random.Random(f"{seed} {source.name}").random
            chosen = [
                place
                for number, place in enumerate(places)
                if number % every != every // 2
                for _ in range(int(source.weight + chance()))
            ]
            share[source.name] = sum(place.length for place in chosen) / sum(place.length for place in places)
            train += chosen
        random.Random(seed).shuffle(train)
        _write(train, out / "train" / "mix.txt")
    (out / "share.json").write_text(json.dumps(share), encoding="utf8")


class Place(NamedTuple):
    """Position of a document in a file, without the blank line after it."""

    file: BinaryIO
    begin: int
    length: int


def _places(file: BinaryIO) -> list[Place]:
    places, begin, end = [], 0, 0
    for line in file:
        if line == b"\n":
            places.append(Place(file, begin, end - begin))
            begin = end + 1
        end += len(line)
    return [*places, Place(file, begin, end - begin)]


def _write(places: list[Place], path: Path) -> None:
    with path.open("wb") as target:
        for number, (file, begin, length) in enumerate(places):
            file.seek(begin)
            target.write(b"\n" * (number > 0) + file.read(length))


def make_corpus(text: Path, out: Path, known: Vocabulary, size: int, show_progress: bool) -> None:
    """Tokenize both parts into `out/train` and `out/heldout`, and write the vocabulary, `out/vocab.txt`."""
    prepare(text / "train", out, held_out=0, min_tokens=2, min_count=1, progress=show_progress)
    prepare(text / "heldout", out / "parts", held_out=0, min_tokens=2, progress=show_progress)
    (out / "parts" / "train").rename(out / "heldout")
    shutil.rmtree(out / "parts")
    ranked = Vocabulary.from_file(out / "vocab.txt")
    (out / "vocab.txt").write_text(extended(known, ranked, size).text(), encoding="utf8", newline="\n")


def extended(known: Vocabulary, ranked: Vocabulary, size: int) -> Vocabulary:
    """Return the known words and the most frequent others, `size` in all, by falling count, with absent words last."""
    others = [word for word in ranked.words if word not in known.ids][: max(0, size - len(known))]
    chosen = {*known.words, *others}
    absent = [word for word in known.words if word not in ranked.ids]
    return Vocabulary([*(word for word in ranked.words if word in chosen), *absent])


def report(sources: tuple[Source, ...], out: Path) -> list[dict[str, Any]]:
    """Return a row for each source: its tally, the tokens read, and the share of unknown words in its held-out text."""
    share = json.loads((out / "text" / "share.json").read_text(encoding="utf8"))
    vocabulary = Vocabulary.from_file(out / "corpus" / "vocab.txt")
    rows = []
    for source in sources:
        tally = json.loads((out / "clean" / f"{source.name}.json").read_text(encoding="utf8"))
        counts = count_words(read_sentences([out / "corpus" / "heldout" / f"{source.name}.txt"]))
        unknown = sum(count for word, count in counts.items() if word not in vocabulary.ids)
        rows.append(
            {"source": source.name, "kind": source.kind, "weight": source.weight}
            | tally
            | {"read": round(tally["kept"] * share[source.name])}
            | {"heldout": counts.total(), "unknown": unknown / counts.total()}
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows and the share of each kind as text."""
    columns = ("weight", "raw", "cleaned", "evaluation", "copies", "kept", "documents", "read", "heldout")
    total = sum(row["read"] for row in rows)
    lines = [f"{'source':24}" + "".join(f"{name:>12}" for name in columns) + f"{'unknown':>9}"]
    lines += [
        f"{row['source']:24}" + "".join(f"{row[name]:12,}" for name in columns) + f"{row['unknown']:9.2%}"
        for row in rows
    ]
    lines.append(f"{'all':36}" + "".join(f"{sum(row[name] for row in rows):12,}" for name in columns[1:]))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        lines.append(f"{kind:24}{sum(row['read'] for row in rows if row['kind'] == kind) / total:12.1%}")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing in the output folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of licensed texts and evaluation sets")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    show_progress = not args.quiet
    clean_all(SOURCES, args.data, args.out / "clean", show_progress)
    with lzma.open(KNOWN, "rt", encoding="utf8") as file:
        known = Vocabulary(file.read().split())
    appear(args.out / "text", lambda part: mix(SOURCES, args.out / "clean", part))
    appear(args.out / "corpus", lambda part: make_corpus(args.out / "text", part, known, VOCABULARY, show_progress))
    rows = report(SOURCES, args.out)
    (args.out / "report.json").write_text(json.dumps(rows, indent=1), encoding="utf8")
    print(table(rows))


def appear(out: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a folder, which appears when it is complete; do nothing if it exists."""
    if not out.exists():
        part = out.with_name(f".{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(out)


if __name__ == "__main__":
    main()
