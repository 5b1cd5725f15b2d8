"""simple-elmo: bilm-tf's graph in TensorFlow 2. One session is kept for all calls."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers import BATCH, Sentences, batches_of


class Engine:
    """See peers/__init__.py."""

    def __init__(self, directory: Path, threads: int) -> None:
        os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        import tensorflow as tf
        from simple_elmo import ElmoModel
        from simple_elmo.elmo import weight_layers

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        logging.getLogger("simple_elmo.elmo_helpers").setLevel(logging.ERROR)
        self.model, v1 = ElmoModel(), tf.compat.v1
        self.model.load(str(directory), max_batch_size=BATCH)
        self.model.elmo_sentence_input = weight_layers("input", self.model.sentence_embeddings_op, use_layers="all")
        config = v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        self.session = v1.Session(config=config)
        self.session.run(v1.global_variables_initializer())
        trained = set(v1.trainable_variables())
        self.reset = v1.variables_initializer([one for one in v1.global_variables() if one not in trained])

    def run(self, sentences: Sentences) -> Any:
        """Encode one batch."""
        return self.model.get_elmo_vectors(sentences, warmup=False, layers="all", session=self.session)

    def encode(self, sentences: Sentences) -> Iterator[Any]:
        """Encode batch by batch, each from zero state."""
        for batch in batches_of(sentences):
            self.session.run(self.reset)
            for layers, sentence in zip(self.run(batch), batch, strict=True):
                yield layers[:, : len(sentence)].astype(np.float32)
