"""What TensorFlow 2 makes of TensorFlow 1's modules, what they give in it, and checkpoints that are not read.

Python 3.11, tensorflow-cpu 2.21.0.

    python make_with_tf2.py path/to/references/tensorflow/hub_tiny_2l_skip OUT

OUT is that of make_with_tf1.py.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

SENTENCES = [["the", "cat", "is", "here"], ["dogs", "are", "", ""]]
LENGTHS = [4, 2]
SENTENCE = [b"the", b"fox", b"\xc3\xa4"]  # as the module of make_with_tf1.py reads it
MAX_CHARACTERS = 50
BOS, EOS, START, END, PADDING = 256, 257, 258, 259, 260  # of bilm-tf's character ids, before 1 is added
v1 = tf.compat.v1


def main(hub: Path, out: Path) -> None:
    """Write the outputs of the module of the references, and the re-saved module of make_with_tf1.py with its own."""
    module = tf.saved_model.load(str(hub))
    outputs = module.signatures["tokens"](tokens=tf.constant(SENTENCES), sequence_len=tf.constant(LENGTHS))
    np.savez_compressed(out / "hub_outputs.npz", **{name: output.numpy() for name, output in outputs.items()})
    resave(out / "module", out / "resaved")
    save(out / "partitioned", partitioned)
    save(out / "first_format", partitioned, write_version=v1.train.SaverDef.V1)


def resave(source: Path, target: Path) -> None:
    """Save a module with another mix of its layers, as objects; run what was saved."""
    module = tf.saved_model.load(str(source))
    for variable in module.variables:
        if "_ELMo_" in variable.name:
            variable.assign([1.7] if "gamma" in variable.name else [0.3, -0.2, 0.5])
    tf.saved_model.save(module, str(target), signatures=dict(module.signatures))
    saved = tf.saved_model.load(str(target)).signatures["serving_default"]
    words = [characters([BOS]), *(characters([START, *word, END]) for word in SENTENCE), characters([EOS])]
    outputs = saved(ids=tf.constant([words], tf.int32))
    np.savez_compressed(target / "outputs.npz", **{name: output.numpy() for name, output in outputs.items()})


def characters(ids: list[int]) -> list[int]:
    """Ids of a word, 0 kept for "no word"."""
    if ids in ([BOS], [EOS]):
        ids = [START, *ids, END]
    return [one + 1 for one in ids + [PADDING] * (MAX_CHARACTERS - len(ids))]


def partitioned() -> None:
    """A variable in three pieces."""
    v1.get_variable("lm/char_embed", [261, 4], partitioner=v1.fixed_size_partitioner(3), use_resource=False)
    v1.get_variable("lm/RNN_0/rnn/lstm_cell/kernel", [16, 48], use_resource=False)


def save(folder: Path, build, **settings) -> None:
    """Save a graph's variables."""
    folder.mkdir()
    with tf.Graph().as_default(), v1.Session() as session:
        build()
        session.run(v1.global_variables_initializer())
        v1.train.Saver(**settings).save(session, str(folder / "model.ckpt-1"), write_meta_graph=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
