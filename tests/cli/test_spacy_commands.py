"""spaCy's own commands with ELMo in the config: train, evaluate, debug, fill-config, assemble, package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.cli.evaluate import evaluate as spacy_evaluate
from spacy.cli.train import train as spacy_train
from spacy.kb import InMemoryLookupKB
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus, Example
from spacy.util import load_config, load_config_from_str, load_model_from_config
from thinc.api import Config

from helpers.commands import as_options
from spacy_elmo.formats import digest, load
from spacy_elmo.pipeline.mix import mix_weights
from spacy_elmo.pipeline.shim import shim_of
from spacy_elmo.tools.init_config import COMPONENTS, CONFIGS, OPTIMIZE, build

# Enough steps to learn these corpora, so that a score means something.
STEPS = {
    "training.max_steps": 40,
    "training.eval_frequency": 20,
    "training.optimizer.learn_rate.warmup_steps": 2,
    "training.optimizer.learn_rate.initial_rate": 0.01,
}
BRIEF = {**STEPS, "training.max_steps": 4, "training.eval_frequency": 2}
LEARNED = {"ner": "ents_f", "textcat": "cats_score", "tagger": "tag_acc", "parser": "dep_uas"}
EVERY = [name for name in COMPONENTS if name not in ("spancat_singlelabel", "textcat_multilabel")]
TOLERANT = [name for name in EVERY if name != "span_finder"]  # spaCy's own fails on a batch without tokens
KB_IDS = {"Paris": "Q90", "Rome": "Q220", "Oslo": "Q585", "Lima": "Q2868"}


def spacy_cli(*args, status=0):
    """Run `python -m spacy ...` and return its output."""
    done = subprocess.run([sys.executable, "-m", "spacy", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def train(config, out=None, **changes):
    """Do what `python -m spacy train` does, in this process, because starting one costs two seconds."""
    spacy_train(config, out, overrides=changes)


def make_doc(vocab, name, place, label="GPE", tag="NNP", dep="nsubj", cat="B"):
    """Make two sentences with every annotation that a component here learns."""
    words = f"{name} lives in {place} . She likes it !".split()
    doc = Doc(
        vocab,
        words=words,
        tags=[tag, "VBZ", "IN", "NNP", ".", "PRP", "VBZ", "PRP", "."],
        pos=["PROPN", "VERB", "ADP", "PROPN", "PUNCT", "PRON", "VERB", "PRON", "PUNCT"],
        morphs=["Number=Sing", "Number=Sing|Tense=Pres", "", "", "", "Case=Nom", "Number=Sing|Tense=Pres", "", ""],
        heads=[1, 1, 3, 1, 1, 6, 6, 6, 6],
        deps=[dep, "ROOT", "case", "obl", "punct", "nsubj", "ROOT", "obj", "punct"],
        lemmas=[name, "live", "in", place, ".", "she", "like", "it", "!"],
    )
    doc.ents = [Span(doc, 0, 1, "PERSON"), Span(doc, 3, 4, label, kb_id=KB_IDS.get(place, ""))]
    doc.spans["sc"] = [Span(doc, 0, 1, "WHO"), Span(doc, 2, 4, "WHERE")]
    doc.cats = {"A": 0.0, "B": 0.0, cat: 1.0}
    return doc


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Write corpora and return their paths as settings. They include a Doc of whitespace, and dev has labels that
    training never saw."""
    root = tmp_path_factory.mktemp("corpora")
    vocab = spacy.blank("en").vocab
    people, cities = ["Anna", "Ben", "Cleo", "Dan", "Eva", "Finn"], ["Paris", "Rome", "Oslo", "Lima"]
    docs = [make_doc(vocab, who, city, cat="A" if who < "D" else "B") for who in people for city in cities]
    blank = Doc(vocab, words=["\n\n"])
    blank.cats = {"A": 1.0, "B": 0.0}
    strange = make_doc(vocab, "Gus", "Mars", label="PLANET", tag="FW", dep="odd", cat="C")
    DocBin(docs=[*docs * 5, blank]).to_disk(root / "train.spacy")
    DocBin(docs=[*docs[::3], blank, strange]).to_disk(root / "dev.spacy")
    return {"paths.train": str(root / "train.spacy"), "paths.dev": str(root / "dev.spacy")}


@pytest.fixture(scope="module")
def knowledge_base(tmp_path_factory):
    """Write a knowledge base and return its path as a setting. Each city has a second candidate."""
    kb = InMemoryLookupKB(spacy.blank("en").vocab, entity_vector_length=4)
    kb.set_entities([*KB_IDS.values(), "Q0"], [10] * 5, [*np.eye(4).tolist(), [-1, -1, -1, -1]])
    for place, entity in KB_IDS.items():
        kb.add_alias(place, [entity, "Q0"], [0.5, 0.5])
    path = tmp_path_factory.mktemp("knowledge") / "kb"
    kb.to_disk(path)
    return {"paths.kb": str(path)}


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory):
    """Write a config with small weights and return its path."""
    root = tmp_path_factory.mktemp("configs")

    def write(*pipeline, optimize="speed"):
        path = root / f"{'_'.join(pipeline)}_{optimize}.cfg"
        config = build(pipeline, weights=str(data / "tiny_2l_skip"), optimize=optimize)
        config.to_disk(path, interpolate=False)
        return path

    return write


@pytest.fixture(scope="module")
def trained(tiny, corpora, tmp_path_factory):
    """Train a pipeline with ner."""
    out = tmp_path_factory.mktemp("trained")
    train(tiny("ner"), out, **corpora, **STEPS)
    return out / "model-last"


def assert_same_scores(pipeline, corpora):
    """Compare the scores of the training, of the pipeline itself, and of `spacy evaluate`. Returns the scores."""
    nlp, metrics = spacy.load(pipeline), pipeline / "metrics.json"
    spacy_evaluate(pipeline, corpora["paths.dev"], metrics)
    training, command = nlp.meta["performance"], json.loads(metrics.read_text())
    here = nlp.evaluate(list(Corpus(corpora["paths.dev"])(nlp)))
    compared = [name for name in training if isinstance(here.get(name), float)]  # not the losses
    assert compared
    for name in compared:
        assert here[name] == pytest.approx(training[name], abs=1e-5), name
        if name in command:  # it omits some
            assert command[name] == pytest.approx(training[name], abs=1e-5), name
    assert set(compared) & set(command)
    return here


def saved_score(pipeline):
    """Return the score that training saved in the pipeline."""
    score = json.loads((pipeline / "meta.json").read_text())["performance"]["ents_f"]
    assert score > 0.5
    return pytest.approx(score, abs=1e-6)


def same_parameters(one, other, component="ner"):
    """Return whether a component of two saved pipelines has exactly the same parameters."""
    first, second = (spacy.load(path).get_pipe(component).model for path in (one, other))
    pairs = zip(first.walk(), second.walk(), strict=True)
    return all(
        np.array_equal(a.get_param(name), b.get_param(name))
        for a, b in pairs
        for name in a.param_names
        if a.has_param(name)
    )


def test_ner_learns_and_the_saved_pipeline_has_the_same_score(tiny, corpora, tmp_path):
    """Run the commands themselves, in separate processes."""
    spacy_cli("train", tiny("ner"), "--output", tmp_path, *as_options({**corpora, **STEPS}))
    trained = tmp_path / "model-last"
    spacy_cli("evaluate", trained, corpora["paths.dev"], "--output", tmp_path / "metrics.json")
    scores = assert_same_scores(trained, corpora)
    assert json.loads((tmp_path / "metrics.json").read_text())["ents_f"] == pytest.approx(scores["ents_f"], abs=1e-5)
    assert scores["ents_per_type"]["PERSON"]["f"] > 0.9
    assert scores["ents_per_type"]["PLANET"]["f"] == 0  # not in the training data
    nodes = list(spacy.load(trained).get_pipe("ner").model.walk())
    weights, gamma = mix_weights(next(node for node in nodes if node.name == "elmo_scalar_mix"))
    assert sum(weights) == pytest.approx(1)
    assert max(weights) - min(weights) > 1e-3
    assert gamma != 1


@pytest.fixture(scope="module")
def installed(wheel, install, tmp_path_factory):
    """Install the package from its wheel into a directory."""
    site = tmp_path_factory.mktemp("site")
    install(wheel, site)
    return site


@pytest.mark.slow
@pytest.mark.parametrize("config", [path.name for path in sorted(CONFIGS.iterdir())])
def test_bundled_configs_train_as_they_are_from_the_wheel(config, installed, corpora, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(tmp_path)
    where = subprocess.check_output([sys.executable, "-c", "import spacy_elmo; print(spacy_elmo.__file__)"], text=True)
    assert Path(where.strip()).parent == installed / "spacy_elmo"
    config = installed / "spacy_elmo" / "configs" / config
    said = spacy_cli("train", config, "--output", tmp_path, *as_options({**corpora, **STEPS}))
    assert "Warning" not in said
    scores = assert_same_scores(tmp_path / "model-last", corpora)
    learned = [score for name, score in LEARNED.items() if name in config.stem.split("_")]
    assert learned
    assert all(scores[score] > 0.8 for score in learned)


# Components that learn sentences, lemmas, spans and links: which score to check, and its minimum.
OTHERS = {
    ("senter", "trainable_lemmatizer", "entity_linker"): {"sents_f": 0.9, "lemma_acc": 0.8, "nel_micro_f": 0.5},
    ("span_finder",): {"spans_sc_f": 0.5},
    ("ner", "entity_linker"): {"ents_f": 0.8, "nel_micro_f": 0.5},
    ("span_finder", "spancat_singlelabel"): {"spans_sc_f": 0.5},
    ("spancat_singlelabel", "textcat_multilabel"): {"spans_sc_f": 0.5},
}


@pytest.mark.parametrize("pipeline", OTHERS)
def test_each_component_learns_as_it_is(pipeline, tiny, corpora, knowledge_base, tmp_path):
    train(tiny(*pipeline), tmp_path, **corpora, **(knowledge_base if "entity_linker" in pipeline else {}), **STEPS)
    scores = assert_same_scores(tmp_path / "model-last", corpora)
    assert all(scores[name] > least for name, least in OTHERS[pipeline].items()), scores


@pytest.mark.slow
@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_every_component_learns_in_one_pipeline(optimize, tiny, corpora, knowledge_base, tmp_path):
    config = tiny(*EVERY, optimize=optimize)
    steps = {**STEPS, "training.max_steps": 80, "training.eval_frequency": 40}  # so many components at once take longer
    train(config, tmp_path, **corpora, **knowledge_base, **steps)
    scores = assert_same_scores(tmp_path / "model-last", corpora)
    for name in ("tag_acc", "pos_acc", "morph_acc", "dep_uas", "ents_f"):
        assert scores[name] > 0.8, name
    assert scores["spans_sc_f"] > 0.5
    assert scores["cats_f_per_type"]["B"]["f"] > 0.8


@pytest.mark.parametrize("optimize", OPTIMIZE)
@pytest.mark.parametrize("pipeline", [TOLERANT, ["textcat_multilabel"]], ids=["every", "multilabel"])
def test_docs_without_tokens_in_a_training_batch(pipeline, optimize, data, knowledge_base):
    # spaCy's corpus reader drops them, but other readers do not
    config = build(pipeline, weights=str(data / "tiny_2l_skip"), optimize=optimize)
    config["paths"]["kb"] = knowledge_base["paths.kb"]
    nlp = load_model_from_config(config)

    def examples(*names):
        docs = [make_doc(nlp.vocab, name, "Rome") if name else Doc(nlp.vocab) for name in names]
        for doc in docs:
            doc.cats = {"A": 1.0, "B": 0.0}
        return [Example(Doc(nlp.vocab, words=[token.text for token in doc]), doc) for doc in docs]

    nlp.initialize(lambda: examples("", *["Anna"] * 40))  # so that the parser sees each of its moves often enough
    for names in (["", "Anna", "", "Ben", ""], ["", ""], ["Ben"]):
        losses = nlp.update(examples(*names), annotates=config["training"]["annotating_components"])
        assert all(np.isfinite(loss) for loss in losses.values())
    *_, last = nlp.pipe(["", "Anna lives here.", ""])
    assert len(last) == 0
    assert set(last.cats) == {"A", "B"}


@pytest.mark.slow
def test_debug_config_finds_nothing_wrong(tiny, corpora):
    said = spacy_cli("debug", "config", tiny("ner"), "--show-variables", *as_options(corpora))
    assert "Config is valid" in said


@pytest.mark.slow
def test_debug_config_names_a_setting_that_is_wrong(tiny, corpora):
    wrong = {**corpora, "components.ner.model.tok2vec.elmo.dropout": "much"}
    said = spacy_cli("debug", "config", tiny("ner"), *as_options(wrong), status=1)
    assert "dropout" in said


@pytest.mark.slow
def test_debug_data_knows_the_labels(tiny, corpora):
    said = spacy_cli("debug", "data", tiny("ner", "textcat"), *as_options(corpora), "--verbose", "--no-format")
    assert "Pipeline can be initialized with data" in said
    assert "Labels in train data: 'PERSON' (120), 'GPE' (120)" in said
    assert "Dev labels: 'A', 'B', 'C'" in said


PARTIAL = """
[nlp]
lang = "en"
pipeline = ["sentencizer", "elmo", "ner"]

[components]

[components.sentencizer]
factory = "sentencizer"

[components.elmo]
factory = "elmo"

[components.ner]
factory = "ner"

[components.ner.model]
@architectures = "spacy.TransitionBasedParser.v2"
state_type = "ner"

[components.ner.model.tok2vec]
@architectures = "spacy-elmo.ElmoListener.v1"
width = {width}
"""


@pytest.mark.slow
def test_fill_config_completes_a_listener(tmp_path, bundled_width):
    (tmp_path / "partial.cfg").write_text(PARTIAL.format(width=bundled_width))
    spacy_cli("init", "fill-config", tmp_path / "partial.cfg", tmp_path / "full.cfg")
    components = load_config(tmp_path / "full.cfg")["components"]
    listener = components["ner"]["model"]["tok2vec"]
    assert {"upstream": "elmo", "mix": "learned", "dropout": 0.0, "initial_gamma": 1.0}.items() <= listener.items()
    assert components["elmo"]["model"]["weights"] == "en_elmo_sm"
    assert components["elmo"]["frozen"] is True


@pytest.mark.slow
def test_a_listener_of_another_width_says_which_it_should_be(tmp_path, corpora):
    (tmp_path / "partial.cfg").write_text(PARTIAL.format(width=48))
    spacy_cli("init", "fill-config", tmp_path / "partial.cfg", tmp_path / "full.cfg")
    said = spacy_cli("train", tmp_path / "full.cfg", *as_options({**corpora, "training.max_steps": 1}), status=1)
    width = build(["ner"])["components"]["ner"]["model"]["tok2vec"]["elmo"]["width"]
    assert f"set width = {width}" in said


@pytest.mark.slow
def test_assemble_writes_a_pipeline_with_a_sourced_ner(trained, tmp_path, corpora):
    config = {
        "nlp": {"lang": "en", "pipeline": ["sentencizer", "elmo", "ner"]},
        "components": {name: {"source": str(trained)} for name in ("sentencizer", "elmo", "ner")},
    }
    Config(config).to_disk(tmp_path / "assemble.cfg")
    spacy_cli("assemble", tmp_path / "assemble.cfg", tmp_path / "out")
    assert same_parameters(trained, tmp_path / "out")
    nlp = spacy.load(tmp_path / "out")
    scores = nlp.evaluate(list(Corpus(corpora["paths.dev"])(nlp)))
    assert scores["ents_f"] == saved_score(trained)


@pytest.mark.slow
def test_package_names_what_it_needs(trained, tmp_path):
    spacy_cli("package", trained, tmp_path, "--name", "elmo_ner", "--version", "1.0.0", "--build", "none")
    package = tmp_path / "en_elmo_ner-1.0.0"
    requirements = json.loads((package / "meta.json").read_text())["requirements"]
    assert any(one.startswith("spacy-elmo") for one in requirements)
    nlp = spacy.load(package / "en_elmo_ner" / "en_elmo_ner-1.0.0")
    assert "Anna" in [ent.text for ent in nlp("Anna lives in Paris. She likes it!").ents]


def sourcing(trained, tiny, **ner):
    """Write a config whose ner comes from the trained pipeline, with a textcat to train."""
    config = load_config(tiny("textcat"))
    config["nlp"]["pipeline"] = ["sentencizer", "elmo", "ner", "textcat"]
    config["components"]["ner"] = {"source": str(trained), **ner}
    return config


@pytest.mark.slow
def test_a_sourced_ner_keeps_its_own_elmo_when_its_listener_is_replaced(trained, tiny, corpora, tmp_path):
    config = sourcing(trained, tiny, replace_listeners=["model.tok2vec.elmo"])
    config["training"]["frozen_components"] = ["ner"]
    config.to_disk(tmp_path / "source.cfg")
    out = tmp_path / "out"
    train(tmp_path / "source.cfg", out, **corpora, **BRIEF)
    nlp = spacy.load(out / "model-last")
    tok2vec = nlp.config["components"]["ner"]["model"]["tok2vec"]
    assert tok2vec["elmo"]["@architectures"] == "spacy-elmo.Tok2Vec.v1"
    assert nlp.get_pipe("elmo").listening_components == ["textcat"]
    assert assert_same_scores(out / "model-last", corpora)["ents_f"] == saved_score(trained)
    with nlp.select_pipes(disable=["elmo", "textcat"]):  # ner needs neither
        assert "Anna" in [ent.text for ent in nlp("Anna lives in Paris. She likes it!").ents]


@pytest.mark.slow
def test_replace_listeners_of_a_bare_listener(tmp_path, tiny, corpora, data):
    config = load_config(tiny("ner"))
    model = config["components"]["ner"]["model"]
    model["tok2vec"] = model["tok2vec"]["elmo"]
    config.to_disk(tmp_path / "bare.cfg")
    train(tmp_path / "bare.cfg", tmp_path / "bare", **corpora, **STEPS)
    first = tmp_path / "bare" / "model-last"
    second = sourcing(first, tiny, replace_listeners=["model.tok2vec"])
    second["training"]["frozen_components"] = ["ner"]
    second.to_disk(tmp_path / "source.cfg")
    out = tmp_path / "out"
    train(tmp_path / "source.cfg", out, **corpora, **BRIEF)
    assert assert_same_scores(out / "model-last", corpora)["ents_f"] == saved_score(first)


@pytest.mark.slow
def test_elmo_among_the_frozen_components_stays_and_is_learned_from(trained, tiny, corpora, tmp_path):
    # sentences are encoded in different batches, which round differently, so no two runs are exactly equal
    train(tiny("ner"), tmp_path, **corpora, **STEPS, **{"training.frozen_components": ["elmo"]})
    seals = [(path / "elmo" / "model" / "digest").read_text() for path in (trained, tmp_path / "model-last")]
    assert seals[0] == seals[1]
    assert assert_same_scores(tmp_path / "model-last", corpora)["ents_f"] > 0.8


@pytest.mark.slow
def test_a_frozen_elmo_among_the_annotating_components(tiny, corpora, tmp_path):
    freezing = {"training.frozen_components": ["elmo"], "training.annotating_components": ["sentencizer", "elmo"]}
    said = spacy_cli("train", tiny("ner"), "--output", tmp_path, *as_options({**corpora, **STEPS, **freezing}))
    assert "W086" not in said
    assert assert_same_scores(tmp_path / "model-last", corpora)["ents_f"] > 0.8


@pytest.mark.slow
def test_a_config_on_standard_output_trains(elmo, corpora, data, tmp_path):
    printed = elmo("init-config", "-", "--pipeline", "ner", "--weights", data / "tiny_2l_skip", "--quiet").stdout
    load_config_from_str(printed)
    (tmp_path / "ner.cfg").write_text(printed)
    train(tmp_path / "ner.cfg", **corpora, **BRIEF)


@pytest.mark.slow
def test_fine_tuning_with_all_that_goes_with_it(corpora, data, tmp_path):
    config = build(["ner", "textcat"], weights=str(data / "tiny_2l_skip"))
    config["components"]["elmo"].update(frozen=False, lr_scale=0.5, cache_path=str(tmp_path / "cache"))
    config["training"]["accumulate_gradient"] = 2
    config["training"]["optimizer"]["use_averages"] = True
    config["training"]["before_update"] = {
        "@callbacks": "spacy-elmo.gradual_unfreezing.v1",
        "upstream": "elmo",
        "unit": "step",
        "start": 10,
        "every": 10,
    }
    config.to_disk(tmp_path / "tuned.cfg", interpolate=False)
    train(tmp_path / "tuned.cfg", tmp_path / "out", **corpora, **STEPS)
    assert assert_same_scores(tmp_path / "out" / "model-last", corpora)["ents_f"] > 0.8
    tuned = shim_of(spacy.load(tmp_path / "out" / "model-last").get_pipe("elmo").model)
    assert tuned.digest != digest(load(data / "tiny_2l_skip"))
