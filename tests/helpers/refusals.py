"""What a damaged or hostile model must lead to: one clear error, and no code executed."""

import os

import pytest

from spacy_elmo import WeightsError
from spacy_elmo.formats import load


def refused(path, message, error=WeightsError):
    """Check that loading raises `error`, in one line that names the path."""
    with pytest.raises(error, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Trap:
    """Makes a directory `mark` when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)
