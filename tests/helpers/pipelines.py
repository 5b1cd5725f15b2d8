"""Pipelines with `elmo`, and with a tagger that listens to it: what it trains on, and what it has learned."""

import numpy as np
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from spacy_elmo.pipeline.mix import mix_weights
from spacy_elmo.pipeline.shim import shim_of

WIDTH = 32  # of tests/data/tiny_2l_skip
TAGGED = [
    ("I live in Paris .", ["PRON", "VERB", "ADP", "PROPN", "PUNCT"]),
    ("She works . He does not .", ["PRON", "VERB", "PUNCT", "PRON", "VERB", "PART", "PUNCT"]),
    ("", []),
    ("Peter met Anna", ["PROPN", "VERB", "PROPN"]),
]
HASHED = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": WIDTH,
    "depth": 1,
    "embed_size": 100,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}


def blank(weights, lang="en", model=None, **settings):
    """A pipeline of `elmo` alone; model: more settings of its model."""
    nlp = spacy.blank(lang)
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights), **(model or {})}, **settings})
    return nlp


def listener(**settings):
    """The config of a listener of ours."""
    return {"@architectures": "spacy-elmo.ElmoListener.v1", "width": WIDTH, **settings}


def tensor_listener(upstream="elmo", width=WIDTH):
    """The config of a listener of spaCy's, which reads `doc.tensor`."""
    return {"@architectures": "spacy.Tok2VecListener.v1", "width": width, "upstream": upstream}


def pipeline(weights, *, tok2vec=None, elmo=None, order=("sentencizer", "elmo"), **settings):
    """A pipeline with a tagger behind `elmo`.

    tok2vec: config of the tagger's, else that of a listener with `settings`; elmo: more config of `elmo`.
    """
    nlp = spacy.blank("en")
    for name in order:
        nlp.add_pipe(name, config={"model": {"weights": weights}, **(elmo or {})} if name == "elmo" else {})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tok2vec or listener(**settings)}})
    return nlp


def examples(nlp, tagged=TAGGED, pos=False):
    """An example of each text, with its tags; pos: these are its parts of speech, too."""
    docs = [(nlp.make_doc(text), tags) for text, tags in tagged]
    return [
        Example(doc, Doc(nlp.vocab, words=[token.text for token in doc], tags=tags, pos=tags if pos else None))
        for doc, tags in docs
    ]


def train(nlp, n_updates=30, exclude=(), annotates=("sentencizer",), tagged=TAGGED):
    """What `spacy train` does; returns the losses of each update."""
    data = examples(nlp, tagged)
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.02
    losses = []
    for _ in range(n_updates):
        losses.append(nlp.update(data, sgd=False, losses={}, exclude=list(exclude), annotates=list(annotates)))
        for name, pipe in nlp.pipeline:
            if name not in exclude and hasattr(pipe, "finish_update"):
                pipe.finish_update(optimizer)
    return losses


def tags(nlp, tagged=TAGGED):
    """The tags that a pipeline gives the texts."""
    return [[token.tag_ for token in nlp(nlp.make_doc(text))] for text, _ in tagged]


def scores(nlp, tagged=TAGGED):
    """The scores that the tagger gives the tokens of the texts."""
    tagger = nlp.get_pipe("tagger")
    annotated = [nlp.make_doc(text) for text, _ in tagged]
    for name, pipe in nlp.pipeline:
        if name != "tagger":
            annotated = list(pipe.pipe(annotated))
    return [np.asarray(score) for score in tagger.model.predict(annotated)]


def assert_same_scores(one, other, atol=1e-5):
    """Both are the scores of the same texts, and equal but for rounding."""
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def node_of(nlp, name, component="tagger"):
    """The node of this name in the model of a component."""
    return next(node for node in nlp.get_pipe(component).model.walk() if node.name == name)


def learned(nlp):
    """The weights of the layers, and gamma, that the tagger has learned."""
    return mix_weights(node_of(nlp, "elmo_scalar_mix"))


def bilm_of(nlp):
    """The biLM of `elmo`."""
    return shim_of(nlp.get_pipe("elmo").model).bilm


def parameters(nlp):
    """The weights of the biLM of `elmo`, as they are now."""
    return {name: parameter.detach().clone() for name, parameter in bilm_of(nlp).named_parameters()}


def moved(before, after):
    """The names of the weights that differ."""
    return {name for name in before if not before[name].equal(after[name])}
