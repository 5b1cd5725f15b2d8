"""Make the spaCy pipelines that tasks.py and cache.py compare: one for each task and variant.

All variants of a task have the same network above the embedding: a maxout layer with layer normalization that brings
the embedding to one width, spaCy's window encoder (MaxoutWindowEncoder), and the task's head. They differ in the
embedding:

- tok2vec: hash embeddings of form, prefix, suffix and shape (MultiHashEmbed), learned from scratch
- elmo_mean: the frozen biLM, with the mean of its layers
- elmo: the frozen biLM, with a learned mix of its layers
- elmo_concat: the same together with the hash embeddings
- elmo_finetuned: like elmo, but the biLM is trained with the task

Embedding, encoder and NER head are those of spaCy's own template for CPU. So are all other settings of the training:
optimizer, learning rate, dropout, batches that grow from 100 to 1,000 words. Text classifiers use the mean and maximum
of a wide and shallow encoder. With it, plain tok2vec on a tenth of banking77 has an accuracy of 72. With the encoder of
the other tasks it has 66, and with the template's TextCatEnsemble 52 (seed 0, 2,000 updates).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import spacy
from corpora import Item, Task
from spacy import util
from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Optimizer, fix_random_seed

from spacy_elmo import task_weights

VARIANTS = ("tok2vec", "elmo_mean", "elmo", "elmo_concat", "elmo_finetuned")
BASELINE = "tok2vec"
FINE_TUNED = "elmo_finetuned"
ENCODERS = {"ner": (96, 4), "tagger": (96, 4), "textcat": (256, 1)}  # width and depth

HEADS: dict[str, dict[str, Any]] = {
    "ner": {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
        "nO": None,
    },
    "tagger": {"@architectures": "spacy.Tagger.v2", "normalize": False, "nO": None},
    "textcat": {
        "@architectures": "spacy.TextCatReduce.v1",
        "exclusive_classes": True,
        "use_reduce_first": False,
        "use_reduce_last": False,
        "use_reduce_max": True,
        "use_reduce_mean": True,
        "nO": None,
    },
}


def components(
    component: str, variant: str, elmo_width: int, encoder: tuple[int, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the settings of a pipeline's components, in order, without the weights of `elmo`.

    encoder: width and depth of the encoder; None for the component's own.
    """
    tok2vec = embedding_and_encoder(variant, elmo_width, *(encoder or ENCODERS[component]))
    head = {component: {"model": {**HEADS[component], "tok2vec": tok2vec}}}
    if variant == BASELINE:
        return head
    elmo = {
        "frozen": variant != FINE_TUNED,
        "lr_scale": 0.1,
        "model": {"get_spans": {"@misc": "spacy-elmo.doc_spans.v1"}},
    }
    return {"elmo": elmo, **head}


def embedding_and_encoder(variant: str, elmo_width: int, width: int, depth: int) -> dict[str, Any]:
    """Return the settings of the part below the task's head."""
    encode = {
        "@architectures": "spacy.MaxoutWindowEncoder.v2",
        "width": width,
        "depth": depth,
        "window_size": 1,
        "maxout_pieces": 3,
    }
    hashed = {
        "@architectures": "spacy.MultiHashEmbed.v2",
        "width": width,
        "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
        "rows": [5000, 1000, 2500, 2500],
        "include_static_vectors": False,
    }
    if variant == BASELINE:
        return {"@architectures": "spacy.Tok2Vec.v2", "embed": hashed, "encode": encode}
    listener = {
        "@architectures": "spacy-elmo.ElmoListener.v1",
        "width": elmo_width,
        "mix": "mean" if variant == "elmo_mean" else "learned",
    }
    concat = {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": listener, "width": width, "encode": encode}
    return {**concat, "embed": hashed} if variant == "elmo_concat" else concat


def make_pipeline(settings: dict[str, dict[str, Any]], weights: str, **elmo: Any) -> Language:
    """Make an untrained pipeline.

    settings: output of `components`.
    weights: of the biLM; elmo: further settings of the `elmo` component.
    """
    nlp = spacy.blank("en")
    for name, config in settings.items():
        if name == "elmo":
            config = {**config, **elmo, "model": {**config["model"], "weights": weights}}
        nlp.add_pipe(name, config=config)
    return nlp


def make_examples(vocab: Vocab, items: Iterable[Item], task: Task, labels: Sequence[str]) -> list[Example]:
    """Make the examples for spaCy's training and scoring."""
    return [Example(make_doc(vocab, item), reference(vocab, item, task, labels)) for item in items]


def make_doc(vocab: Vocab, item: Item) -> Doc:
    """Make a Doc without annotation."""
    return Doc(vocab, words=item.words)


def reference(vocab: Vocab, item: Item, task: Task, labels: Sequence[str]) -> Doc:
    """Make a Doc with its gold annotation."""
    if task.component == "ner":
        return Doc(vocab, words=item.words, ents=list(item.gold))
    if task.component == "tagger":
        return Doc(vocab, words=item.words, tags=list(item.gold))
    doc = make_doc(vocab, item)
    doc.cats = {label: float(label == item.gold) for label in labels}
    return doc


# Training, like the loop of `spacy train`


class Training:
    """Runs the updates of a pipeline: with the same seed, every variant gets the same batches in the same order.

    batch_words: words per batch; None for the batches of spaCy's template.
    """

    def __init__(self, nlp: Language, examples: Sequence[Example], seed: int, batch_words: int | None = None) -> None:
        fix_random_seed(seed)
        self.nlp = nlp
        self.examples = list(examples)
        self.optimizer: Optimizer = nlp.initialize(lambda: self.examples)
        settings = util.registry.resolve(nlp.config.interpolate()["training"], schema=ConfigSchemaTraining)
        self.dropout: float = settings["dropout"]
        self._batcher: Callable[[Iterable[Example]], Iterable[list[Example]]] = settings["batcher"]
        if batch_words is not None:
            make_batcher = util.registry.batchers.get("spacy.batch_by_words.v1")
            self._batcher = make_batcher(size=batch_words, tolerance=0.2, discard_oversize=False)
        self._random = random.Random(seed)

    def epoch(self) -> Iterator[list[Example]]:
        """Yield the batches of one pass over the training data, in a new random order."""
        self._random.shuffle(self.examples)
        yield from self._batcher(self.examples)

    def batches(self) -> Iterator[list[Example]]:
        """Yield batches without end."""
        while True:
            yield from self.epoch()

    def update(self, batch: list[Example]) -> None:
        """Learn from a batch."""
        self.nlp.update(batch, drop=self.dropout, sgd=False)  # type: ignore[arg-type] # as in spaCy's own loop
        for _, component in self.nlp.pipeline:
            component.finish_update(self.optimizer)  # type: ignore[attr-defined] # all of ours are trainable
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]


def learned_mix(nlp: Language, component: str) -> dict[str, Any] | None:
    """Return the layer weights and gamma that a component's listener has learned; None without such a listener."""
    for mix in task_weights(nlp).get(component, []):
        if mix.weights is not None:
            return {"weights": mix.weights, "gamma": mix.gamma}
    return None
