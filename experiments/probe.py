"""Score the frozen vectors of biLMs with linear probes, word senses and language modeling; print a table.

    python experiments/probe.py MODEL [MODEL ...] [--softmax DIR] [--whole] [--data DIR] [--threads N] [--json FILE]

This trains no pipeline, so it scores a model in minutes. MODEL is one of
- a biLM: a name, directory, archive or file, as in `weights`; for a run of `pretrain`, its last checkpoint
- minilm: a 6-layer MiniLM (benchmarks/peers/minilm.txt); a word is the mean of its pieces
- bag-of-words: no vectors, but the set of words: of the text, or for a tag, of the word and its neighbors
- hashed: the same with the hashed features of spaCy's tok2vec: norm, prefix, suffix and shape
- FILE.json: a file that an earlier call wrote with --json; the table shows its rows, too

Each row is a layer (0 is the token embedding), the mean of all (`layers = "mean"`) or all of them concatenated.

wnut17, uner, ud, scicite, banking77, hate, spam: score in percent of a logistic regression on the development part. It
    sees words, or for texts the mean and maximum of their words. F1 of entities; accuracy of UPOS tags and of
    banking77; macro F1 of the others.
senses: percent of the 8 comparisons for each word of data/senses.tsv in which two uses in one sense are nearer (cosine)
    than two uses in different senses. Chance is 50.
masc: perplexity on MASC from zero state, mean of both directions. The softmax covers only the words of
    data/vocabulary.txt.xz (the 62,000 of the first bundled model); all others count as <UNK>.
blimp: percent of BLiMP's pairs whose grammatical sentence is more likely, for both directions together.

Probes learn from a sample of the training part, the same for all models. Test parts are not used. MASC and BLiMP use
every tenth sentence and pair, or everything with --whole.
"""

import argparse
import csv
import json
import lzma
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the peers' environments

import corpora
import numpy as np
import sklearn
import torch
from corpora import Item
from environments import SideError, note
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from spacy.training.iob_utils import iob_to_biluo, tags_to_entities
from vectors import (
    FEATURES,
    Array,
    Encode,
    Represent,
    Sentences,
    by_layer,
    by_vectors,
    golds,
    has_tags,
    load_bilm,
    load_minilm,
)

from spacy_elmo import formats
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining import blimp
from spacy_elmo.pretraining.evaluation import Evaluator, Perplexities, blocks
from spacy_elmo.pretraining.text import read_sentences
from spacy_elmo.pretraining.vocabulary import Vocabulary

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SENSES = Path(__file__).parent / "data" / "senses.tsv"
VOCABULARY = Path(__file__).parent / "data" / "vocabulary.txt.xz"
SENTENCES, TEXTS = 2_000, 3_000  # number of a training part to learn tags and labels from
EVERY = 10  # use every tenth of MASC's sentences and BLiMP's pairs

# Inverse strength of the regularization. Chosen once, on development parts, and the same for all models.
C_VECTORS, C_FEATURES = 0.01, 3.0

Row = dict[str, Any]


def main() -> None:
    """Score the models and print their table."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    try:
        rows = [row for model in args.models for row in rows_of(model, args)]
    except FileNotFoundError as error:
        sys.exit(
            f"{error.filename}: no such file; the corpora are not part of the project, name their folder with --data"
        )
    except (ElmoError, SideError) as error:
        sys.exit(str(error))
    print(render(rows))
    if args.json:
        versions = {"numpy": np.__version__, "scikit-learn": sklearn.__version__, "torch": torch.__version__}
        args.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model to score, see above")
    parser.add_argument(
        "--softmax", type=Path, metavar="DIR", help="with softmax.hdf5 and vocab.txt, if not the model's"
    )
    parser.add_argument("--whole", action="store_true", help="score all of MASC and BLiMP")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the corpora")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser.parse_args()


def rows_of(model: str, args: argparse.Namespace) -> list[Row]:
    """Return a row for each layer; scores of the model as a whole are in the row of the mean."""
    if model.endswith(".json"):
        return list(json.loads(Path(model).read_bytes())["rows"])
    start, about = time.perf_counter(), {"model": model}
    if model in FEATURES:
        rows = score_probes(FEATURES[model], C_FEATURES, args.data)
    elif model == "minilm":
        rows = score_vectors(load_minilm(), args.data)
    else:
        bilm, evaluator = load_bilm(model, args.softmax)
        about |= {"digest": formats.digest(bilm), "whole": args.whole}
        rows = score_vectors(bilm.encode, args.data)
        if evaluator:
            rows["mean"] |= score_predictions(evaluator, args.data, 1 if args.whole else EVERY)
    note(f"{model}: scored in {time.perf_counter() - start:.0f} s")
    return [{**about, "layer": layer, **row} for layer, row in rows.items()]


def render(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    scores = (*PROBES, "senses", "masc", "blimp")
    lines = [["model", "layer", *scores], ["---", "---", *("--:" for _ in scores)]]
    for row in rows:
        lines.append([row["model"], row["layer"], *(f"{row[name]:.1f}" if name in row else "" for name in scores)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Probes


def score_vectors(encode: Encode, data: Path) -> dict[str, Row]:
    """Score all layers of a model on everything that needs only vectors."""
    rows = score_probes(partial(by_vectors, encode), C_VECTORS, data)
    for layer, score in score_senses(encode).items():
        rows[layer]["senses"] = 100 * score
    return rows


def score_probes(represent: Represent, c: float, data: Path) -> dict[str, Row]:
    """Return a row of scores for each layer."""
    rows: dict[str, Row] = {}
    for name, (read, score) in PROBES.items():
        corpus = read(data)
        n = SENTENCES if has_tags(corpus.train) else TEXTS
        train, dev = random.Random(0).sample(corpus.train, min(n, len(corpus.train))), corpus.dev
        for layer, x, dev_x in represent(train, dev):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter
                model = LogisticRegression(C=c, max_iter=200, tol=1e-3).fit(x, golds(train))
            rows.setdefault(layer, {})[name] = 100 * score(dev, model.predict(dev_x).tolist())
        note(f"{name}: " + ", ".join(f"{layer} {row[name]:.1f}".strip() for layer, row in rows.items()))
    return rows


def entity_f1(items: Sequence[Item], predicted: Sequence[str]) -> float:
    """Return F1 of whole entities, from IOB tags."""
    tags, gold, found = iter(predicted), set(), set()
    for number, item in enumerate(items):
        gold |= {(number, *entity) for entity in tags_to_entities(iob_to_biluo(item.gold))}
        own = list(islice(tags, len(item.words)))
        found |= {(number, *entity) for entity in tags_to_entities(iob_to_biluo(own))}
    return 2 * len(gold & found) / max(1, len(gold) + len(found))


def accuracy(items: Sequence[Item], predicted: Sequence[str]) -> float:
    """Return the share of correct tags or labels."""
    return float(accuracy_score(golds(items), predicted))


def macro_f1(items: Sequence[Item], predicted: Sequence[str]) -> float:
    """Return the mean F1 of the labels."""
    return float(f1_score(golds(items), predicted, average="macro"))


PROBES = {
    "wnut17": (corpora.read_wnut17, entity_f1),
    "uner": (corpora.read_uner_ewt, entity_f1),
    "ud": (corpora.read_ud_ewt, accuracy),
    "scicite": (corpora.read_scicite, macro_f1),
    "banking77": (corpora.read_banking77, accuracy),
    "hate": (corpora.read_hate_offensive, macro_f1),
    "spam": (corpora.read_spam, macro_f1),
}


# Senses


def score_senses(encode: Encode) -> dict[str, float]:
    """Return the share of comparisons in which two uses of a word in one sense are nearer, for each layer."""
    uses = read_senses(SENSES)
    encoded = iter(encode([sentence for four in uses.values() for sentence in four]))
    won: dict[str, list[float]] = {}
    for word, four in uses.items():
        vectors = np.stack([next(encoded)[:, sentence.index(word)] for sentence in four], axis=1)
        for layer, x in by_layer(vectors).items():
            won.setdefault(layer, []).append(comparisons_won(x))
    return {layer: float(np.mean(shares)) for layer, shares in won.items()}


def read_senses(path: Path) -> dict[str, list[list[str]]]:
    """Return four sentences for each word: two in one sense, then two in another."""
    uses: dict[str, list[list[str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            uses.setdefault(row["word"], []).extend([row["first"].split(), row["second"].split()])
    return uses


def comparisons_won(x: Array) -> float:
    """Return the share of the 8 comparisons in which a pair of one sense is nearer than a pair of two; a tie is a half.

    x: `[4, width]`, the first two in one sense, the last two in another.
    """
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    differences = cosines[[0, 2], [1, 3]][:, None] - cosines[:2, 2:].reshape(1, 4)
    return float((np.sign(differences.round(6)) + 1).mean() / 2)


# Language modeling


def score_predictions(evaluator: Evaluator, data: Path, every: int) -> Row:
    """Score the biLM's predictions on one in `every` sentences of MASC and pairs of BLiMP."""
    row: Row = {}
    sentences = [words for words, _ in read_sentences([data / "heldout/masc/masc_tokenized.txt.xz"]) if words[0] != "#"]
    if restricted := over_reference_words(evaluator):
        row["masc"] = zero_state(restricted, sentences[::every]).perplexity
        note(f"masc: {row['masc']:.1f}")
    with tempfile.TemporaryDirectory() as directory, tarfile.open(data / "lm/blimp.tar.xz") as archive:
        archive.extractall(directory, filter="data")
        pairs = blimp.read_pairs(directory)[::every]
    tokenizer = corpora.english().tokenizer
    result = blimp.score(evaluator, pairs, lambda sentence: [token.text for token in tokenizer(sentence)])
    row["blimp"] = 100 * result.overall.sum
    note(f"blimp: {row['blimp']:.1f}")
    return row


def over_reference_words(evaluator: Evaluator) -> Evaluator | None:
    """Restrict the softmax to the reference vocabulary; return None if the model lacks some of its words."""
    with lzma.open(VOCABULARY, "rt", encoding="utf-8") as file:
        reference = Vocabulary(file.read().split())
    ids = evaluator.vocabulary.ids
    if missing := sum(word not in ids for word in reference.words):
        note(f"masc: no perplexity, {missing:,} words of {VOCABULARY.name} are not in the model's vocabulary")
        return None
    rows = torch.tensor([ids[word] for word in reference.words])
    softmax = Softmax(len(rows), evaluator.softmax.weight.shape[1], seed=None).requires_grad_(False)
    softmax.weight.copy_(evaluator.softmax.weight[rows])
    softmax.bias.copy_(evaluator.softmax.bias[rows])
    return Evaluator(evaluator.bilm, softmax, reference)


def zero_state(evaluator: Evaluator, sentences: Sentences) -> Perplexities:
    """Return the perplexities from zero state, as the model is used."""
    losses = sum((evaluator.zero_state_losses(block).sum(0) for block in blocks(sentences)), torch.zeros(2))
    return Perplexities.of(losses, sum(len(sentence) + 1 for sentence in sentences))


if __name__ == "__main__":
    main()
