"""ELMo vectors from one line: the same word in different senses, and words the model has never seen.

Run it with `make demo`, or with `python examples/quickstart.py` if spacy-elmo is installed.
"""

import spacy
from spacy.language import Language
from spacy.tokens import Token

# A word in one sense, again in the same sense, and in another one.
SENSES = {
    "bank": (
        "The central bank raised its interest rates again.",
        "The national bank lent money to small firms.",
        "Trees grew on the south bank of the river.",
    ),
    "cell": (
        "He spent two years in a prison cell.",
        "Guards locked the prisoners in a small cell.",
        "The nucleus of the cell contains the DNA.",
    ),
    "mouse": (
        "The owl hunts a mouse or a rat at night.",
        "The cat caught a mouse in the barn.",
        "Click the file with the left mouse button.",
    ),
    "apple": (
        "She ate an apple and a pear for lunch.",
        "He cut a ripe apple in half.",
        "In 1984 Apple introduced the Macintosh computer.",
    ),
    "bucket": (
        "He carried a bucket of sand to the beach.",
        "The farmer put a bucket of milk on the table.",
        "The old man kicked the bucket last year.",
    ),
}

# Words that no dictionary has, and the candidates for their nearest words.
MISSPELLED = ("goverment", "definately", "beatiful", "acommodation", "neccessary")
KNOWN = (
    *("government", "definitely", "beautiful", "accommodation", "necessary"),
    *("internet", "gardener", "terrible", "quickly", "mountain", "bicycle", "defiant", "accordion", "beautician"),
)


def find(nlp: Language, sentence: str, word: str) -> Token:
    """Find the token that is this word, in upper or lower case."""
    return next(token for token in nlp(sentence) if token.lower_ == word)


def main() -> None:
    """Print vectors, a table of senses, and the nearest words of misspelled ones."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    doc = nlp("I deposited money at the bank.")
    print(f"{doc.text!r}: doc._.elmo is {doc._.elmo.shape}, one vector per token")
    print(f"doc[5].vector[:4] = {doc[5].vector[:4].round(3)}\n")

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": "top"})  # the second LSTM layer, this model's best for senses
    print(f"{'similarity of the word in':28}{'the same sense':>16}{'another sense':>16}")
    for word, sentences in SENSES.items():
        first, same, other = (find(nlp, sentence, word) for sentence in sentences)
        print(f"{word:28}{first.similarity(same):16.2f}{first.similarity(other):16.2f}")
    for word, sentences in SENSES.items():
        print(f"\n  {word}: " + "\n        ".join(sentences))

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": 0})  # the token embedding, made of the word's characters alone
    known = {word: find(nlp, word, word) for word in KNOWN}
    print("\nNo word is unknown, because ELMo reads characters. Misspelled words, and the nearest correct ones:")
    for word in MISSPELLED:
        token = find(nlp, word, word)
        nearest = max(known, key=lambda candidate: token.similarity(known[candidate]))
        print(f"  {word:14} -> {nearest:14} {token.similarity(known[nearest]):.2f}")


if __name__ == "__main__":
    main()
