"""Pipelines with `elmo` and a tagger that listens to it: their training data, and what they have learned."""

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
    """Make a pipeline with `elmo` alone. model: more settings of its model."""
    nlp = spacy.blank(lang)
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights), **(model or {})}, **settings})
    return nlp


def listener(**settings):
    """Return the config of a listener of spacy-elmo."""
    return {"@architectures": "spacy-elmo.ElmoListener.v1", "width": WIDTH, **settings}


def tensor_listener(upstream="elmo", width=WIDTH):
    """Return the config of a spaCy listener, which reads `doc.tensor`."""
    return {"@architectures": "spacy.Tok2VecListener.v1", "width": width, "upstream": upstream}


def pipeline(weights, *, tok2vec=None, elmo=None, order=("sentencizer", "elmo"), **settings):
    """Make a pipeline with a tagger after `elmo`.

    tok2vec: config of the tagger's tok2vec, by default a listener with `settings`; elmo: more config of `elmo`.
    """
    nlp = spacy.blank("en")
    for name in order:
        nlp.add_pipe(name, config={"model": {"weights": weights}, **(elmo or {})} if name == "elmo" else {})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": tok2vec or listener(**settings)}})
    return nlp


def examples(nlp, tagged=TAGGED, pos=False):
    """Make an example of each text with its tags. pos: use the tags as parts of speech, too."""
    docs = [(nlp.make_doc(text), tags) for text, tags in tagged]
    return [
        Example(doc, Doc(nlp.vocab, words=[token.text for token in doc], tags=tags, pos=tags if pos else None))
        for doc, tags in docs
    ]


def train(nlp, n_updates=30, exclude=(), annotates=("sentencizer",), tagged=TAGGED):
    """Train as `spacy train` does. Returns the losses of each update."""
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
    """Return the tags that a pipeline gives the texts."""
    return [[token.tag_ for token in nlp(nlp.make_doc(text))] for text, _ in tagged]


def scores(nlp, tagged=TAGGED):
    """Return the scores that the tagger gives the tokens of the texts."""
    tagger = nlp.get_pipe("tagger")
    annotated = [nlp.make_doc(text) for text, _ in tagged]
    for name, pipe in nlp.pipeline:
        if name != "tagger":
            annotated = list(pipe.pipe(annotated))
    return [np.asarray(score) for score in tagger.model.predict(annotated)]


def assert_same_scores(one, other, atol=1e-5):
    """Check that two sets of scores are of the same texts, and equal except for rounding."""
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def node_of(nlp, name, component="tagger"):
    """Return the node of this name in the model of a component."""
    return next(node for node in nlp.get_pipe(component).model.walk() if node.name == name)


def learned(nlp):
    """Return the layer weights and gamma that the tagger has learned."""
    return mix_weights(node_of(nlp, "elmo_scalar_mix"))


def bilm_of(nlp):
    """Return the biLM of `elmo`."""
    return shim_of(nlp.get_pipe("elmo").model).bilm


def parameters(nlp):
    """Return the current weights of `elmo`'s biLM."""
    return {name: parameter.detach().clone() for name, parameter in bilm_of(nlp).named_parameters()}


def moved(before, after):
    """Return the names of the weights that differ."""
    return {name for name in before if not before[name].equal(after[name])}
