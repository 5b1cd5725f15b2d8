"""What the command finds, creates and leaves behind."""

import json
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from spacy_elmo import formats
from spacy_elmo.errors import CorpusError, ElmoError, PretrainingError
from spacy_elmo.formats import softmax_hdf5
from spacy_elmo.pretraining import checkpoint, inputs
from spacy_elmo.pretraining.checkpoint import Checkpoint
from spacy_elmo.pretraining.config import Config, ModelConfig
from spacy_elmo.pretraining.evaluation import Evaluation, Evaluator, Perplexities
from spacy_elmo.pretraining.run import CorpusFiles
from spacy_elmo.pretraining.steps import Steps
from spacy_elmo.pretraining.trainer import StoppedError, Trainer
from spacy_elmo.pretraining.vocabulary import Vocabulary


def state(out):
    return Checkpoint.read(out / checkpoint.NAME)


def arrays(path):
    """Return name, dtype and shape of everything in an HDF5 file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: (
                found.update({name: (node.dtype, node.shape)}) if isinstance(node, h5py.Dataset) else None
            )
        )
    return found


def test_files_have_the_names_types_and_shapes_of_bilm_tfs(train, shared):
    reference = shared / "references" / "bilm-tf-trained"
    architecture = ModelConfig.of(formats.load(reference).options, "reference")
    out = train(
        training__max_steps=1,
        corpus__vocabulary=str(reference / "vocab.txt"),
        **{f"model__{field.name}": getattr(architecture, field.name) for field in fields(architecture)},
    )
    for name in ("weights.hdf5", "softmax.hdf5"):
        assert arrays(out / name) == arrays(reference / name)
    assert arrays(out / "weights.hdf5")["char_embed"] == (np.dtype("float32"), (261, 16))
    n_words = len((out / "vocab.txt").read_text(encoding="utf8").splitlines())
    ours, theirs = (json.loads((path / "options.json").read_text()) for path in (out, reference))
    assert ours["char_cnn"]["n_characters"] == 262
    assert set(theirs) <= set(ours)
    assert {key: set(ours[key]) for key in ("lstm", "char_cnn")} == {
        key: set(theirs[key]) for key in ("lstm", "char_cnn")
    }
    assert (ours["n_tokens_vocab"], ours["batch_size"], ours["unroll_steps"]) == (n_words, 4, 5)


def test_written_model_is_the_trained_one(train):
    out = train(training__max_steps=10)
    bilm, trained = formats.load(out), state(out).model
    for name, tensor in bilm.state_dict().items():
        start = 1 if name == "embedder.embedding" else 0  # "no token" is in no file
        assert torch.equal(tensor[start:], trained[f"bilm.{name}"][start:]), name
    softmax = softmax_hdf5.read(out / "softmax.hdf5", len(trained["softmax.bias"]), 6)
    assert torch.equal(softmax.weight, trained["softmax.weight"])
    assert torch.equal(softmax.bias, trained["softmax.bias"])


def test_written_vocabulary_is_that_of_the_corpus(train, text):
    out = train(training__max_steps=1)
    written = Vocabulary.from_file(out / "vocab.txt")
    words = text().split()
    counts = [words.count(word) for word in written.words[3:]]
    assert written.words[:3] == ["<S>", "</S>", "<UNK>"]
    assert set(written.words[3:]) == set(words)
    assert counts == sorted(counts, reverse=True)


def test_trained_directory_works_in_the_component_at_once(train):
    spacy = pytest.importorskip("spacy")
    out = train(training__max_steps=10)
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"layers": "top", "model": {"weights": str(out)}})
    doc = nlp("w01 w08 w15")
    expected = formats.load(out).encode([["w01", "w08", "w15"]])[0][-1]
    np.testing.assert_allclose(doc._.elmo, expected, atol=1e-5)


def test_trained_directory_can_be_evaluated(train, text):
    out = train(training__n_epochs=6.0, optimizer__name="adam", optimizer__learning_rate=0.03)
    sentences = [line.split() for line in text(seed=5).splitlines() if line]
    found = Evaluator.load(out).perplexity(sentences)
    assert found.zero_state.perplexity < 0.6 * 27


def test_card_says_what_was_done(train):
    out = train("my_model", training__max_steps=10)
    card = json.loads((out / "model_card.json").read_text())
    assert card["name"] == "my_model"
    assert card["tokens_seen"] == 200
    assert "10 of 10 steps" in card["training"]
    assert "text.txt" in card["training_text"]


def test_config_in_the_directory_is_the_one_it_was_made_with(train, tiny_config):
    out = train(training__max_steps=3)
    assert Config.from_file(out / "pretrain.cfg") == tiny_config(training__max_steps=3)


def test_parts_of_a_prepared_corpus_are_found(prepared):
    found = CorpusFiles.find(prepared, Config())
    assert found.train == [prepared / "train" / "a.txt", prepared / "train" / "b.txt"]
    assert found.vocabulary == prepared / "vocab.txt"
    assert found.heldout == [prepared / "heldout" / "a.txt"]


def test_config_may_name_other_vocabulary_and_heldout_text(prepared, tmp_path, tiny_config):
    for name in ("v.txt", "h.txt"):
        (tmp_path / name).write_text("x\n")
    config = tiny_config(corpus__vocabulary=str(tmp_path / "v.txt"), corpus__heldout=str(tmp_path / "h.txt"))
    for corpus in (prepared, prepared / "train" / "a.txt"):
        found = CorpusFiles.find(corpus, config)
        assert (found.vocabulary, found.heldout) == (tmp_path / "v.txt", [tmp_path / "h.txt"])


def test_paths_of_the_config_may_begin_at_home(prepared, tmp_path, tiny_config, monkeypatch):
    (tmp_path / "v.txt").write_text("x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    found = CorpusFiles.find(prepared, tiny_config(corpus__vocabulary="~/v.txt", corpus__heldout="~/v.txt"))
    assert (found.vocabulary, found.heldout) == (tmp_path / "v.txt", [tmp_path / "v.txt"])


def test_vocabulary_beside_unprepared_text_is_not_trained_on(tmp_path, text):
    """A directory has texts and a vocab.txt, which the config's comment says is used."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(text())
    (tmp_path / "texts" / "vocab.txt").write_text("<S>\n</S>\n<UNK>\nw01\n")
    assert CorpusFiles.find(tmp_path / "texts", Config()).train == [tmp_path / "texts" / "a.txt"]


def test_heldout_text_is_evaluated_behind_each_epoch(train, prepared, log):
    out = train(corpus=prepared, training__n_epochs=3.0)
    lines = log.lines(out, "heldout.jsonl")
    assert len(lines) == 3
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert {"step", "tokens", "forward_perplexity", "backward_perplexity", "perplexity", "zero_state"} <= set(lines[0])
    sentences = [line.split() for line in (prepared / "heldout" / "a.txt").read_text().splitlines() if line]
    expected = Evaluator.load(out).perplexity(sentences)
    assert lines[-1]["perplexity"] == pytest.approx(expected.carried.perplexity, rel=1e-4)
    assert lines[-1]["zero_state"]["perplexity"] == pytest.approx(expected.zero_state.perplexity, rel=1e-4)
    card = json.loads((out / "model_card.json").read_text())
    assert card["heldout_perplexity"]["perplexity"] == lines[-1]["perplexity"]


def test_log_of_evaluations_counts_the_tokens_seen_in_training(train, prepared, log):
    out = train(corpus=prepared, training__n_epochs=1.0)
    assert log.lines(out, "heldout.jsonl")[-1]["tokens"] == log.lines(out)[-1]["tokens"]


class Crash(BaseException):
    """Like a kill: none of the program's code runs afterwards."""


def test_evaluations_are_not_logged_twice_when_a_crashed_run_goes_on(train, prepared, log, monkeypatch):
    whole = train("whole", corpus=prepared, training__n_epochs=3.0)
    expected = log.lines(whole, "heldout.jsonl")
    original = Trainer._take_step

    def take_step(trainer):
        if trainer.steps.step == 5:
            trainer._saved = -1e9  # the only checkpoint, in the middle of the first epoch
        if trainer.steps.step == expected[0]["step"] + 3:
            raise Crash
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", take_step)
        with pytest.raises(Crash):
            train("crashed", corpus=prepared, training__n_epochs=3.0)
    out = train("crashed", corpus=prepared, training__n_epochs=3.0, resume=True)
    assert log.lines(out, "heldout.jsonl") == expected


def test_run_stopped_at_the_end_of_an_epoch_evaluates_when_it_goes_on(train, prepared, log, monkeypatch):
    whole = train("whole", corpus=prepared, training__n_epochs=3.0)
    expected = log.lines(whole, "heldout.jsonl")
    original = Trainer._take_step

    def take_step(trainer):
        if trainer.steps.step == expected[0]["step"] - 1:
            signal.raise_signal(signal.SIGTERM)
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", take_step)
        with pytest.raises(StoppedError):
            train("stopped", corpus=prepared, training__n_epochs=3.0)
    assert not (whole.parent / "stopped" / "heldout.jsonl").exists()
    out = train("stopped", corpus=prepared, training__n_epochs=3.0, resume=True)
    assert log.lines(out, "heldout.jsonl") == expected


def test_evaluation_at_the_end_of_a_run_stays_when_it_is_given_more_steps(train, prepared, log):
    out = train(corpus=prepared, training__max_steps=7)
    first = log.lines(out, "heldout.jsonl")
    train(corpus=prepared, training__max_steps=9, resume=True)
    assert [line["step"] for line in log.lines(out, "heldout.jsonl")] == [7, 9]
    assert log.lines(out, "heldout.jsonl")[:1] == first


def test_disagreement_of_zero_and_carried_state_is_warned_about(train, prepared, monkeypatch, capsys):
    bad = Evaluation(9, Perplexities(100, 100, 100), Perplexities(2e10, 90, 1e5))
    monkeypatch.setattr(Evaluator, "perplexity", lambda *_: bad)
    train(corpus=prepared, training__max_steps=2)
    assert "forward perplexity is 2e+10 from zero state, as the model is used" in capsys.readouterr().err


def test_empty_heldout_text_is_an_error_before_training_starts(train, prepared, tmp_path):
    (prepared / "heldout" / "a.txt").write_text("\n")
    with pytest.raises(CorpusError):
        train(corpus=prepared, training__max_steps=2)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_raw_text_in_place_of_the_prepared_corpus_is_warned_about(train, prepared, tmp_path, capsys):
    train("good", prepared, training__max_steps=1)
    assert "⚠" not in capsys.readouterr().err
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "text.txt").write_text("The bank lent money, they say.\nIt didn't rain.\n" * 20)
    train("bad", tmp_path / "raw", training__max_steps=1)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "looks like raw text" in warning
    assert "make a corpus of it with `python -m spacy elmo prepare`" in warning


def test_vocabulary_out_of_order_is_warned_about(train, tmp_path, capsys):
    frequent = " ".join(f"z{n}" for n in range(60)) + "\n"
    (tmp_path / "skewed.txt").write_text("".join(frequent.replace("z", "y") for _ in range(20)) + frequent)
    words = [*(f"z{n}" for n in range(60)), *(f"y{n}" for n in range(60))]
    for name, order in (("bad", words), ("good", words[::-1])):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(word + "\n" for word in ("<S>", "</S>", "<UNK>", *order)))
        train(name, corpus=tmp_path / "skewed.txt", corpus__vocabulary=str(path), training__max_steps=2)
        assert ("far from the order of falling counts" in capsys.readouterr().err) == (name == "bad")


def test_used_directory_is_refused_for_a_new_run_and_stays_as_it_is(train):
    out = train(training__max_steps=3)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(PretrainingError, match=r"this directory holds a run; continue it with --resume"):
        train(training__max_steps=9)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kept", [("options.json",), ("weights.hdf5",), ("options.json", "weights.hdf5", "vocab.txt")])
def test_model_in_the_directory_is_not_overwritten_not_even_by_a_run_that_begins_with_it(train, tmp_path, kept):
    model = train("model", training__max_steps=3)
    for path in [path for path in model.iterdir() if path.is_file() and path.name not in kept]:
        path.unlink()
    before = contents(model)
    with pytest.raises(PretrainingError, match="this directory holds a model, which a run would overwrite"):
        train("model", init_from=model, training__max_steps=3)
    assert contents(model) == before


@pytest.mark.parametrize("moment", ["encode", "count_words"])
def test_run_killed_before_its_first_step_can_be_resumed(train, log, monkeypatch, moment):
    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(f"spacy_elmo.pretraining.inputs.{moment}", crash)
        with pytest.raises(Crash):
            train("killed", training__max_steps=6)
    killed, whole = train("killed", training__max_steps=6, resume=True), train("whole", training__max_steps=6)
    assert log.losses(killed) == log.losses(whole)


@pytest.mark.parametrize("resume", [False, True])
def test_second_process_in_one_directory_is_told_so_and_the_first_goes_on(train, log, monkeypatch, resume):
    errors, advance = [], Steps.advance

    def meanwhile(steps):
        if not errors:
            errors.append("")
            with pytest.raises(PretrainingError) as error:
                train("both", training__max_steps=6, resume=resume)
            errors.append(str(error.value))
        return advance(steps)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "advance", meanwhile)
        both = train("both", training__max_steps=6)
    in_use = "another process is training in this directory; wait until it ends, or name another directory"
    assert errors[1] == f"{both}: {in_use}"
    assert log.losses(both) == log.losses(train("whole", training__max_steps=6))
    assert sorted(path.name for path in both.iterdir() if path.name.startswith(".")) == []


def test_run_that_has_begun_and_ended_between_two_looks_is_not_written_over(train, monkeypatch):
    mkdir = Path.mkdir

    def late(path, **settings):
        monkeypatch.undo()
        train(training__max_steps=3)
        mkdir(path, **settings)

    monkeypatch.setattr(Path, "mkdir", late)
    with pytest.raises(PretrainingError, match=r"this directory holds a run; continue it with --resume"):
        train(training__max_steps=3)


def test_torchrun_overwrites_no_model_either(train, monkeypatch):
    model = train("model", training__max_steps=3)
    for name in ("checkpoint.pt", "metrics.jsonl", "pretrain.cfg"):
        (model / name).unlink()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    with pytest.raises(PretrainingError, match="this directory holds a model"):
        train("model", training__max_steps=3, resume=True)


def test_full_disk_when_the_model_is_written_is_an_error_of_ours(train, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(softmax_hdf5, "write", full)
    with pytest.raises(PretrainingError, match=r"out: cannot be written \(.*No space left.*\); --resume"):
        train(training__max_steps=3)
    monkeypatch.undo()
    out = train(training__max_steps=3, resume=True)
    Evaluator.load(out)


@pytest.mark.parametrize("exists", [False, True])
def test_empty_directory_cannot_be_resumed(train, tmp_path, exists):
    if exists:
        (tmp_path / "out").mkdir()
    with pytest.raises(PretrainingError, match="no run in this directory to resume"):
        train(resume=True)
    assert (tmp_path / "out").exists() == exists


def test_place_that_cannot_be_a_directory_is_an_error_of_ours(train, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ElmoError, match="out: cannot be"):
        train(training__max_steps=3)


def test_corpus_that_is_not_there_leaves_nothing_behind(train, tmp_path):
    with pytest.raises(CorpusError, match="no such text"):
        train(corpus=tmp_path / "missing")
    with pytest.raises(CorpusError, match="no such text"):
        train(corpus=tmp_path / "missing")  # a second time: the first try has not made it a used directory


def test_run_that_failed_for_too_little_text_takes_the_words_of_the_text_it_is_given_next(train, tmp_path, text):
    path = tmp_path / "grows.txt"
    path.write_text("only a few words\n")
    with pytest.raises(CorpusError, match="less than one batch"):
        train(corpus=path)
    path.write_text(text())
    out = train(corpus=path, training__max_steps=3)
    assert set(Vocabulary.from_file(out / "vocab.txt").words[3:]) == set(text().split())


def test_run_that_failed_takes_the_settings_of_its_vocabulary_given_next(train, tmp_path, text):
    with pytest.raises(CorpusError, match="less than one batch"):
        train(training__batch_size=10_000)
    out = train(training__max_steps=3, corpus__max_size=10)
    assert len(Vocabulary.from_file(out / "vocab.txt")) == 10


def test_device_that_is_not_there_is_an_error_that_names_it(train):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(PretrainingError, match="device is 'cuda', but torch sees no GPU here"):
        train(training__device="cuda")
    with pytest.raises(PretrainingError, match="device is 'gpu'"):
        train(training__device="gpu")


def test_encoded_corpus_is_used_again_by_the_resumed_run(train, monkeypatch):
    train(training__max_steps=3)
    from spacy_elmo.pretraining import corpus

    monkeypatch.setattr(corpus, "read_sentences", lambda _: pytest.fail("read the text again"))
    train(training__max_steps=6, resume=True)


@pytest.fixture
def origin(train, tmp_path, text):
    """Train a model, and write other text with some words in common."""
    out = train("origin", training__max_steps=20)
    (tmp_path / "domain.txt").write_text(text(80, seed=7).replace("w0", "new"))
    return out


class Stop(BaseException):
    """Ends a run before its first step."""


def test_run_from_another_model_starts_with_its_numbers(train, origin, tmp_path, monkeypatch):
    seen = {}

    def stop(trainer, *_):
        seen.update(trainer.steps.model.state_dict())
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", stop)
        with pytest.raises(Stop):
            train("domain", corpus=tmp_path / "domain.txt", init_from=origin)
    trained = state(origin).model
    for name, tensor in trained.items():
        if name.startswith("bilm"):
            start = 1 if name == "bilm.embedder.embedding" else 0
            assert torch.equal(seen[name][start:], tensor[start:]), name
    here, there = (Vocabulary.from_file(tmp_path / name / "vocab.txt") for name in ("domain", "origin"))
    shared = [word for word in here.words if word in there.ids]
    assert 5 < len(shared) < len(here)
    for part in ("weight", "bias"):
        for word in shared:
            assert torch.equal(seen[f"softmax.{part}"][here.ids[word]], trained[f"softmax.{part}"][there.ids[word]])
    new = [here.ids[word] for word in here.words if word not in there.ids]
    assert seen["softmax.weight"][new].abs().sum(1).min() > 0


def test_run_from_another_model_trains_all_of_it_and_says_where_it_began(train, origin, tmp_path):
    out = train("domain", corpus=tmp_path / "domain.txt", init_from=origin, training__max_steps=5)
    before, after = formats.load(origin).state_dict(), formats.load(out).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    third = train("third", corpus=tmp_path / "domain.txt", init_from=out, training__max_steps=2)
    cards = [json.loads((path / "model_card.json").read_text()) for path in (origin, out, third)]
    seen = [card["tokens_seen"] for card in cards]
    assert [card.get("initialized_from") for card in cards] == [None, str(origin), str(out)]
    assert [card.get("tokens_seen_before") for card in cards] == [None, seen[0], seen[0] + seen[1]]


def test_run_from_another_model_keeps_its_licence_and_attribution(train, origin, tmp_path):
    folder = tmp_path / "licensed"
    shutil.copytree(origin, folder)
    card = json.loads((folder / "model_card.json").read_text())
    (folder / "model_card.json").write_text(json.dumps({**card, "license": "CC BY-SA 4.0", "attribution": "By A."}))
    (folder / "ATTRIBUTION.md").write_text("Names of authors.")
    out = train("domain", corpus=tmp_path / "domain.txt", init_from=folder, training__max_steps=2)
    card = json.loads((out / "model_card.json").read_text())
    assert (card["license"], card["attribution"]) == ("CC BY-SA 4.0", "By A.")
    assert (out / "ATTRIBUTION.md").read_text() == "Names of authors."
    assert "attribution_text" not in card


def test_run_from_another_model_killed_at_once_is_resumed_from_that_model_or_not_at_all(
    train, origin, tmp_path, monkeypatch
):
    """--resume alone does not name the model."""
    arguments = {"corpus": tmp_path / "domain.txt", "training__max_steps": 4}

    def crash(*_):
        raise Crash

    for moment, name in ((inputs, "encode"), (Trainer, "_take_step")):
        with monkeypatch.context() as patch:
            patch.setattr(moment, name, crash)
            with pytest.raises(Crash):
                train(name, init_from=origin, **arguments)
        with monkeypatch.context() as patch:  # after a run from scratch that was killed there, too
            patch.setattr(inputs, "encode", crash)
            with pytest.raises(Crash):
                train("encode", **arguments)
            with pytest.raises(Crash):
                train("encode", init_from=origin, **arguments)
    with pytest.raises(PretrainingError, match="no run in this directory to resume"):
        train("encode", resume=True, **arguments)
    whole = train("whole", init_from=origin, **arguments)
    resumed = train("_take_step", resume=True, **arguments)
    for name, tensor in state(whole).model.items():
        assert torch.equal(state(resumed).model[name], tensor), name


def test_model_without_softmax_can_be_gone_on_from(train, origin, tmp_path):
    (origin / "softmax.hdf5").unlink()
    out = train("domain", corpus=tmp_path / "domain.txt", init_from=origin, training__max_steps=2)
    assert (out / "softmax.hdf5").is_file()


def test_run_from_another_model_is_resumed_to_the_same_numbers_with_the_config_it_left(
    train, origin, tmp_path, monkeypatch, tiny_config
):
    """It has the architecture of the model, and not of the config that it was given."""
    arguments = {"corpus": tmp_path / "domain.txt", "model__dim": 12, "training__max_steps": 12}
    whole = train("whole", init_from=origin, **arguments)
    original = Trainer._take_step

    def take_step(trainer):
        if trainer.steps.step == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", take_step)
        with pytest.raises(StoppedError):
            train("stopped", init_from=origin, **arguments)
    config = Config.from_file(tmp_path / "stopped" / "pretrain.cfg")
    assert config.model == tiny_config().model
    train("stopped", resume=True, corpus=tmp_path / "domain.txt", training__max_steps=12)
    card = json.loads((tmp_path / "stopped" / "model_card.json").read_text())
    assert card["initialized_from"] == str(origin)
    for name, tensor in state(whole).model.items():
        assert torch.equal(state(tmp_path / "stopped").model[name], tensor), name


def test_word_input_model_cannot_be_gone_on_from(train, tmp_path):
    from spacy_elmo.bilm import BiLM, BiLMOptions

    words = BiLM(BiLMOptions.from_dict({"lstm": {"dim": 6, "projection_dim": 6}}), ["<S>", "</S>", "<UNK>", "a"])
    formats.write(words, tmp_path / "words")
    with pytest.raises(PretrainingError, match="reads whole words"):
        train(init_from=tmp_path / "words", training__max_steps=2)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_corpus_is_an_error(train, tmp_path, content):
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(CorpusError, match="no sentence"):
        train(corpus=tmp_path / "empty.txt")


def test_text_with_crlf_and_no_line_end_trains_as_any_other(train, tmp_path, text, log):
    plain = train("plain", training__max_steps=6)
    (tmp_path / "odd.txt").write_bytes(text().rstrip("\n").replace("\n", "\r\n").encode())
    odd = train("odd", corpus=tmp_path / "odd.txt", training__max_steps=6)
    assert log.losses(odd) == log.losses(plain)
