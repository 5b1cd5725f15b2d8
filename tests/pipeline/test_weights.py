"""Using weights other than those that a listener was trained with is an error, however they got there."""

import copy
import shutil

import pytest
import spacy
import torch
from spacy.training import Example

from helpers.pipelines import (
    assert_same_scores,
    bilm_of,
    examples,
    listener,
    node_of,
    pipeline,
    scores,
    tensor_listener,
    train,
)
from spacy_elmo import WeightsError
from spacy_elmo.pipeline.shim import shim_of
from spacy_elmo.pipeline.weights import Weights


@pytest.fixture(params=[listener(), tensor_listener()], ids=["ours", "spaCy's"])
def tok2vec(request):
    """The config of a listener, ours or spaCy's."""
    return request.param


def test_weights_other_than_those_it_was_trained_with_are_an_error(tiny, tok2vec, data, tmp_path):
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 2)
    nlp.to_disk(tmp_path / "saved")
    saved = spacy.load(tmp_path / "saved")
    other = spacy.blank("en")
    other.add_pipe("elmo", config={"model": {"weights": "random"}})
    bilm = copy.deepcopy(bilm_of(saved))
    with torch.no_grad():
        next(bilm.parameters()).add_(1e-3)
    shim_of(other.get_pipe("elmo").model).set(bilm)
    other.add_pipe("tagger", source=saved)
    with pytest.raises(WeightsError, match=r"tagger: was trained with other weights than 'elmo' has now"):
        other("We sat here.")
    with pytest.raises(WeightsError, match="was trained with other weights"):
        other.update(examples(other))


def test_trained_over_weights_of_another_width_is_the_same_error(tiny):
    nlp = pipeline(tiny)
    train(nlp, 2)
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    other.add_pipe("elmo")  # the bundled model is wider
    other.add_pipe("tagger", source=nlp)
    with pytest.raises(WeightsError, match=r"tagger: was trained with other weights than 'elmo' has now"):
        other("We sat here.")


def other_weights(nlp):
    """Make a pipeline with an `elmo` whose weights differ a little."""
    bilm = copy.deepcopy(bilm_of(nlp))
    with torch.no_grad():
        next(bilm.parameters()).add_(1e-3)
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    other.add_pipe("elmo", config={"model": {"weights": "random"}})
    shim_of(other.get_pipe("elmo").model).set(bilm)
    return other


@pytest.mark.parametrize("through_disk", [True, False])
@pytest.mark.parametrize("has_run", [True, False])
def test_sourcing_beside_other_weights_is_an_error_that_saving_does_not_cure(
    tiny, tok2vec, tmp_path, through_disk, has_run
):
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 2)
    other = other_weights(nlp)
    if through_disk:
        nlp.to_disk(tmp_path / "source")
        nlp = spacy.load(tmp_path / "source")
    if has_run:
        nlp("We sat here.")
    other.add_pipe("tagger", source=nlp)
    other.to_disk(tmp_path / "assembled")
    for one in (other, spacy.load(tmp_path / "assembled")):
        with pytest.raises(WeightsError, match="trained with other weights"):
            one("We sat here.")
    nlp("We sat here.")  # the source pipeline still works as before


def test_weights_exchanged_under_a_trained_listener_are_an_error(tiny, tok2vec, tmp_path):
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 2)
    other = other_weights(nlp)
    other.get_pipe("elmo").to_disk(tmp_path / "elmo")
    nlp.get_pipe("elmo").from_disk(tmp_path / "elmo")
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp("We sat here.")


def test_weights_exchanged_under_a_listener_they_were_tuned_with_are_an_error(tiny, tok2vec, tmp_path):
    nlp = pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": False})
    train(nlp, 3)
    other_weights(nlp).get_pipe("elmo").to_disk(tmp_path / "elmo")
    nlp.get_pipe("elmo").from_disk(tmp_path / "elmo")
    with pytest.raises(WeightsError, match="trained with other weights"):
        nlp("We sat here.")


@pytest.mark.parametrize("is_saved", [False, True])
def test_weights_exchanged_for_those_of_an_elmo_that_is_removed_are_an_error(tiny, tok2vec, is_saved):
    nlp = pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": False})
    train(nlp, 3)
    nlp.remove_pipe("elmo")
    if is_saved:
        content = nlp.get_pipe("tagger").to_bytes()
        nlp = pipeline(tiny, tok2vec=tok2vec)
        nlp.initialize(lambda: examples(nlp))
        nlp.get_pipe("tagger").from_bytes(content)
    else:
        nlp.add_pipe("elmo", config={"model": {"weights": tiny}}, before="tagger")
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        nlp("We sat here.")


def test_untrained_component_beside_a_fine_tuned_elmo_is_an_error_also_when_loaded(tiny, tok2vec, tmp_path):
    nlp = pipeline(tiny, tok2vec=tok2vec)
    train(nlp, 2)
    nlp.to_disk(tmp_path / "first")
    nlp = spacy.load(tmp_path / "first", config={"components.elmo.frozen": False})
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": tok2vec}})
    data = examples(nlp, pos=True)
    nlp.get_pipe("morphologizer").initialize(lambda: data, nlp=nlp)
    optimizer = nlp.resume_training()
    for _ in range(3):
        nlp.update(data, sgd=optimizer, exclude=["tagger"], annotates=["sentencizer"])
    if tok2vec == listener():  # spaCy's are not told whether they are trained, so they only know it when loaded
        with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
            nlp("We sat here.")
    nlp.to_disk(tmp_path / "second")
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        spacy.load(tmp_path / "second")("We sat here.")


def test_fine_tuned_pipeline_loaded_over_another_is_that_one(tiny, tok2vec, tmp_path):
    nlp, other = (pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": False}) for _ in range(2))
    train(nlp, 3)
    train(other, 5)
    other.to_disk(tmp_path / "other")
    nlp.from_disk(tmp_path / "other")
    assert_same_scores(scores(nlp), scores(other))


@pytest.mark.parametrize("part", ["elmo", "tagger"])
def test_part_of_another_save_beside_a_fine_tuned_elmo_is_an_error_that_names_it(tiny, tok2vec, tmp_path, part):
    """As `nlp.to_disk` leaves it if it is cut after this part, over an earlier save."""
    nlp = pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": False})
    for name, n_updates in (("old", 3), ("new", 4)):
        train(nlp, n_updates)
        nlp.to_disk(tmp_path / name)
        spacy.load(tmp_path / name)("We sat here.")
    shutil.rmtree(tmp_path / "old" / part)
    shutil.copytree(tmp_path / "new" / part, tmp_path / "old" / part)
    with pytest.raises(WeightsError, match=r"^tagger: was trained with other weights than 'elmo' has now.*\Z"):
        spacy.load(tmp_path / "old")("We sat here.")


def save_without_record(nlp, path):
    """Save a pipeline with a listener of spaCy's as an earlier version did. Return the same as bytes."""
    attrs = node_of(nlp, "tok2vec-listener").attrs
    connection = attrs.pop("elmo_connection")
    nlp.to_disk(path)
    content = nlp.to_bytes()
    attrs["elmo_connection"] = connection
    return content


def test_listener_of_spacys_that_an_earlier_version_saved_is_not_checked(tiny, tmp_path):
    nlp = pipeline(tiny, tok2vec=tensor_listener(), elmo={"frozen": False})
    train(nlp, 3)
    before = scores(nlp)
    save_without_record(nlp, tmp_path / "saved")
    assert_same_scores(scores(spacy.load(tmp_path / "saved")), before)


@pytest.mark.parametrize("through_disk", [True, False])
def test_no_record_of_the_weights_is_left_when_a_save_without_one_is_loaded_over_it(tiny, tmp_path, through_disk):
    nlp, other = (pipeline(tiny, tok2vec=tensor_listener(), elmo={"frozen": False}) for _ in range(2))
    train(nlp, 3)
    train(other, 5)
    content = save_without_record(other, tmp_path / "other")
    if through_disk:
        nlp.from_disk(tmp_path / "other")
    else:
        nlp.from_bytes(content)
    assert_same_scores(scores(nlp), scores(other))


def test_a_frozen_listener_of_two_pipelines_reads_the_one_that_runs(tiny, tok2vec, data):
    one = pipeline(tiny, tok2vec=tok2vec)
    one.initialize(lambda: examples(one))
    two = spacy.blank("en")
    two.add_pipe("sentencizer")
    two.add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_clip")}})
    two.add_pipe("tagger", source=one)
    one.update(examples(one), annotates=["sentencizer"])
    one("We sat here.")
    with pytest.raises(WeightsError, match="tagger: was trained with other weights"):
        two("We sat here.")


def test_a_component_without_a_batch_can_be_evaluated_while_the_bilm_learns_from_another(tiny, tok2vec, tmp_path):
    nlp = pipeline(tiny, tok2vec=tok2vec)
    nlp.add_pipe("ner", config={"model": {"tok2vec": tok2vec or listener()}})
    named = Example.from_dict(nlp.make_doc("Anna sat"), {"entities": [(0, 4, "PER")], "tags": ["NOUN", "VERB"]})
    optimizer = nlp.initialize(lambda: [named, *examples(nlp)])
    nlp.update([named], sgd=optimizer, annotates=["sentencizer"])
    nlp.to_disk(tmp_path / "saved")
    nlp = spacy.load(tmp_path / "saved", config={"components.elmo.frozen": False})
    nlp.update(examples(nlp), sgd=False, annotates=["sentencizer"])  # no entities: ner learns nothing
    for _, pipe in nlp.pipeline:
        if hasattr(pipe, "finish_update"):
            pipe.finish_update(optimizer)
    assert nlp.evaluate([named])["tag_acc"] is not None


def test_an_error_in_the_identity_of_fine_tuned_weights_leaves_the_components_as_they_were_saved(
    tiny, tok2vec, tmp_path, monkeypatch
):
    nlp = pipeline(tiny, tok2vec=tok2vec, elmo={"frozen": False})
    train(nlp, 2)
    nlp.to_disk(tmp_path / "saved")
    before = scores(nlp)
    train(nlp, 3)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "identity", property(fail))
        with pytest.raises(MemoryError):
            nlp.to_disk(tmp_path / "saved")
    assert_same_scores(scores(spacy.load(tmp_path / "saved")), before)
