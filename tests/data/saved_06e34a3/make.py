"""Makes what lies in this folder, with the code of commit 06e34a3 of spacy-elmo and no other (README.md says how).

PYTHONPATH=CLONE python make.py OUT
"""

import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import spacy
import torch
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import fix_random_seed
from typer.testing import CliRunner

import spacy_elmo
from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions, Elmo, ScalarMix
from spacy_elmo.cli import elmo_cli
from spacy_elmo.pretraining.config import (
    Config,
    CorpusConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.spool import Spool

COMMIT = "06e34a3"
MODELS = Path(spacy_elmo.__file__).parent.parent / "tests" / "data"
TINY = ("tiny_2l_skip", "tiny_2l_clip")
WIDTH = 32  # of the vectors of both

SENTENCES = [["We", "sat", "on", "the", "bank", "."], ["Zoë", "paid", "今天", "at", "the", "bank", "😀"]]
WORDS = [word for sentence in SENTENCES for word in sentence]
TAGS = ["PRON", "VERB", "ADP", "DET", "NOUN", "PUNCT", "PROPN", "VERB", "NOUN", "ADP", "DET", "NOUN", "PUNCT"]
LINES = ["the bank lent money .", "Hello", "a bank of the river", "naïve café “quoted” 今天 😀", "he saw the bank"]

# Architectures beside those of the tiny models: what each option may be.
_LSTM = {"dim": 6, "projection_dim": 4, "n_layers": 1, "cell_clip": 3.0, "proj_clip": 3.0, "use_skip_connections": True}
_CNN = {
    "filters": [[1, 2], [2, 3]],
    "embedding": {"dim": 3},
    "activation": "relu",
    "n_highway": 1,
    "n_characters": 262,
    "max_characters_per_token": 10,
}
ARCHITECTURES = {
    "plain": {"lstm": _LSTM, "char_cnn": _CNN},
    "without_clips": {"lstm": {**_LSTM, "cell_clip": None, "proj_clip": 0}, "char_cnn": _CNN},
    "without_projection": {"lstm": {**_LSTM, "projection_dim": 6}, "char_cnn": _CNN},
    "three_layers_without_skips": {"lstm": {**_LSTM, "n_layers": 3, "use_skip_connections": False}, "char_cnn": _CNN},
    "tanh_without_highway": {"lstm": _LSTM, "char_cnn": {**_CNN, "activation": "tanh", "n_highway": 0}},
    "as_training_writes_it": {"lstm": _LSTM, "char_cnn": {**_CNN, "n_characters": 261}, "n_epochs": 2, "dropout": 0.1},
    "words": {"lstm": _LSTM},
}
VOCABULARY = ["<S>", "</S>", "<UNK>", "bank", "the", "今天"]


def main(out: Path) -> None:
    head = subprocess.run(["git", "-C", MODELS, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    if not head.startswith(COMMIT):
        raise SystemExit(f"{MODELS}: a clone at {head.strip()}, expected one at {COMMIT}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # so that the paths of weights in configs lead nowhere once it is removed
        for name in TINY:
            shutil.copytree(MODELS / name, Path("gone") / name)
        make_all(out)
        os.chdir(out)


def make_all(out: Path) -> None:
    expected = {"sentences": SENTENCES, **make_models(out / "models")}
    expected["pipelines"] = make_pipelines(out / "pipelines")
    expected["cache"] = make_caches(Path("listeners"), out / "cache")
    expected["pretraining"] = make_runs(out / "pretraining")
    expected["neighbours"] = make_embedded(out / "embed")
    (out / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- models: digests, state dicts, vectors


def make_models(out: Path) -> dict:
    """Digests of models by name, names and shapes in the state dicts, and vectors of SENTENCES (`models.npz`)."""
    out.mkdir()
    digests, shapes, vectors = {}, {}, {}
    for name in (formats.BUNDLED, *(f"gone/{name}" for name in TINY)):
        bilm, name = formats.load(name), Path(name).name
        digests[name], shapes[name] = formats.digest(bilm), shapes_of(bilm)
        vectors |= {f"{name}/{number}": layers for number, layers in enumerate(bilm.encode(SENTENCES))}
    for name, options in ARCHITECTURES.items():
        bilm = BiLM(BiLMOptions.from_dict(options, name), VOCABULARY if name == "words" else None)
        fill(bilm)
        digests[name], shapes[name] = formats.digest(bilm), shapes_of(bilm)
        vectors |= {f"{name}/{number}": layers for number, layers in enumerate(bilm.eval().encode(SENTENCES))}
        if name == "words":
            formats.write(bilm, out / "words")
    for name, settings in (("Elmo", {}), ("Elmo with fixed mixes", {"scalar_mix_parameters": [1.0, 2.0, 3.0]})):
        shapes[name] = shapes_of(Elmo(None, f"gone/{TINY[0]}", 2, **settings))
    shapes["ScalarMix"] = shapes_of(ScalarMix(3))
    np.savez_compressed(out / "models.npz", **vectors)
    return {"architectures": ARCHITECTURES, "vocabulary": VOCABULARY, "digests": digests, "state_dicts": shapes}


def shapes_of(module: torch.nn.Module) -> dict:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(bilm: BiLM) -> None:
    """Give a biLM the weights that its names and shapes say: no random numbers, which torch may draw otherwise."""
    state = bilm.state_dict()
    for number, name in enumerate(sorted(state)):
        numbers = torch.arange(state[name].numel()).reshape(state[name].shape)
        state[name] = ((numbers * 7 + number) % 11 - 5) / 8
    bilm.load_state_dict(state)


# --- pipelines


def listener(**settings) -> dict:
    return {"@architectures": "spacy-elmo.ElmoListener.v1", "width": WIDTH, **settings}


def concat(**settings) -> dict:
    elmo = listener(do_layer_norm=True, initial_gamma=0.5, dropout=0.1)
    return {"@architectures": "spacy-elmo.ConcatTok2Vec.v1", "elmo": elmo, "width": 8, **settings}


def spacys_listener() -> dict:
    return {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH, "upstream": "elmo"}


def tagger(tok2vec: dict) -> dict:
    return {"model": {"tok2vec": tok2vec}}


def textcat(tok2vec: dict) -> dict:
    reduce = {f"use_reduce_{what}": what == "mean" for what in ("first", "last", "max", "mean")}
    model = {"@architectures": "spacy.TextCatReduce.v1", "exclusive_classes": True, "tok2vec": tok2vec, **reduce}
    return {"model": model}


def ner(tok2vec: dict) -> dict:
    model = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "extra_state_tokens": False}
    return {"model": {**model, "hidden_width": 8, "maxout_pieces": 2, "use_upper": True, "tok2vec": tok2vec}}


def make_pipelines(out: Path) -> dict:
    """Each as a directory and as bytes (`NAME` and `NAME.bytes` in `NAME.tar.xz`), and with what it gave (`NAME.npz`);
    returns digests."""
    out.mkdir()
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 8, "depth": 1}
    encode |= {"window_size": 1, "maxout_pieces": 2}
    embed = {"@architectures": "spacy.MultiHashEmbed.v2", "width": 8, "attrs": ["NORM"], "rows": [20]}
    embed["include_static_vectors"] = False
    side_by_side = concat(embed=embed, encode=encode)
    digests = {}

    nlp = blank({"layers": "mean", "keep_layers": True})
    nlp.add_pipe("tagger", config=tagger(listener()))
    nlp.add_pipe("textcat", config=textcat(spacys_listener()))
    train(nlp)
    digests["listeners"] = keep(nlp, out / "listeners")
    docs = DocBin(store_user_data=True)
    docs.add(doc := annotated(nlp))
    docs.to_disk(out / "listeners.spacy")
    (out / "listeners.doc").write_bytes(doc.to_bytes())

    doc_spans = {"@misc": "spacy-elmo.doc_spans.v1"}
    nlp = blank({"layers": [1.0, 0.0, 2.0], "model": {"weights": "gone/tiny_2l_clip", "get_spans": doc_spans}})
    nlp.add_pipe("ner", config=ner(side_by_side))
    nlp.add_pipe("tagger", config=tagger(concat()))
    train(nlp)
    digests["concat"] = keep(nlp, out / "concat")

    nlp = blank({"layers": "top", "vectors": "tensor"})
    nlp.add_pipe("ner", config=ner(side_by_side))
    nlp.add_pipe("textcat", config=textcat(spacys_listener()))
    train(nlp)
    nlp.replace_listeners("elmo", "ner", ["model.tok2vec.elmo"])
    nlp.replace_listeners("elmo", "textcat", ["model.tok2vec"])
    nlp.remove_pipe("elmo")
    keep(nlp, out / "replaced")

    nlp = blank({"frozen": False, "lr_scale": 1.0, "layers": 1})
    nlp.add_pipe("tagger", config=tagger(listener(mix="top")))
    train(nlp)
    digests["finetuned"] = keep(nlp, out / "finetuned")
    return digests


def blank(settings: dict) -> spacy.Language:
    fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.tokenizer = Tokenizer(nlp.vocab)  # small; the Docs here are made of words
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", config={"model": {"weights": f"gone/{TINY[0]}"}, **settings})
    return nlp


def examples(nlp: spacy.Language) -> list[Example]:
    reference = Doc(nlp.vocab, words=WORDS, tags=TAGS)
    reference.ents = [Span(reference, 6, 7, "PER"), Span(reference, 10, 12, "ORG")]
    other = Doc(nlp.vocab, words=["Hello"], tags=["INTJ"])
    reference.cats, other.cats = {"long": 1.0, "short": 0.0}, {"long": 0.0, "short": 1.0}
    return [Example(Doc(nlp.vocab, words=[token.text for token in doc]), doc) for doc in (reference, other)]


def train(nlp: spacy.Language) -> None:
    optimizer = nlp.initialize(lambda: examples(nlp))
    optimizer.learn_rate = 0.02
    for _ in range(20):
        nlp.update(examples(nlp), sgd=optimizer, annotates=["sentencizer"])


def keep(nlp: spacy.Language, path: Path) -> str | None:
    name = path.name
    nlp.to_disk(name)
    Path(f"{name}.bytes").write_bytes(nlp.to_bytes())
    with tarfile.open(path.with_suffix(".tar.xz"), "w:xz") as archive:  # which has room for their weights only once
        archive.add(name)
        archive.add(f"{name}.bytes")
    np.savez_compressed(path.with_suffix(".npz"), **what_it_gives(spacy.load(name)))
    return formats.digest(formats.load(f"{name}/elmo/model")) if nlp.has_pipe("elmo") else None


def annotated(nlp: spacy.Language) -> Doc:
    return nlp(Doc(nlp.vocab, words=WORDS))


def what_it_gives(nlp: spacy.Language) -> dict[str, np.ndarray]:
    """Of WORDS: ELMo's vectors, what each component reads and says."""
    doc = annotated(nlp)
    given = {}
    if nlp.has_pipe("elmo"):
        given = {"elmo": doc._.elmo, "vector": doc.vector, "tensor": doc.tensor}
    if doc._.has("elmo_layers") and doc._.elmo_layers is not None:
        given["elmo_layers"] = doc._.elmo_layers
    for name, pipe in nlp.pipeline:
        if name in ("tagger", "textcat", "ner"):
            given[f"{name}/tok2vec"] = np.vstack(pipe.model.get_ref("tok2vec").predict([doc]))
        if name in ("tagger", "textcat"):
            given[f"{name}/scores"] = np.asarray(pipe.model.predict([doc])[0])
    given["ents"] = np.array([[ent.start, ent.end, ent.label_] for ent in doc.ents])
    return given


# --- caches of training


def make_caches(pipeline: Path, out: Path) -> dict:
    """Files of `cache_path`, packed, for they are 16 MB of zeros; returns the losses of an update with each."""
    out.mkdir()
    losses = {}
    for name, exclude, precision in (("rows", [], "float32"), ("mix", ["tagger"], "float16")):
        elmo = {"cache_path": name, "cache_precision": precision}
        nlp = spacy.load(pipeline, exclude=exclude, config={"components": {"elmo": elmo}})
        nlp.resume_training()
        losses[name] = nlp.update(examples(nlp), sgd=False, losses={}, annotates=["sentencizer"], drop=0.0)
        nlp.get_pipe("elmo").memory.clear()
        for file in (name, f"{name}.index"):
            (out / f"{file}.gz").write_bytes(gzip.compress(Path(file).read_bytes(), mtime=0))
    return {name: {key: float(loss) for key, loss in some.items()} for name, some in losses.items()}


# --- runs of pretraining


def make_runs(out: Path) -> dict:
    """Output directories of two runs as they were at step 12 of 24; returns the log of the rest, and the digests.

    `adagrad`: no random numbers of torch's, so that the rest can be told to the digit. `adam`: began with that one's
    model; has dropout.
    """
    out.mkdir()
    text = out / "text.txt"
    text.write_text("".join(predictable_lines(60)))
    adagrad = Config(
        ModelConfig(dim=10, projection_dim=6, filters=((1, 4), (2, 6)), embedding_dim=4, max_characters_per_token=12),
        CorpusConfig(min_count=2),
        TrainingConfig(2.0, 12, 4, 5, n_negative_samples_batch=12, dropout=0.0, device="cpu"),
        OptimizerConfig(),
        LoggingConfig(log_every=4),
    )
    adam = dataclasses.replace(
        adagrad,
        training=dataclasses.replace(adagrad.training, dropout=0.1),
        optimizer=OptimizerConfig("adam", learning_rate=0.01, warmup_steps=4, decay="none"),
    )
    logs = {}
    for name, config, first in (("adagrad", adagrad, None), ("adam", adam, "gone/adagrad")):
        pretrain(text, out / name, config, init_from=first, show_progress=False)
        digest = formats.digest(formats.load(out / name))
        shutil.copytree(out / name, name)
        shutil.copytree(out / name, f"gone/{name}")
        longer = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=24))
        pretrain(text, name, longer, resume=True, show_progress=False)
        lines = [json.loads(line) for line in (Path(name) / "metrics.jsonl").read_text().splitlines()]
        bilm = formats.load(name)
        np.savez_compressed(out / f"{name}.npz", *bilm.encode([["w01", "w08", "w15", "new"]]))
        logs[name] = {"digest": digest, "losses": [[line["step"], line["loss"]] for line in lines]}
    return logs


def predictable_lines(n_sentences: int) -> list[str]:
    """Sentences in documents of 8, in which a word follows from the one before, but for every ninth."""
    lines, word, count = [], 0, 0
    for number in range(n_sentences):
        sentence = []
        for _ in range(3 + number % 5):
            count += 1
            word = (word + (7 if count % 9 else 10)) % 24
            sentence.append(f"w{word:02}")
        lines += [*(["\n"] if number and number % 8 == 0 else []), " ".join(sentence) + "\n"]
    return [*lines, "once\n"]


# --- what `embed` writes


def make_embedded(out: Path) -> list:
    """A finished file, and what a run leaves that is killed in the middle; returns neighbours of a word there."""
    out.mkdir()
    text = out / "text.txt"
    text.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    settings = {"model": f"gone/{TINY[0]}", "batch_size": 2}
    embed_file(text, out / "whole.h5", **settings)

    add, calls = Spool.add, iter(range(2))
    Spool.add = lambda self, some: next(calls) is None or add(self, some)
    try:
        embed_file(text, "killed.h5", **settings)
    except StopIteration:
        shutil.move("killed.h5.part", out / "killed.h5.unfinished")  # git ignores *.part
    finally:
        Spool.add = add

    arguments = ["neighbours", "bank", str(out / "whole.h5"), "--line", "0", "--json", "--quiet"]
    return json.loads(CliRunner().invoke(elmo_cli, arguments).stdout)["neighbours"]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
