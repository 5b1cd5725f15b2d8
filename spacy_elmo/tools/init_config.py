"""Builds a complete config for `spacy train` from names of components (behind `init-config --pipeline`).

    sentencizer -> elmo (frozen) -> the chosen components, each with its own ElmoListener

The files in `spacy_elmo/configs/` are the result for English and the bundled model.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from spacy import util
from thinc.api import Config

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError

Optimize = Literal["speed", "accuracy"]
OPTIMIZE: tuple[Optimize, ...] = get_args(Optimize)
Block = dict[str, Any]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_BUNDLED = ("ner", "textcat", "textcat_multilabel", "tagger,parser", "ner,textcat")

_SPANS_KEY = "sc"
_SPANCATS = ("spancat", "spancat_singlelabel")
_EXCLUSIVE = (("textcat", "textcat_multilabel", "doc.cats"), (*_SPANCATS, f'doc.spans["{_SPANS_KEY}"]'))
_ORDER = (("senter", "parser"), ("ner", "entity_linker"), *(("span_finder", name) for name in _SPANCATS))


def build(
    pipeline: Sequence[str], lang: str = "en", weights: str = formats.BUNDLED, optimize: Optimize = "speed"
) -> Config:
    """Return a config that only lacks the paths of the corpora, and of an entity linker's knowledge base.

    pipeline: the components to train, in order; each is one of `COMPONENTS`.
    lang: spaCy's code of the language.
    weights: as `model.weights` of `elmo`; the listeners get their width from its options.
    optimize: "speed": light networks on top of ELMo; "accuracy": larger networks, and, next to ELMo, n-grams of
        characters for text classifiers, and spaCy's features for all others but ner.

    Raises:
        ElmoError: there is no such component or language, or two of the components do not work together.
        WeightsError, OptionsError: the weights are missing, or their options cannot be read.
    """
    _check(pipeline)
    lang = _language(lang)
    width = formats.open_model(weights).options.width
    components: Block = {"sentencizer": {"factory": "sentencizer"}, "elmo": _elmo(weights)}
    components.update((name, COMPONENTS[name](width, optimize)) for name in pipeline)
    if "span_finder" in pipeline:
        for name in components.keys() & set(_SPANCATS):  # they classify the spans that it finds
            components[name]["suggester"] = {"@misc": "spacy.preset_spans_suggester.v1", "spans_key": _SPANS_KEY}
    config: Block = {
        "nlp": {"lang": lang, "pipeline": list(components)},
        "components": components,
        "training": _training(pipeline),
    }
    try:
        filled = util.load_model_from_config(Config(config), auto_fill=True).config
    except ImportError as error:  # the tokenizer needs another package
        raise ElmoError(f"language {lang!r}: {' '.join(str(error).split())}") from None
    if "entity_linker" in pipeline:  # only now: spaCy cannot fill a config without this path
        filled["paths"]["kb"] = None
        loader = {"@misc": "spacy.KBFromFile.v1", "kb_path": "${paths.kb}"}
        filled["initialize"]["components"]["entity_linker"] = {"kb_loader": loader}
    return filled


def text(config: Config) -> str:
    """Return the text of the config file: sections in spaCy's order, each followed by its subsections."""
    blocks = ("\n" + config.to_str(interpolate=False).strip()).split("\n[")[1:]
    by_section = {block.partition("]")[0]: f"[{block.rstrip()}\n" for block in blocks}
    first = [name for name in util.CONFIG_SECTION_ORDER if name in config]
    ordered = {name: config[name] for name in [*first, *config]}
    return "\n".join(by_section[section] for section in _sections(ordered) if section in by_section)


def _sections(config: Block, path: str = "") -> Iterator[str]:
    """Yield the names of the sections, each followed by its subsections."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield path + name
            yield from _sections(value, f"{path}{name}.")


def bundled() -> Iterator[tuple[str, Config]]:
    """Yield the names of the files in `spacy_elmo/configs/`, and their configs."""
    for names in _BUNDLED:
        for optimize in OPTIMIZE:
            stem = names.replace(",", "_") + ("_accuracy" if optimize == "accuracy" else "")
            yield f"{stem}.cfg", build(names.split(","), optimize=optimize)


def write_bundled(directory: Path = CONFIGS) -> None:
    """Write the bundled configs again; do this when the bundled model has changed."""
    for name, config in bundled():
        (directory / name).write_text(text(config), encoding="utf8")


def warning(lang: str, weights: str) -> str | None:
    """Return a warning if these weights are known to be wrong for this language; None otherwise."""
    if weights == formats.BUNDLED and _language(lang) != "en":
        return f"{weights} is for English only; for {lang!r}, set --weights to a model of that language"
    return None


def _check(pipeline: Sequence[str]) -> None:
    known = ", ".join(COMPONENTS)
    if not pipeline:
        raise ElmoError(f"the pipeline is empty; expected one or more of {known}")
    for name in pipeline:
        if name not in COMPONENTS:
            raise ElmoError(f"{name!r} is not a component that you can train here; expected one or more of {known}")
        if pipeline.count(name) > 1:
            raise ElmoError(f"{name!r} is in the pipeline twice")
    for one, other, where in _EXCLUSIVE:
        if {one, other} <= set(pipeline):
            raise ElmoError(f"{one} and {other} both write {where}; choose one of them")
    for first, second in _ORDER:
        if {first, second} <= set(pipeline) and pipeline.index(second) < pipeline.index(first):
            raise ElmoError(f"{second} reads what {first} sets; put {first} before it")


def _language(lang: str) -> str:
    """Return spaCy's code of a language (`en` for `eng`)."""
    try:
        return str(util.get_lang_class(lang).lang)
    except ImportError:
        raise ElmoError(
            f"{lang!r} is not a language of spaCy; expected a code such as en or de, or xx for any"
        ) from None


# Components. spaCy's defaults fill in everything else.


def _elmo(weights: str) -> Block:
    return {"factory": "elmo", "frozen": True, "model": {"@architectures": "spacy-elmo.BiLM.v1", "weights": weights}}


def _of_tokens(factory: str, settings: Block, width: int, optimize: Optimize) -> Block:
    model = {"@architectures": "spacy.Tagger.v2", "nO": None, "tok2vec": _tok2vec(width, optimize)}
    return {"factory": factory, **settings, "model": model}


def _transitions(factory: str, hidden_width: int, maxout_pieces: int, width: int, optimize: Optimize) -> Block:
    tok2vec = _tok2vec_of_entities if factory == "ner" else _tok2vec
    return {
        "factory": factory,
        "model": {
            "@architectures": "spacy.TransitionBasedParser.v2",
            "state_type": factory,
            "extra_state_tokens": False,
            "hidden_width": hidden_width,
            "maxout_pieces": maxout_pieces,
            "use_upper": True,
            "nO": None,
            "tok2vec": tok2vec(width, optimize),
        },
    }


def _spancat(factory: str, scorer: Block, width: int, optimize: Optimize) -> Block:
    return {
        "factory": factory,
        "spans_key": _SPANS_KEY,
        "suggester": {"@misc": "spacy.ngram_suggester.v1", "sizes": [1, 2, 3]},
        "model": {
            "@architectures": "spacy.SpanCategorizer.v1",
            "reducer": {"@layers": "spacy.mean_max_reducer.v1", "hidden_size": 128},
            "scorer": {**scorer, "nO": None, "nI": None},
            "tok2vec": _tok2vec(width, optimize),
        },
    }


def _span_finder(width: int, optimize: Optimize) -> Block:
    return {
        "factory": "span_finder",
        "spans_key": _SPANS_KEY,
        "max_length": 25,  # as in spaCy's template, because an untrained span finder pairs any two tokens
        "model": {
            "@architectures": "spacy.SpanFinder.v1",
            "scorer": {"@layers": "spacy.LinearLogistic.v1", "nO": 2, "nI": None},
            "tok2vec": _tok2vec(width, optimize),
        },
    }


def _entity_linker(width: int, optimize: Optimize) -> Block:
    model = {"@architectures": "spacy.EntityLinker.v2", "nO": None, "tok2vec": _tok2vec(width, optimize)}
    return {"factory": "entity_linker", "model": model}


def _of_texts(factory: str, exclusive: bool, width: int, optimize: Optimize) -> Block:
    """Return a text classifier, which also accepts Docs without tokens.

    speed: attention over ELMo's vectors, and a bag of words. On little data this learns sooner than attention or a mean
        alone.
    accuracy: mean and maximum of an encoder's vectors, and n-grams of characters. Like hashed features, these help
        where single words decide, but they do not cost points elsewhere.
    """
    model: Block
    if optimize == "speed":
        bag_of_words = {
            "@architectures": "spacy.TextCatBOW.v3",
            "exclusive_classes": exclusive,
            "length": 65536,
            "ngram_size": 1,
            "no_output_layer": False,
        }
        model = {
            "@architectures": "spacy.TextCatEnsemble.v2",
            "tok2vec": _concat(width, 128),
            "linear_model": bag_of_words,
        }
    else:
        model = {
            "@architectures": "spacy-elmo.TextCatNgrams.v1",
            "exclusive_classes": exclusive,
            "length": 65536,
            "tok2vec": _concat(width, 128, dropout=0.5, encode=_encoder(128, depth=1)),
        }
    return {"factory": factory, "model": {**model, "nO": None}}


_SMOOTHED: Block = {"label_smoothing": 0.05}

COMPONENTS: dict[str, Callable[[int, Optimize], Block]] = {
    "senter": partial(_of_tokens, "senter", {"overwrite": True}),  # overwrite what the sentencizer has set
    "tagger": partial(_of_tokens, "tagger", _SMOOTHED),
    "morphologizer": partial(_of_tokens, "morphologizer", _SMOOTHED),
    "trainable_lemmatizer": partial(_of_tokens, "trainable_lemmatizer", {}),
    "parser": partial(_transitions, "parser", 128, 3),
    "ner": partial(_transitions, "ner", 64, 2),
    "entity_linker": _entity_linker,
    "span_finder": _span_finder,
    "spancat": partial(_spancat, "spancat", {"@layers": "spacy.LinearLogistic.v1"}),
    "spancat_singlelabel": partial(_spancat, "spancat_singlelabel", {"@layers": "Softmax.v2"}),
    "textcat": partial(_of_texts, "textcat", True),
    "textcat_multilabel": partial(_of_texts, "textcat_multilabel", False),
}


# From ELMo to what a component reads


def _tok2vec(width: int, optimize: Optimize) -> Block:
    """Return a projection of ELMo's vectors to the width of an encoder, and the encoder. width: of ELMo's vectors."""
    if optimize == "speed":
        return _concat(width, 96, encode=_encoder(96, depth=2))
    return _concat(width, 128, embed=_hash_features(128), encode=_encoder(128, depth=4))


def _tok2vec_of_entities(width: int, optimize: Optimize) -> Block:
    """Return the same for ner: without hashed features, which cost points there, and with dropout on ELMo's vectors.

    speed: half of the paper's dropout, with which a few dozen sentences are still learned within some hundred updates.
    """
    size, dropout = (96, 0.25) if optimize == "speed" else (128, 0.5)
    return _concat(width, size, dropout=dropout, encode=_encoder(size, depth=2))


def _concat(
    elmo_width: int, width: int, dropout: float = 0.0, embed: Block | None = None, encode: Block | None = None
) -> Block:
    return {
        "@architectures": "spacy-elmo.ConcatTok2Vec.v1",
        "width": width,
        "elmo": {
            "@architectures": "spacy-elmo.ElmoListener.v1",
            "width": elmo_width,
            "upstream": "elmo",
            "mix": "learned",
            "dropout": dropout,
        },
        "embed": embed,
        "encode": encode,
    }


def _hash_features(width: int) -> Block:
    return {
        "@architectures": "spacy.MultiHashEmbed.v2",
        "width": width,
        "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
        "rows": [5000, 1000, 2500, 2500],
        "include_static_vectors": False,
    }


def _encoder(width: int, depth: int) -> Block:
    return {
        "@architectures": "spacy.MaxoutWindowEncoder.v2",
        "width": width,
        "depth": depth,
        "window_size": 1,
        "maxout_pieces": 3,
    }


# Training


def _training(pipeline: Sequence[str]) -> Block:
    # The biLM reads sentences, but the Docs of a training have none. So the sentencizer sets them in training, as in
    # prediction. spaCy's parser and ner keep existing boundaries: a parser after a sentencizer finds no others (its
    # trees stay within them), and no entity crosses one. Training with the sentencizer's boundaries makes training and
    # prediction agree. A senter, which sets its own, does the same for the components behind it.
    # Without a senter, nothing here learns sentences, so they do not count for the score. With a senter they do, also
    # next to a parser, whose defaults exclude them.
    of_sentences = {"sents_f": 1.0} if "senter" in pipeline else dict.fromkeys(["sents_f", "sents_p", "sents_r"])
    return {
        "annotating_components": ["sentencizer", *(name for name in pipeline if name in ("senter", "span_finder"))],
        "score_weights": of_sentences,
        "batcher": {
            "@batchers": "spacy.batch_by_words.v1",
            "discard_oversize": False,
            "tolerance": 0.2,
            "size": {"@schedules": "compounding.v1", "start": 100, "stop": 1000, "compound": 1.001},
        },
        "patience": 1600,
        "max_steps": 20000,
        "eval_frequency": 200,
        "optimizer": {
            "@optimizers": "Adam.v1",
            "learn_rate": {
                "@schedules": "warmup_linear.v1",
                "warmup_steps": 250,
                "total_steps": 20000,
                "initial_rate": 0.001,
            },
        },
        # The bar runs to the next row of the table. Patience ends nearly all trainings long before max_steps, so a bar
        # to those would announce hours. spaCy shows it only on a terminal, on stderr.
        "logger": {"@loggers": "spacy.ConsoleLogger.v3", "progress_bar": "eval"},
    }
