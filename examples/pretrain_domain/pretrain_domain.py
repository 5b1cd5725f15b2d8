"""Train ELMo on the texts of one domain: from a CSV to a corpus, a model, its perplexities and word distances.

Run it with `python examples/pretrain_domain/pretrain_domain.py OUT`. README.md explains each step.
"""

import argparse
import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import spacy
from spacy.language import Language

from spacy_elmo.bilm.characters import EOS
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.process import keep_freed_memory
from spacy_elmo.pretraining.run import HELDOUT_METRICS, pretrain
from spacy_elmo.pretraining.text import find_files, read_sentences
from spacy_elmo.pretraining.vocabulary import Vocabulary, count_words
from spacy_elmo.tools.prepare import prepare, summary

HERE = Path(__file__).resolve().parent
BUNDLED = "en_elmo_sm"

# Words are compared in one sentence, so that only the word differs.
FRAME = "Why is my {} not working?"
ALIKE = (
    ("card", "account"),
    ("transfer", "payment"),
    ("fee", "charge"),
    ("Visa", "Mastercard"),
    ("cheque", "check"),
    ("PIN", "passcode"),
    ("refund", "withdrawal"),
)
OUTSIDE = ("giraffe", "sonata", "volcano", "glacier", "violin", "senator")

# A word in one sense, again in the same sense, and in another one. No sentence is in the corpus.
SENSES = {
    "order": (
        "Can I order another card today?",
        "How would I order one virtual card?",
        "What must I do in order to verify my identity?",
    ),
    "cash": (
        "I was given the wrong amount of cash today.",
        "How do I get cash out of this ATM?",
        "Where can I cash a cheque?",
    ),
    "transfer": (
        "My last transfer is still pending.",
        "Is there any fee for my transfer?",
        "How do I transfer money to my friend?",
    ),
    "check": (
        "I deposited one check yesterday.",
        "My check is still not in my account.",
        "Can you check what happened to my refund?",
    ),
    "time": (
        "What time does the ATM open?",
        "At what time will my transfer arrive?",
        "I was charged a second time today.",
    ),
}

Vector = npt.NDArray[np.float32]
Pair = tuple[str, str]


def main() -> None:
    """Run all steps and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new directory for the corpus and the model")
    parser.add_argument("--csv", type=Path, default=HERE / "banking.csv", help="texts, in a column named text")
    parser.add_argument("--config", type=Path, default=HERE / "pretrain.cfg", help="settings of the training")
    parser.add_argument("--init-from", metavar="MODEL", help=f"model to start from, for example {BUNDLED}")
    arguments = parser.parse_args()
    out, corpus, model = arguments.out, arguments.out / "corpus", arguments.out / "model"

    out.mkdir(parents=True, exist_ok=True)
    text = out / f"{arguments.csv.stem}.txt"
    print(f"{write_texts(arguments.csv, text):,} texts from {arguments.csv.name}\n")

    print(summary(prepare(text, corpus, held_out=0.05, min_count=2, dedupe=True)), "\n")

    keep_freed_memory()
    pretrain(corpus, model, Config.from_file(arguments.config), init_from=arguments.init_from)

    print(perplexity_table(corpus, model))
    elmo = {"en_elmo_sm": load(BUNDLED), "this model": load(model)}
    print("\n" + distance_table(elmo))
    print("\n" + sense_table(elmo))


def write_texts(source: Path, target: Path) -> int:
    """Write the column `text` of a CSV file in the format of `prepare`, each text a document; return their number.

    Independent texts should be separate documents: training puts documents in a new order in each epoch, and
    `prepare` holds out whole documents.
    """
    with source.open(encoding="utf-8", newline="") as file:
        texts = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    target.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return len(texts)


def perplexity_table(corpus: Path, model: Path) -> str:
    """Return the held-out perplexity of guessing, of the word frequencies alone, and of the model after each epoch."""
    vocabulary = Vocabulary.from_file(corpus / "vocab.txt")
    lines = [f"{'held-out perplexity':<28}{'zero state':>12}{'carried state':>15}"]
    lines.append(f"{'any word is as likely':<28}{len(vocabulary):>12.1f}")
    lines.append(f"{'frequent words are likelier':<28}{frequency_perplexity(corpus, vocabulary):>12.1f}")
    for epoch, line in enumerate((model / HELDOUT_METRICS).read_text(encoding="utf-8").splitlines(), start=1):
        figures = json.loads(line)
        zero_state, carried = figures["zero_state"]["perplexity"], figures["perplexity"]
        lines.append(f"{f'the model, epoch {epoch}':<28}{zero_state:>12.1f}{carried:>15.1f}")
    return "\n".join(lines)


def frequency_perplexity(corpus: Path, vocabulary: Vocabulary) -> float:
    """Return the held-out perplexity of a model that knows the frequency of each word, but reads no context."""
    train, heldout = (_count_entries(corpus / part, vocabulary) for part in ("train", "heldout"))
    total = train.total() + len(vocabulary)
    loss = -sum(count * math.log((train[entry] + 1) / total) for entry, count in heldout.items())
    return math.exp(loss / heldout.total())


def _count_entries(part: Path, vocabulary: Vocabulary) -> Counter[int]:
    """Count how often each entry of the vocabulary must be predicted: the words and the end of each sentence."""
    sentences = list(read_sentences(find_files(part)))
    counts = Counter({vocabulary.ids[EOS]: len(sentences)})
    for word, count in count_words(sentences).items():
        counts[vocabulary.ids.get(word, vocabulary.unknown)] += count
    return counts


def load(weights: str | Path) -> Language:
    """Make a pipeline that gives each token this model's vector: the mean of its layers."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights)}})
    return nlp


def vector(nlp: Language, sentence: str, word: str) -> Vector:
    """Return the vector of a word in a sentence."""
    token = next(token for token in nlp(sentence) if token.text == word)
    return np.asarray(token.vector)


@dataclass(frozen=True)
class Distance:
    """The distance of two vectors, or the mean over many pairs of them."""

    cosine: float
    euclidean: float

    @classmethod
    def between(cls, a: Vector, b: Vector) -> "Distance":
        """Compute both distances. Cosine distance is 1 - cosine: 0 for the same direction, 1 for orthogonal vectors."""
        cosine = 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))
        return cls(cosine, float(np.linalg.norm(a - b)))

    @classmethod
    def mean(cls, distances: Iterable["Distance"]) -> "Distance":
        """Compute the mean of both distances."""
        cosine, euclidean = np.mean([(one.cosine, one.euclidean) for one in distances], axis=0).tolist()
        return cls(cosine, euclidean)

    def __str__(self) -> str:
        return f"{self.cosine:>12.2f}{self.euclidean:>12.2f}"


def word_distances(nlp: Language, pairs: Sequence[Pair]) -> dict[Pair, Distance]:
    """Compute the distance of the words of each pair, both in the same sentence."""
    vectors = {word: vector(nlp, FRAME.format(word), word) for pair in pairs for word in pair}
    return {(a, b): Distance.between(vectors[a], vectors[b]) for a, b in pairs}


def distance_table(models: dict[str, Language]) -> str:
    """Compare words that the domain uses alike, other words of the domain, and words of the domain with others."""
    domain = [word for pair in ALIKE for word in pair]
    outside = list(product(domain, OUTSIDE))
    different = [pair for pair in combinations(domain, 2) if pair not in ALIKE]
    pairs = [*ALIKE, *different, *outside]
    distances = [word_distances(nlp, pairs) for nlp in models.values()]
    shown = [*ALIKE, *zip(domain[::2], OUTSIDE, strict=False)]

    lines = [f"{'':<32}" + "".join(f"{name:>24}" for name in models)]
    lines.append(f"{FRAME.format('...'):<32}" + f"{'cosine':>12}{'Euclidean':>12}" * len(models))
    for pair in shown:
        lines.append(f"{' / '.join(pair):<32}" + "".join(str(of_model[pair]) for of_model in distances))
    for name, group in (("used alike", ALIKE), ("of the domain", different), ("one of them outside", outside)):
        means = (Distance.mean(of_model[pair] for pair in group) for of_model in distances)
        lines.append(f"{f'{name}, mean of {len(group)}':<32}" + "".join(map(str, means)))
    return "\n".join(lines)


def sense_table(models: dict[str, Language]) -> str:
    """Show the cosine distances of a word to itself, in the same sense and in another one."""
    lines = [f"{'':<32}" + "".join(f"{name:>24}" for name in models)]
    lines.append(f"{'cosine distance in':<32}" + f"{'same sense':>12}{'another':>12}" * len(models))
    for word, sentences in SENSES.items():
        line = f"{word:<32}"
        for nlp in models.values():
            first, same, other = (vector(nlp, sentence, word) for sentence in sentences)
            line += "".join(f"{Distance.between(first, second).cosine:>12.2f}" for second in (same, other))
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except ElmoError as error:
        sys.exit(f"✘ {error}")
