"""From text to a model and its figures, by the command line alone: init-config, pretrain, evaluate."""

import configparser
import json
import random
import re

import pytest
import spacy
from thinc.api import Config

from helpers.commands import as_options

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "."]  # of the vocabulary

TINY = {
    "model.dim": 16,
    "model.projection_dim": 8,
    "model.filters": [[1, 4], [2, 8]],
    "training.batch_size": 4,
    "training.unroll_steps": 5,
    "training.n_negative_samples_batch": 8,
    "training.max_steps": 6,
    "logging.log_every": 3,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write text in the layout of `prepare`."""
    root = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    for part, n in (("train", 80), ("heldout", 10)):
        (root / part).mkdir()
        lines = [" ".join(rng.choices([*WORDS, "mat"], k=rng.randint(2, 9))) for _ in range(n)]
        (root / part / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
    words = ["<S>", "</S>", "<UNK>", *WORDS]
    (root / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf8")
    return root


@pytest.fixture(scope="module")
def config(elmo, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "pretrain.cfg"
    done = elmo("init-config", path, "--pretrain", "--size", "xs")
    assert done.status == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def model(elmo_process, corpus, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "model"
    done = elmo_process("pretrain", corpus, out, "--config", config, "--quiet", *as_options(TINY))
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    return out


def test_a_written_config_reads_the_same_by_thinc_and_by_configparser(config):
    parser = configparser.ConfigParser()
    parser.read(config)
    plain = {name: {key: json.loads(value) for key, value in parser[name].items()} for name in parser.sections()}
    assert Config().from_disk(config) == plain
    assert plain["model"]["dim"] == 256
    assert plain["training"]["precision"] == "auto"


def test_a_trained_model_works_in_a_pipeline_at_once(model):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(model)}})
    assert nlp("the cat sat")[1].vector.shape == (16,)
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    keys = {"step", "tokens", "epoch", "loss", "perplexity", "tokens_per_second", "learning_rate"}
    assert all(set(line) == keys for line in lines)


def test_evaluate_as_json_and_as_a_table(elmo, elmo_process, model, corpus, tmp_path):
    pairs = [
        {"sentence_good": "the cat sat .", "sentence_bad": ". sat cat the", "linguistics_term": "order"},
        {"sentence_good": "a dog ran on", "sentence_bad": "a dog on ran", "linguistics_term": "place"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    done = elmo_process("evaluate", model, corpus / "heldout", "--blimp", tmp_path, "--json", "--quiet")
    assert done.status == 0, done.stderr
    figures = json.loads(done.stdout)
    lines = (corpus / "heldout" / "text.txt").read_text().splitlines()
    assert figures["tokens"] == sum(len(line.split()) + 1 for line in lines)
    for values in (figures, figures["zero_state"]):
        forward, backward, mean = (values[f"{d}perplexity"] for d in ("forward_", "backward_", ""))
        assert mean == pytest.approx((forward * backward) ** 0.5)
        assert 1 < mean < 30
    assert set(figures["blimp"]) == {"forward", "backward", "sum", "by_phenomenon"}
    assert set(figures["blimp"]["by_phenomenon"]) == {"order", "place"}
    table = elmo("evaluate", model, corpus / "heldout", "--blimp", tmp_path, "--quiet").stdout
    assert re.search(rf"^zero state .* {figures['zero_state']['perplexity']:.2f}$", table, re.MULTILINE)
    assert re.search(r"^order ", table, re.MULTILINE)


def test_evaluate_per_sentence(elmo, model, corpus, tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat .\n\n. zebra\n")
    done = elmo("evaluate", model, tmp_path / "text.txt", "--per-sentence", "--json")
    sentences = json.loads(done.stdout)["sentences"]
    assert [one["words"] for one in sentences] == [["the", "cat", "sat", "."], [".", "zebra"]]
    assert [one["unknown"] for one in sentences] == [0, 1]
    heading, *rows = elmo("evaluate", model, tmp_path / "text.txt", "--per-sentence").stdout.splitlines()
    assert heading.split() == ["perplexity", "log", "p", "unknown", "sentence"]
    for row, one in zip(rows, sentences, strict=True):
        shown = [f"{one['perplexity']:.2f}", f"{one['log_probability']:.2f}", str(one["unknown"]), *one["words"]]
        assert row.split() == shown
    for wrong in ((), ("text.txt", "--blimp", tmp_path)):
        assert elmo("evaluate", model, *wrong, "--per-sentence").status == 2


def test_a_softmax_that_lies_elsewhere(elmo, model, corpus, tmp_path):
    weights, apart = tmp_path / "weights", tmp_path / "softmax"
    for folder, names in ((weights, ("options.json", "weights.hdf5")), (apart, ("vocab.txt", "softmax.hdf5"))):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((model / name).read_bytes())
    (tmp_path / "text.txt").write_text("the cat sat .\n")
    for command in (("evaluate", "{}", tmp_path / "text.txt"), ("substitutes", tmp_path / "text.txt", "--model", "{}")):
        asked = [str(argument).format(weights) for argument in command]
        whole = elmo(*(str(argument).format(model) for argument in command), "--json", "--quiet")
        assert elmo(*asked, "--json", "--quiet").status == 1
        assert elmo(*asked, "--softmax", apart, "--json", "--quiet") == whole
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo_substitutes", config={"model": str(weights), "softmax": str(apart), "top": 1})
    found = nlp("the cat sat .")[0]._.elmo_substitutes
    assert json.loads(whole.stdout)["sentences"][0][0]["forward"]["probability"] == found["forward"]["probability"]


def test_vocabulary_that_fits_nothing_is_warned_about_once_and_seen_in_evaluate(elmo, tmp_path, config):
    """Upper-cased words with lower-cased text reach a very low perplexity, but only for `<UNK>`."""
    words = [f"w{number}" for number in range(40)]
    (tmp_path / "text.txt").write_text("".join(" ".join(words[n : n + 8]) + "\n" for n in range(32)) * 4)
    (tmp_path / "vocab.upper").write_text("<S>\n</S>\n<UNK>\n" + "".join(word.upper() + "\n" for word in words))
    arguments = ("pretrain", tmp_path / "text.txt", tmp_path / "out", "--config", config, *as_options(TINY))
    done = elmo(*arguments, "--corpus.vocabulary", tmp_path / "vocab.upper")
    assert done.status == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "⚠" in line]
    assert len(warnings) == 1
    assert "100% of the words of the corpus are not in the vocabulary and count as <UNK>" in warnings[0]
    assert "the same case" in warnings[0]
    figures = json.loads(elmo("evaluate", tmp_path / "out", tmp_path / "text.txt", "--json", "--quiet").stdout)
    assert figures["unknown_share"] == 1.0
    table = elmo("evaluate", tmp_path / "out", tmp_path / "text.txt", "--quiet").stdout
    assert "100.00% of the words are not in the vocabulary" in table


@pytest.mark.parametrize("argument", ["no/such/text", "--blimp=no/such/dir"])
def test_evaluate_on_nothing_is_one_line_and_status_1(elmo, model, argument):
    done = elmo("evaluate", model, argument)
    assert done.status == 1
    assert "no/such" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_language_that_spacy_does_not_know_is_one_line_and_status_1(elmo, model, tmp_path):
    pair = {"sentence_good": "a b", "sentence_bad": "b a", "linguistics_term": "order"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    done = elmo("evaluate", model, "--blimp", tmp_path, "--lang", "zz", "--quiet")
    assert done.status == 1
    assert "'zz'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_model_without_softmax_cannot_be_evaluated(elmo, data, corpus):
    done = elmo("evaluate", data / "tiny_2l_clip", corpus / "heldout")
    assert done.status == 1
    assert "vocab.txt" in done.stderr


def test_wrong_settings_are_status_1_and_named(elmo, corpus, config, tmp_path):
    done = elmo("pretrain", corpus, tmp_path / "out", "--config", config, "--training.batch_sise", "3")
    assert done.status == 1
    assert "did you mean 'batch_size'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("evaluate", "some_model"), ("init-config", "x.cfg"), ("init-config", "x.cfg", "--pretrain", "--size", "xxl")],
)
def test_wrong_usage_is_status_2(elmo, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert elmo(*arguments).status == 2
    assert not (tmp_path / "x.cfg").exists()


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "init-config"])
def test_help_has_an_example(elmo, command):
    assert f"python -m spacy elmo {command}" in elmo(command, "--help").stdout
