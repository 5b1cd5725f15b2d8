"""Configs for `spacy train` that `init-config --pipeline` writes. test_spacy_commands.py trains with them."""

import io
import os
from functools import partial
from pathlib import Path

import pytest
import spacy
from spacy.util import load_config, load_config_from_str, load_model_from_config, registry
from thinc.api import Config

from spacy_elmo import ElmoError
from spacy_elmo.formats import load
from spacy_elmo.pipeline.listener import link_of
from spacy_elmo.tools.init_config import COMPONENTS, CONFIGS, OPTIMIZE, build, bundled, text

REGENERATE = "python -c 'from spacy_elmo.tools.init_config import write_bundled; write_bundled()' writes it again"
# All components that fit into one pipeline.
TOGETHER = [name for name in COMPONENTS if name not in ("spancat_singlelabel", "textcat_multilabel")]


@pytest.fixture
def init_config(elmo):
    """Run the command. Returns exit status, stdout and stderr."""
    return partial(elmo, "init-config")


def listeners(nlp, name):
    return [link for node in nlp.get_pipe(name).model.walk() if (link := link_of(node))]


def test_the_bundled_files_are_what_the_command_writes():
    expected = dict(bundled())
    assert {path.name for path in CONFIGS.iterdir()} == set(expected), REGENERATE
    for name, config in expected.items():
        assert load_config(CONFIGS / name) == Config(config), f"{name} is out of date; {REGENERATE}"


def test_a_written_file_is_a_bundled_one(elmo_process, tmp_path):
    path = tmp_path / "mine.cfg"
    status, printed, said = elmo_process("init-config", path, "--pipeline", "tagger, parser")
    assert (status, said) == (0, "")
    assert f"python -m spacy train {path}" in printed
    assert load_config(path) == load_config(CONFIGS / "tagger_parser.cfg"), REGENERATE


def test_standard_output_has_the_config_and_nothing_else(init_config):
    status, printed, said = init_config("-", "--pipeline", "ner,textcat", "--optimize", "accuracy")
    assert (status, said) == (0, "")
    assert load_config_from_str(printed) == load_config(CONFIGS / "ner_textcat_accuracy.cfg"), REGENERATE


def test_two_configs_at_once_are_wrong_usage(init_config):
    status, _, said = init_config("-", "--pipeline", "ner", "--pretrain")
    assert status == 2
    assert "run this once" in said


@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_nothing_is_left_to_fill_in(optimize):
    config = build(TOGETHER, optimize=optimize)
    assert load_config_from_str(text(config)) == config
    config["paths"]["kb"] = "kb"
    assert load_model_from_config(Config(config), auto_fill=True).config == config


def test_sections_stand_in_reading_order():
    sections = [line for line in text(build(["ner"])).splitlines() if line.startswith("[")]
    assert [s for s in sections if "." not in s][:4] == ["[paths]", "[system]", "[nlp]", "[components]"]
    place = sections.index("[components.ner.model.tok2vec]")
    assert sections[place - 2 : place] == ["[components.ner]", "[components.ner.model]"]
    assert len(set(sections)) == len(sections)


@pytest.mark.parametrize("optimize", OPTIMIZE)
@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_has_a_listener_of_the_width_of_the_weights(name, optimize, data):
    weights = str(data / "tiny_2l_skip")
    nlp = load_model_from_config(build([name], weights=weights, optimize=optimize))
    assert nlp.pipe_names == ["sentencizer", "elmo", name]
    assert [link.width for link in listeners(nlp, name)] == [load(weights).options.width] == [32]
    assert nlp.config["components"]["elmo"]["model"]["weights"] == weights
    annotating = ["sentencizer", *({"senter", "span_finder"} & {name})]
    assert nlp.config["training"]["annotating_components"] == annotating


@pytest.mark.parametrize(("optimize", "dropout"), [("speed", 0.25), ("accuracy", 0.5)])
def test_ner_has_dropout_on_elmo_and_no_hashed_features(optimize, dropout):
    tok2vec = build(["ner"], optimize=optimize)["components"]["ner"]["model"]["tok2vec"]
    assert (tok2vec["elmo"]["dropout"], tok2vec["embed"]) == (dropout, None)


def test_all_options_of_pipeline_are_in_the_help_and_the_docs(init_config):
    said = " ".join(init_config("--help").stdout.replace("│", " ").split())
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    for name in COMPONENTS:
        assert name in said
        assert f"`{name}`" in docs


def test_the_knowledge_base_is_the_one_path_beside_those_of_the_corpora(init_config, tmp_path):
    _, printed, _ = init_config(tmp_path / "mine.cfg", "--pipeline", "ner,entity_linker")
    assert printed.strip().endswith("--paths.dev DEV.spacy --paths.kb KB")
    config = load_config(tmp_path / "mine.cfg")
    assert [name for name, path in config["paths"].items() if path is None] == [
        *load_config(CONFIGS / "ner.cfg")["paths"],
        "kb",
    ]
    loader = config["initialize"]["components"]["entity_linker"]["kb_loader"]
    assert loader == {"@misc": "spacy.KBFromFile.v1", "kb_path": "${paths.kb}"}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_shows_the_steps_to_the_next_scores_on_a_terminal_only(is_terminal):
    nlp = load_model_from_config(build(["senter"]))
    nlp.config["training"]["eval_frequency"] = 7
    setup = registry.resolve({"logger": nlp.config["training"]["logger"]})["logger"]
    stdout, stderr = io.StringIO(), io.StringIO()
    stderr.isatty = lambda: is_terminal
    log_step, finish = setup(nlp, stdout, stderr)
    info = {
        "losses": {"elmo": 0.0, "senter": 1.0},
        "other_scores": {"sents_f": 0.5},
        "score": 0.5,
        "epoch": 0,
        "step": 0,
    }
    log_step(info)
    log_step(None)
    log_step(info | {"step": 7})
    finish()
    assert ("/7 [" in stderr.getvalue()) is is_terminal
    assert (stderr.getvalue() == "") is not is_terminal
    assert len(stdout.getvalue().splitlines()) == 4


def test_a_senter_is_scored_and_its_boundaries_go_to_those_behind_it():
    config = build(["senter", "parser"])
    assert config["components"]["senter"]["overwrite"] is True
    assert config["training"]["score_weights"]["sents_f"] > 0


@pytest.mark.parametrize("spancat", ["spancat", "spancat_singlelabel"])
def test_a_span_finder_suggests_what_a_span_categorizer_sorts(spancat):
    components = build(["span_finder", spancat])["components"]
    assert components[spancat]["suggester"]["@misc"] == "spacy.preset_spans_suggester.v1"
    assert components[spancat]["suggester"]["spans_key"] == components["span_finder"]["spans_key"]
    assert build([spancat])["components"][spancat]["suggester"]["@misc"] == "spacy.ngram_suggester.v1"


def test_only_what_is_trained_counts_as_score():
    for _, config in bundled():
        weights = config["training"]["score_weights"]
        assert weights["sents_f"] is None
        assert sum(filter(None, weights.values())) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("lang", "code"), [("deu", "de"), ("xx", "xx")])
def test_the_language_is_that_of_the_pipeline(init_config, lang, code):
    status, printed, said = init_config("-", "--pipeline", "ner", "--lang", lang)
    assert status == 0
    config = load_config_from_str(printed)
    assert config["nlp"]["lang"] == code
    assert load_model_from_config(config).pipe_names == ["sentencizer", "elmo", "ner"]
    assert len(said.strip().splitlines()) == 1
    assert "English" in said


@pytest.mark.parametrize("more", [["--quiet"], ["--weights", "{data}/tiny_2l_skip"]])
def test_no_warning_where_there_is_nothing_to_warn_of(init_config, data, more):
    status, _, said = init_config("-", "--pipeline", "ner", "--lang", "de", *(one.format(data=data) for one in more))
    assert (status, said) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--pipeline", "ner,nerr"], "'nerr'"),
        (["--pipeline", "ner,"], "''"),
        (["--pipeline", "ner,ner"], "twice"),
        (["--pipeline", "textcat,textcat_multilabel"], "doc.cats"),
        (["--pipeline", "spancat,spancat_singlelabel"], 'doc.spans["sc"]'),
        (["--pipeline", "parser,senter"], "put senter before it"),
        (["--pipeline", "entity_linker,ner"], "put ner before it"),
        (["--pipeline", "spancat,span_finder"], "put span_finder before it"),
        (["--pipeline", "elmo"], "'elmo'"),
        (["--pipeline", "ner", "--lang", "qq"], "'qq'"),
        (["--pipeline", "ner", "--lang", ""], "''"),
        (["--pipeline", "ner", "--weights", "no/such"], "no/such"),
    ],
)
def test_wrong_values_are_one_line_and_status_1(init_config, tmp_path, arguments, named):
    status, printed, said = init_config(tmp_path / "x.cfg", *arguments)
    assert (status, printed) == (1, "")
    assert named in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "x.cfg").exists()


def test_a_language_whose_tokenizer_is_not_installed_is_one_line(init_config, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("install\n  this")

    monkeypatch.setattr(spacy.util, "load_model_from_config", missing)
    status, _, said = init_config("-", "--pipeline", "ner", "--lang", "ja", "--quiet")
    assert status == 1
    assert said == "✘ language 'ja': install this\n"


def test_a_file_that_is_there_is_written_over_when_told_to(init_config, tmp_path):
    path = tmp_path / "mine.cfg"
    path.write_text("edited by hand")
    status, _, said = init_config(path, "--pipeline", "ner")
    assert status == 1
    assert said == f"✘ {path}: already exists; add --force to overwrite it\n"
    assert path.read_text() == "edited by hand"
    assert init_config(path, "--pipeline", "ner", "--force")[0] == 0
    assert load_config(path) == load_config(CONFIGS / "ner.cfg"), REGENERATE


def test_a_full_disk_leaves_the_old_file(init_config, tmp_path, monkeypatch):
    path = tmp_path / "old.cfg"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    status, _, said = init_config(str(path), "--pipeline", "tagger", "--force")
    assert (status, path.read_text()) == (1, "old")
    assert "No space left on device" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.cfg"]


def test_a_file_that_cannot_be_written_is_one_line_and_status_1(init_config, tmp_path):
    status, _, said = init_config(tmp_path / "no" / "x.cfg", "--pipeline", "ner")
    assert status == 1
    assert len(said.strip().splitlines()) == 1
    assert "cannot be written" in said


@pytest.mark.parametrize(
    "arguments",
    [[], ["--pipeline", "ner", "--pretrain"], ["--pipeline", "ner", "--optimize", "best"], ["--pipeline"]],
)
def test_wrong_usage_is_status_2(init_config, tmp_path, arguments):
    status, _, _ = init_config(tmp_path / "x.cfg", *arguments)
    assert status == 2
    assert not (tmp_path / "x.cfg").exists()


def test_an_empty_pipeline_is_an_error():
    with pytest.raises(ElmoError, match="empty"):
        build([])
