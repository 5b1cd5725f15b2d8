"""Warnings, once and with advice, when text is not read as most users want."""

import pytest
import spacy
from spacy.tokens import Doc

from helpers.pipelines import blank, pipeline

LONG = " ".join(["We sat here ."] * 100)


@pytest.fixture
def warnings(caplog):
    """Return the messages that were logged since the last call."""
    spacy.util.logger.propagate = True

    def read():
        text = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return text

    return read


def test_a_long_doc_without_sentences_is_warned_about_once(tiny, warnings):
    nlp = blank(tiny)
    for _ in range(2):
        nlp(LONG)
    (warning,) = warnings()
    assert "a Doc of 400 tokens has no sentence boundaries" in warning
    assert 'nlp.add_pipe("sentencizer", before="elmo")' in warning


def test_that_it_is_cut_too_is_said(tiny, warnings):
    blank(tiny, model={"max_sequence_length": 300})(LONG)
    (warning,) = warnings()
    assert "read as one sentence, cut into pieces of 300. " in warning


@pytest.mark.parametrize("why_not", ["sentences", "short", "whole Docs are asked for"])
def test_other_docs_are_not(tiny, warnings, why_not):
    nlp = blank(
        tiny, model={"get_spans": {"@misc": f"spacy-elmo.{'doc' if 'whole' in why_not else 'sentence'}_spans.v1"}}
    )
    if why_not == "sentences":
        nlp.add_pipe("sentencizer", before="elmo")
    nlp("We sat here. It rained." if why_not == "short" else LONG)
    assert warnings() == []


@pytest.mark.parametrize("spans", ["sentence", "doc"])
def test_a_sentence_that_is_cut_is_warned_about_once(tiny, warnings, spans):
    nlp = blank(tiny, model={"max_sequence_length": 300, "get_spans": {"@misc": f"spacy-elmo.{spans}_spans.v1"}})
    elmo = nlp.get_pipe("elmo")
    for _ in range(2):
        elmo(Doc(nlp.vocab, words=["a"] * 301, sent_starts=[True] + [False] * 300))
    (warning,) = warnings()
    assert "a sentence of 301 tokens is cut into pieces of 300" in warning
    assert "raise max_sequence_length in [components.elmo.model]" in warning
    elmo(Doc(nlp.vocab, words=["a"] * 300, sent_starts=[True] + [False] * 299))
    assert warnings() == []


def test_a_splitter_behind_is_warned_about_once(tiny, warnings):
    nlp = blank(tiny)
    nlp.add_pipe("sentencizer", name="splitter")
    for _ in range(2):
        nlp("We sat here. It rained.")
    (warning,) = warnings()
    assert warning.startswith("elmo: splitter comes after it, which is too late")
    assert 'nlp.add_pipe("sentencizer", name="splitter", before="elmo")' in warning


def test_a_splitter_before_or_none_is_not(tiny, warnings):
    for order in (["sentencizer", "elmo"], ["sentencizer", "elmo", "other"], ["elmo"]):
        nlp = spacy.blank("en")
        for name in order:
            config = {"model": {"weights": tiny}} if name == "elmo" else {}
            nlp.add_pipe("elmo" if name == "elmo" else "sentencizer", name=name, config=config)
        nlp("We sat here. It rained.")
    assert warnings() == []


def test_a_parser_that_listens_has_to_stand_behind(tiny, warnings):
    nlp = pipeline(tiny, order=["elmo"])
    listener = nlp.get_pipe_config("tagger")["model"]["tok2vec"]
    nlp.add_pipe("senter", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": dict(listener)}})
    nlp.get_pipe("tagger").add_label("N")
    nlp.initialize()
    nlp("We sat here. It rained.")
    assert not any("comes after it" in warning for warning in warnings())


@pytest.mark.parametrize(
    ("lang", "model", "is_warned"),
    [("de", "en", True), ("en", "en", False), ("xx", "en", False), ("de", None, False), ("nb", "no", False)],
)
def test_a_model_of_another_language_is_warned_about_once(tiny, warnings, lang, model, is_warned):
    nlp = blank(tiny, lang=lang)
    nlp.get_pipe("elmo").model.shims[0].bilm.card = {"language": model} if model else {}
    for _ in range(2):
        nlp("ein Satz")
    told = warnings()
    assert len(told) == is_warned
    if is_warned:
        assert '"de", but the biLM was trained on "en"' in told[0]
        assert "download --list --lang de" in told[0]


def test_the_bundled_model_is_english(warnings):
    nlp = spacy.blank("de")
    nlp.add_pipe("elmo")
    nlp("ein Satz")
    assert len(warnings()) == 1


def test_what_it_needs_shows_in_analyze_pipes(tiny):
    nlp = blank(tiny)
    assert nlp.analyze_pipes()["problems"]["elmo"] == ["token.is_sent_start"]
    nlp.add_pipe("sentencizer", before="elmo")
    assert nlp.analyze_pipes()["problems"]["elmo"] == []
