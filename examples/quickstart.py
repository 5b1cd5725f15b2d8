"""ELMo vectors from one line: words in two senses each, and words the model has never seen.

Run it with `make demo`, or with `python examples/quickstart.py` if spacy-elmo is installed.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Doc

# Everyday words in two senses, two sentences each. The list was made before any model was scored on it.
SENSES = Path(__file__).resolve().parents[1] / "experiments" / "data" / "senses.tsv"
N_SHOWN = 10

# Misspelled words, and the candidates for their nearest words.
MISSPELLED = ("goverment", "definately", "beatiful", "acommodation", "neccessary")
KNOWN = (
    *("government", "definitely", "beautiful", "accommodation", "necessary"),
    *("internet", "gardener", "terrible", "quickly", "mountain", "bicycle", "defiant", "accordion", "beautician"),
)


class Row(NamedTuple):
    """A word's two senses, the mean similarities of its uses, and how often two uses in one sense are nearer, of 8."""

    senses: str
    same: float
    different: float
    nearer: int


def compare_senses(nlp: Language) -> dict[str, Row]:
    """Compare each pair of a word's uses in one sense with each pair in two senses."""
    rows: dict[str, list[dict[str, str]]] = {}
    with SENSES.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            rows.setdefault(row["word"], []).append(row)
    table = {}
    for word, senses in rows.items():
        sentences = [sense[number].split() for sense in senses for number in ("first", "second")]
        docs = nlp.pipe(Doc(nlp.vocab, words=sentence) for sentence in sentences)
        uses = [doc[sentence.index(word)] for doc, sentence in zip(docs, sentences, strict=True)]
        same = [uses[0].similarity(uses[1]), uses[2].similarity(uses[3])]
        different = [one.similarity(other) for one in uses[:2] for other in uses[2:]]
        nearer = sum(one > other for one in same for other in different)
        names = ", ".join(sense["sense"] for sense in senses)
        table[word] = Row(names, sum(same) / len(same), sum(different) / len(different), nearer)
    return table


def main() -> None:
    """Print vectors, a table of senses, and the nearest words of misspelled ones."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    doc = nlp("I deposited money at the bank.")
    print(f"{doc.text!r}: doc._.elmo is {doc._.elmo.shape}, one vector per token")
    print(f"doc[5].vector[:4] = {doc[5].vector[:4].round(3)}\n")

    table = compare_senses(nlp)
    print(f"The first {N_SHOWN} words of {SENSES.name}: how similar are the vectors of two uses?")
    print(f"{'word':12}{'senses':26}{'same sense':>12}{'different':>12}{'nearer if the same':>20}")
    for word, row in list(table.items())[:N_SHOWN]:
        print(f"{word:12}{row.senses:26}{row.same:12.2f}{row.different:12.2f}{f'{row.nearer} of 8':>20}")
    right = sum(row.nearer for row in table.values()) / (8 * len(table))
    print(f"All {len(table)} words: {right:.1%} are nearer if the sense is the same (chance: 50%)\n")

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": 0})  # the token embedding, made of the word's characters alone
    known = {word: nlp(word)[0] for word in KNOWN}
    print("No word is unknown, because ELMo reads characters. Misspelled words, and the nearest correct ones:")
    for word in MISSPELLED:
        token = nlp(word)[0]
        nearest = max(known, key=lambda candidate: token.similarity(known[candidate]))
        print(f"  {word:14} -> {nearest:14} {token.similarity(known[nearest]):.2f}")


if __name__ == "__main__":
    main()
