"""Shared code for tests of weights files: one of their arrays, other options, and equal layers."""

import json

import numpy as np

W_0 = "RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"
ENCODED = [["The", "same", "vectors", "."], ["naïve", "😀"]]


def same_layers(one, other):
    both = (bilm.requires_grad_(False).encode(ENCODED) for bilm in (one, other))  # trainable weights round differently
    for mine, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def change_options(directory, section, **changes):
    path = directory / "options.json"
    options = json.loads(path.read_bytes())
    (options[section] if section else options).update(changes)
    path.write_text(json.dumps(options))
