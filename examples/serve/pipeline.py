"""Load a pipeline, find out what it offers, and answer texts as JSON. See README.md."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import to_json

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

Kind = Literal["vector", "vectors", "entities", "classes"]


class Pipeline:
    """A loaded spaCy pipeline with `elmo` in it.

    path: path or name of a saved or installed pipeline; empty for a blank English one with the bundled model.
    report: called with the current stage while it loads.
    """

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        report("importing spaCy and torch")
        import spacy

        report("reading the pipeline")
        if path:
            self.nlp: Language = spacy.load(path)
        else:
            self.nlp = spacy.blank("en")
            self.nlp.add_pipe("elmo")
        self.offers = _offers(self.nlp)
        report("warming up")
        self([("Read the weights and lay them out .", self.offers)])

    def __call__(self, questions: Sequence[tuple[str, Sequence[Kind]]]) -> list[str]:
        """Answer texts as JSON objects, each with the kinds that are wanted for it."""
        with self.nlp.memory_zone():  # frees what these texts add to the vocabulary
            return [_to_json(_tell(doc, kinds)) for doc, kinds in self.nlp.pipe(questions, as_tuples=True)]


def _to_json(told: dict[str, Any]) -> str:
    """Write JSON many times faster than `json`: nothing else in the process can run meanwhile."""
    return to_json(told).decode()


def _offers(nlp: "Language") -> list[Kind]:
    """Return what this pipeline offers."""
    made = {target for name in nlp.pipe_names for target in nlp.get_pipe_meta(name).assigns}
    sources: dict[Kind, str] = {
        "vector": "doc._.elmo",
        "vectors": "doc._.elmo",
        "entities": "doc.ents",
        "classes": "doc.cats",
    }
    return [kind for kind, source in sources.items() if source in made]


def _tell(doc: "Doc", kinds: Sequence[Kind]) -> dict[str, Any]:
    return {"tokens": [token.text for token in doc]} | {kind: _TELL[kind](doc) for kind in kinds}


def _mean(doc: "Doc") -> list[float]:
    """Return the mean of the vectors of the tokens that are not whitespace; zeros if there are none."""
    words = [token.i for token in doc if not token.is_space]
    mean: list[float] = (doc._.elmo[words].sum(axis=0) / max(1, len(words))).tolist()
    return mean


_TELL: dict[Kind, Callable[["Doc"], Any]] = {
    "vector": _mean,
    "vectors": lambda doc: doc._.elmo.tolist(),
    "entities": lambda doc: [
        {"text": span.text, "label": span.label_, "start": span.start_char, "end": span.end_char} for span in doc.ents
    ],
    "classes": lambda doc: doc.cats,
}
