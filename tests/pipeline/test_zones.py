"""Memory zones of one pipeline: one after the other, and two at once."""

import pickle
import threading

import numpy as np
import pytest

from helpers.pipelines import blank
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.zones import Zones

AT_ONCE = "two memory zones of one pipeline were open at once"


@pytest.fixture
def nlp(data):
    return blank(data / "tiny_2l_skip")


def in_thread(work):
    """Run the work in another thread to its end. Returns what it raised."""
    raised = []

    def catch():
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=catch)
    thread.start()
    thread.join()
    return raised


def test_zones_one_after_the_other_are_right(nlp):
    expected = nlp("some words")._.elmo.copy()
    for number in range(3):
        with nlp.memory_zone():
            np.testing.assert_allclose(nlp("some words")._.elmo, expected, rtol=0, atol=1e-5)
            assert nlp(f"new{number}").text == f"new{number}"


def test_a_zone_in_another_thread_is_refused_and_so_is_the_one_it_has_broken(nlp):
    def work():
        with nlp.memory_zone():
            raise AssertionError("it is open")

    refused = []
    with pytest.raises(ElmoError, match=AT_ONCE), nlp.memory_zone():
        refused += in_thread(work)
    (error,) = refused
    assert isinstance(error, ElmoError)
    with nlp.memory_zone():  # as if nothing had happened
        assert nlp("more words")._.elmo.any()


def test_what_spacy_says_of_a_word_that_another_zone_has_taken_is_an_error_of_ours(nlp):
    def work():
        with nlp.memory_zone():
            pass

    def open_a_zone():
        with nlp.memory_zone():
            doc = nlp("unheardof")
            in_thread(work)
            _ = doc[0].text

    with pytest.raises(ElmoError, match=AT_ONCE) as caught:
        open_a_zone()
    assert "E018" in str(caught.value.__cause__)


def test_another_error_in_a_zone_stays_what_it_is(nlp):
    with pytest.raises(ZeroDivisionError), nlp.memory_zone():
        _ = 1 / 0


def test_a_doc_whose_zone_has_ended_is_refused(nlp):
    elmo = nlp.get_pipe("elmo")
    with nlp.memory_zone() as pool:  # kept, so that only the words are gone
        doc = nlp.make_doc("neverseenbefore")
    with pytest.raises(ElmoError, match="the memory zone in which the Doc was made has ended"):
        elmo(doc)
    assert pool is not None


def test_a_zone_around_threads_is_one_zone(nlp):
    expected = nlp("some words")._.elmo.copy()
    found = []
    with nlp.memory_zone():
        raised = in_thread(lambda: found.append(nlp("some words")._.elmo.copy()))
    assert raised == []
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


def test_another_process_begins_with_no_zone_open():
    zones = Zones()
    with zones.opened():
        copy = pickle.loads(pickle.dumps(zones))
        with copy.opened():
            pass
