"""ELMo next to other features and before an encoder, and the component's own biLM instead of a listener."""

import numpy as np
import pytest
import spacy

from helpers.pipelines import (
    TAGGED,
    WIDTH,
    assert_same_scores,
    examples,
    learned,
    listener,
    pipeline,
    scores,
    tags,
    train,
)
from spacy_elmo import ElmoError


def test_concatenation_with_hashed_features_in_front_of_an_encoder(tiny):
    embed = {"@architectures": "spacy.MultiHashEmbed.v2", "width": 16, "attrs": ["NORM"], "rows": [100]}
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 24, "window_size": 1, "maxout_pieces": 2}
    tok2vec = {
        "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
        "elmo": listener(),
        "width": 24,
        "embed": {**embed, "include_static_vectors": False},
        "encode": {**encode, "depth": 1},
    }
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 30)
    assert tags(nlp) == [right for _, right in TAGGED]
    assert learned(nlp)[1] != 1.0


def test_bilstm_encoder_over_elmo_and_static_vectors_learns(tiny):
    """Like the paper's model for NER."""
    tok2vec = {
        "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
        "width": 24,
        "elmo": listener(),
        "embed": {
            "@architectures": "spacy.MultiHashEmbed.v2",
            "width": 24,
            "attrs": ["NORM"],
            "rows": [100],
            "include_static_vectors": True,
        },
        "encode": {"@architectures": "spacy.TorchBiLSTMEncoder.v1", "width": 24, "depth": 1, "dropout": 0.0},
    }
    nlp = pipeline(tiny, tok2vec=tok2vec)
    for text, _ in TAGGED:
        for word in text.split():
            nlp.vocab.set_vector(word, np.random.default_rng(len(word)).normal(size=8).astype("f"))
    data = examples(nlp)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    for _ in range(60):
        nlp.update(data, sgd=optimizer, annotates=["sentencizer"])
    assert tags(nlp) == [right for _, right in TAGGED]
    assert learned(nlp)[1] != 1.0


def test_encoder_of_another_width_than_the_concatenation_is_an_error(tiny):
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 32, "depth": 1, "window_size": 1}
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener(), "width": 24}
    with pytest.raises(ElmoError, match=r"width is 24, but its encoder's width is 32"):
        pipeline(tiny, tok2vec={**concat, "encode": {**encode, "maxout_pieces": 2}})


def test_bilm_of_the_components_own(tiny):
    bilm = {"@architectures": "spacy-elmo.BiLM.v1", "weights": tiny}
    bilm["get_spans"] = {"@misc": "spacy-elmo.sentence_spans.v1"}
    tok2vec = {"@architectures": "spacy-elmo.Tok2Vec.v1", "bilm": bilm, "width": WIDTH}
    inline, listening = spacy.blank("en"), pipeline(tiny)
    inline.add_pipe("sentencizer")
    inline.add_pipe("tagger", config={"model": {"tok2vec": tok2vec}})
    results = []
    for nlp in (inline, listening):
        spacy.util.fix_random_seed(0)
        train(nlp, 10)
        results.append(scores(nlp))
    assert_same_scores(*results, atol=1e-4)
