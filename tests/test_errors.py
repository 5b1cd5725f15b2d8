"""Errors are one line, and come out of other processes as they are."""

import pickle
import signal

import pytest

from spacy_elmo import ElmoError, WeightsError
from spacy_elmo.pipeline.zones import _OverlapError
from spacy_elmo.pretraining.trainer import StoppedError


@pytest.mark.parametrize(
    "error", [ElmoError("a"), WeightsError("b"), StoppedError("c", signal.SIGTERM), _OverlapError()], ids=repr
)
def test_errors_can_be_sent_to_another_process(error):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), found.exit_status) == (str(error), error.exit_status)


def test_a_message_is_one_line_of_text():
    assert str(ElmoError("a\nb")) == "a\\nb"
    assert str(ElmoError(OSError("c"))) == "c"
