"""Models that bilm-tf's own code trains, dumps and exports, in the variations that the references lack.

Python 3.7, tensorflow 1.15.5, numpy 1.18.5, h5py 2.10.0, protobuf 3.19.6; allenai/bilm-tf at 7cffee2, unchanged.

    PYTHONPATH=path/to/bilm-tf python make_with_tf1.py OUT
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from bilm import BidirectionalLanguageModel, weight_layers
from bilm.data import BidirectionalLMDataset, UnicodeCharsVocabulary, Vocabulary
from bilm.training import dump_weights, train

WORDS = ["<S>", "</S>", "<UNK>", "the", "fox", ".", "runs", "over", "dog", "lazy", "A", "a", "b"]
LSTM = {"use_skip_connections": True, "projection_dim": 4, "cell_clip": 3, "proj_clip": 3, "dim": 6, "n_layers": 2}
CNN = {
    "activation": "relu",
    "filters": [[1, 2], [2, 4]],
    "n_highway": 1,
    "embedding": {"dim": 3},
    "n_characters": 261,
    "max_characters_per_token": 50,
}
TRAINING = {
    "bidirectional": True,
    "dropout": 0.1,
    "all_clip_norm_val": 10.0,
    "n_epochs": 1,
    "n_train_tokens": 12,
    "batch_size": 2,
    "n_tokens_vocab": len(WORDS),
    "unroll_steps": 1,
    "n_negative_samples_batch": 4,
}
NO_CLIPS = {"cell_clip": None, "proj_clip": None}
MODELS = {
    "one_layer_tanh": (
        {"n_layers": 1, "use_skip_connections": False, **NO_CLIPS},
        {"activation": "tanh", "max_characters_per_token": 16, "n_highway": 0},
        {"unroll_steps": 3},
    ),
    "three_layers_proj_clip": (
        {"n_layers": 3, "cell_clip": None, "proj_clip": 0.3},
        {"n_highway": 2, "max_characters_per_token": 20},
        {},
    ),
    "no_dropout": ({}, {}, {"dropout": 0.0}),
    "shared_softmax": ({}, None, {"share_embedding_softmax": True}),
    "cell_clip_no_skip": ({"proj_clip": None, "cell_clip": 0.7, "use_skip_connections": False}, {}, {}),
}
EXPORTED = "cell_clip_no_skip"


def main(out: Path) -> None:
    """Train each of them for six steps on random sentences, dump it; export the last one for inference."""
    random = np.random.RandomState(0)
    lines = [" ".join(random.choice(WORDS[3:], random.randint(2, 9))) for _ in range(60)]
    out.mkdir()
    text, vocabulary = out / "text.txt", out / "vocab.txt"
    text.write_text("\n".join(lines) + "\n")
    vocabulary.write_text("\n".join(WORDS) + "\n")
    for name, (lstm, cnn, others) in MODELS.items():
        options = {**TRAINING, "lstm": {**LSTM, **lstm}, **others}
        if cnn is not None:
            options["char_cnn"] = {**CNN, **cnn}
        folder = out / name
        folder.mkdir()
        shutil.copy(str(vocabulary), str(folder))
        tf.compat.v1.reset_default_graph()
        words = (
            Vocabulary(str(vocabulary))
            if cnn is None
            else UnicodeCharsVocabulary(str(vocabulary), options["char_cnn"]["max_characters_per_token"])
        )
        train(options, BidirectionalLMDataset(str(text), words), 1, str(folder), str(folder / "log"))
        shutil.rmtree(str(folder / "log"))
        tf.compat.v1.reset_default_graph()
        dump_weights(str(folder), str(folder / "dumped.hdf5"))
    export(out / EXPORTED, out / "module")


def export(trained: Path, module: Path) -> None:
    """The graph of inference with a mix of the layers, as a SavedModel."""
    options = json.loads((trained / "options.json").read_text())
    options["char_cnn"]["n_characters"] = 262
    inference = trained.parent / "options_of_inference.json"
    inference.write_text(json.dumps(options))
    tf.compat.v1.reset_default_graph()
    tf.compat.v1.enable_resource_variables()  # as tensorflow-hub does; TensorFlow 2 loads no others
    ids = tf.compat.v1.placeholder("int32", (None, None, options["char_cnn"]["max_characters_per_token"]))
    ops = BidirectionalLanguageModel(str(inference), str(trained / "dumped.hdf5"), max_batch_size=4)(ids)
    outputs = {"layers": ops["lm_embeddings"], "mix": weight_layers("input", ops, l2_coef=0.0)["weighted_op"]}
    with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(module), {"ids": ids}, outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
