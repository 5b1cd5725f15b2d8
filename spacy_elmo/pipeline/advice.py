"""Docs in, warnings out, if the biLM reads them in a way that most users don't want. Each warning is given once."""

from collections.abc import Collection, Iterable, Sequence

from spacy import util
from spacy.language import Language
from spacy.tokens import Doc

from spacy_elmo.formats.known import is_same_language
from spacy_elmo.pipeline.spans import GetSpans, reads_sentences

# No sentence of natural text has more tokens.
_LONG = 200

_SETS_SENTENCES = {"token.is_sent_start", "doc.sents"}


def sentence_setters(nlp: Language, names: Iterable[str]) -> list[str]:
    """Return the names of the components that set sentence boundaries."""
    return [name for name in names if _SETS_SENTENCES & set(nlp.get_pipe_meta(name).assigns)]


class Advice:
    """Warns about what the biLM reads. Each kind of warning is given once.

    get_spans, max_length: as `get_spans` and `max_sequence_length` of `spacy-elmo.BiLM.v1`.
    """

    def __init__(self, get_spans: GetSpans, max_length: int) -> None:
        self._get_spans, self._max_length = get_spans, max_length
        self._given: set[str] = set()

    def check_docs(self, name: str, docs: Sequence[Doc]) -> None:
        """Warn of long Docs without sentence boundaries, and of sentences that are cut; name: of the component."""
        for doc in docs:
            if len(doc) <= _LONG:
                continue
            cut = f", cut into pieces of {self._max_length:,}" if len(doc) > self._max_length else ""
            if reads_sentences(self._get_spans) and not doc.has_annotation("SENT_START"):
                self._give(
                    "whole Docs",
                    f"{name}: a Doc of {len(doc):,} tokens has no sentence boundaries, so it is read as one sentence"
                    f"{cut}. "
                    f"The biLM was trained on sentences. Put a component that sets boundaries before {name} "
                    f'(nlp.add_pipe("sentencizer", before="{name}")). If you want it to read whole Docs, set get_spans '
                    "to spacy-elmo.doc_spans.v1",
                )
            elif len(doc) > self._max_length and (longest := self._longest(doc)) > self._max_length:
                self._give(
                    "cut",
                    f"{name}: a sentence of {longest:,} tokens is cut into pieces of {self._max_length:,}, "
                    "and each piece is read on its own. Set sentence boundaries, or raise max_sequence_length in "
                    f"[components.{name}.model]",
                )

    def _longest(self, doc: Doc) -> int:
        return max((len(span) for span in self._get_spans(doc)), default=0)

    def check_order(self, name: str, docs: Sequence[Doc], nlp: Language, listening: Collection[str]) -> None:
        """Warn if a component sets sentence boundaries after this one, which is too late.

        listening: components that listen to this one, so they have to come after it.
        """
        if not reads_sentences(self._get_spans) or name not in nlp.pipe_names:
            return
        if not any(len(doc) > 1 and not doc.has_annotation("SENT_START") for doc in docs):
            return
        behind = nlp.pipe_names[nlp.pipe_names.index(name) + 1 :]
        for setter in sentence_setters(nlp, (other for other in behind if other not in listening)):
            factory = nlp.get_pipe_meta(setter).factory
            named = "" if setter == factory else f', name="{setter}"'
            self._give(
                "order",
                f"{name}: {setter} comes after it, which is too late to set sentence boundaries, so the biLM reads "
                f'each Doc as one sentence. Put {setter} before it: nlp.remove_pipe("{setter}"), '
                f'then nlp.add_pipe("{factory}"{named}, before="{name}")',
            )

    def check_language(self, name: str, pipeline: str | None, model: object) -> None:
        """Warn if the biLM was trained on another language than the pipeline's; model: the language in its card."""
        if not pipeline or pipeline in ("xx", "mul") or not isinstance(model, str) or is_same_language(pipeline, model):
            return
        self._give(
            "language",
            f'{name}: the pipeline\'s language is "{pipeline}", but the biLM was trained on "{model}", so its vectors '
            f"mean little. To list models for your language: python -m spacy elmo download --list --lang {pipeline}",
        )

    def _give(self, kind: str, message: str) -> None:
        if kind not in self._given:
            self._given.add(kind)
            util.logger.warning(message)
