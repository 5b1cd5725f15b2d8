"""Sentences or whole Docs: the component reads later what it reads in training, or it warns."""

import pytest
import spacy

from helpers.pipelines import examples, pipeline, tags, tensor_listener, train


def test_reads_in_training_what_it_reads_later_where_sentences_are_set_behind_it(tiny, seen, caplog):
    spacy.util.logger.propagate = True
    nlp = pipeline(tiny, order=["elmo", "sentencizer"])
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    read = []
    for run in (lambda: nlp.update(data, sgd=optimizer, annotates=["sentencizer"]), lambda: nlp.evaluate(data)):
        seen.clear()
        nlp.get_pipe("elmo").memory.clear()
        run()
        read.append(sorted(seen))
    assert read[0] == read[1]
    assert "annotating_components" not in caplog.text


def test_training_docs_without_sentences_are_warned_about_once(tiny, caplog):
    spacy.util.logger.propagate = True
    train(pipeline(tiny), 3, annotates=())
    assert caplog.text.count("annotating_components") == 1
    assert "'sentencizer'" in caplog.text
    caplog.clear()
    train(pipeline(tiny), 3)
    nlp = pipeline(tiny)
    nlp.remove_pipe("sentencizer")
    train(nlp, 3, annotates=())
    nlp("We")  # one token always has its boundary set
    assert "annotating_components" not in caplog.text


@pytest.mark.parametrize("annotates", [["sentencizer"], ["elmo", "sentencizer"]])
def test_frozen_component_warns_when_it_first_reads_no_sentences(frozen_component, caplog, annotates):
    spacy.util.logger.propagate = True
    nlp, update = frozen_component(order=["elmo", "sentencizer"])
    update(annotates)
    assert "annotating_components" not in caplog.text
    for _ in range(2):
        nlp.evaluate(examples(nlp))
    assert caplog.text.count("list elmo in [training] annotating_components") == ("elmo" not in annotates)


@pytest.mark.parametrize("spacys", [False, True])
@pytest.mark.parametrize("annotates", [["sentencizer", "elmo"], ["elmo"]])
def test_frozen_component_warns_when_it_first_reads_sentences(frozen_component, caplog, annotates, spacys):
    """spaCy neither initializes nor updates it, so the first evaluation shows it."""
    spacy.util.logger.propagate = True
    nlp, update = frozen_component(tok2vec=tensor_listener() if spacys else None)
    update(annotates if spacys else annotates[:-1])
    assert "annotating_components" not in caplog.text
    for _ in range(2):
        nlp.evaluate(examples(nlp))
    assert caplog.text.count("[training] annotating_components") == ("sentencizer" not in annotates)


def test_sentences_are_nothing_to_one_that_reads_whole_docs(tiny, caplog):
    spacy.util.logger.propagate = True
    nlp = pipeline(tiny, elmo={"model": {"weights": tiny, "get_spans": {"@misc": "spacy-elmo.doc_spans.v1"}}})
    train(nlp, 2, annotates=())
    tags(nlp)
    assert "annotating_components" not in caplog.text
