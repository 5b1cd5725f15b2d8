"""A directory with a model in, its layers and the seconds that they took out: every implementation of ELMo timed here.

    python engines.py ENGINE [--threads N]

Answers the commands of `Commands` (see worker.py) under the Python of the engine's environment, so that nothing but the
standard library and numpy is imported before an engine is made.

spacy-elmo: `BiLM.encode`; of many sentences `BiLM.stream`, whose arrays are made as `encode` makes them and dropped
    batch by batch, as those of the others are.
plain loop: ELMo written down directly with torch's own operators, as AllenNLP has it (plain_loop.py).
simple-elmo: TensorFlow, with a session that is kept.
simple-elmo-pytorch, allennlp: AllenNLP's biLM, without the mix of layers that would be put on top of it. Of allennlp,
    the packages `allennlp`, `.modules` and `.data` are entered without running their `__init__`: these import all of
    the library, and with it torchvision and fairscale, which ELMo has no use for. ELMo's own files run as they are.
"""

import argparse
import importlib.util
import logging
import os
import sys
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from worker import serve

Sentences = Sequence[Sequence[str]]
Array = npt.NDArray[np.float32]

OURS, PLAIN_LOOP = "spacy-elmo", "plain loop"
BATCH = 32  # of all but ours
KEPT = 64  # sentences whose layers ours keeps until it has all, as `encode` does


def main() -> None:
    """Serve one engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    commands = Commands(args.engine, args.threads)
    serve({name: getattr(commands, name) for name in ("load", "encode", "time")})


class Engine(ABC):
    """An implementation of ELMo with a model loaded.

    packages: whose versions matter.
    """

    packages: tuple[str, ...] = ("torch",)

    @abstractmethod
    def __init__(self, directory: Path, threads: int) -> None: ...

    @abstractmethod
    def run(self, sentences: Sentences) -> object:
        """Encode sentences in one call; what comes of it is dropped."""

    @abstractmethod
    def encode(self, sentences: Sentences) -> Iterator[Array]:
        """Yield the layers of each sentence from zero state, `[layers, tokens, width]` without BOS and EOS."""


class SpacyElmo(Engine):
    """This project's."""

    packages = ("spacy-elmo", "torch")

    def __init__(self, directory: Path, threads: int) -> None:
        import torch

        from spacy_elmo import formats

        torch.set_num_threads(threads)
        self.bilm = formats.load(directory)

    def run(self, sentences: Sentences) -> object:
        """Encode; see the head of this file."""
        if len(sentences) <= KEPT:
            return self.bilm.encode(sentences)
        for batch in self.bilm.stream(sentences):
            for part in batch.layers.float().cpu().split(batch.lengths, dim=1):
                part[:, 1:-1].numpy().copy()
            del batch, part  # as the component does
        return None

    def encode(self, sentences: Sentences) -> Iterator[Array]:
        """Yield what `BiLM.encode` gives."""
        yield from self.bilm.encode(sentences)

    def forget(self) -> None:
        """Empty the word table."""
        self.bilm.clear_word_table()

    def remember(self, sentences: Sentences) -> None:
        """Fill the word table."""
        self.bilm.embed(sorted({word for sentence in sentences for word in sentence}))


class PlainLoopEngine(Engine):
    """ELMo in torch's own operators."""

    def __init__(self, directory: Path, threads: int) -> None:
        import torch
        from plain_loop import PlainLoop

        from spacy_elmo import formats

        torch.set_num_threads(threads)
        self.plain = PlainLoop(formats.load(directory))  # it copies the weights

    def run(self, sentences: Sentences) -> object:
        """Encode one batch."""
        return self.plain(sentences)

    def encode(self, sentences: Sentences) -> Iterator[Array]:
        """Encode batch by batch."""
        yield from encode_plainly(self.plain, sentences)


def encode_plainly(plain: Any, sentences: Sentences) -> Iterator[Array]:
    """Run a plain loop batch by batch; yield the layers of each sentence without BOS and EOS."""
    for batch in batches_of(sentences, BATCH):
        layers = plain(batch).cpu().numpy()
        for row, sentence in enumerate(batch):
            yield layers[:, row, 1 : len(sentence) + 1]


class SimpleElmo(Engine):
    """simple-elmo: bilm-tf's graph in TensorFlow 2."""

    packages = ("simple-elmo", "tensorflow")

    def __init__(self, directory: Path, threads: int) -> None:
        os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        import tensorflow as tf
        from simple_elmo import ElmoModel
        from simple_elmo.elmo import weight_layers

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self.model = ElmoModel()
        logging.getLogger("simple_elmo.elmo_helpers").setLevel(logging.ERROR)
        self.model.load(str(directory), max_batch_size=BATCH)
        self.model.elmo_sentence_input = weight_layers("input", self.model.sentence_embeddings_op, use_layers="all")
        v1 = tf.compat.v1
        config = v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        self.session = v1.Session(config=config)
        self.session.run(v1.global_variables_initializer())
        trained = set(v1.trainable_variables())
        self.reset = v1.variables_initializer([one for one in v1.global_variables() if one not in trained])

    def run(self, sentences: Sentences) -> Any:
        """Encode one batch."""
        return self.model.get_elmo_vectors(sentences, warmup=False, layers="all", session=self.session)

    def encode(self, sentences: Sentences) -> Iterator[Array]:
        """Encode batch by batch, each from zero state."""
        for batch in batches_of(sentences, BATCH):
            self.session.run(self.reset)
            for layers, sentence in zip(self.run(batch), batch, strict=True):
                yield layers[:, : len(sentence)].astype(np.float32)


class SimpleElmoPytorch(Engine):
    """simple-elmo-pytorch: a copy of AllenNLP's ELMo."""

    packages = ("simple-elmo-pytorch", "torch")

    def __init__(self, directory: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        bilm, self.to_ids = self._bilm_class()
        self.bilm = bilm(str(directory / "options.json"), str(directory / "weights.hdf5")).eval()

    def _bilm_class(self) -> tuple[Any, Any]:
        from simple_elmo_pytorch import ElmoBiLmSentence, batch_to_ids

        return ElmoBiLmSentence, batch_to_ids

    def run(self, sentences: Sentences) -> Any:
        """Encode one batch; the layers have BOS and EOS."""
        return self.bilm(self.to_ids(sentences))["activations"]

    def encode(self, sentences: Sentences) -> Iterator[Array]:
        """Encode batch by batch, each from zero state."""
        for batch in batches_of(sentences, BATCH):
            self.bilm._elmo_lstm.reset_states()
            layers = np.stack([layer.numpy() for layer in self.run(batch)])
            for row, sentence in enumerate(batch):
                yield layers[:, row, 1 : len(sentence) + 1]


class AllenNLP(SimpleElmoPytorch):
    """AllenNLP's own; see the head of this file."""

    packages = ("allennlp", "torch")

    def _bilm_class(self) -> tuple[Any, Any]:
        spec = importlib.util.find_spec("allennlp")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0]).parent
        for name in ("allennlp", "allennlp.modules", "allennlp.data"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = package
        from allennlp.modules.elmo import _ElmoBiLm, batch_to_ids

        return _ElmoBiLm, batch_to_ids


ENGINES: dict[str, type[Engine]] = {
    OURS: SpacyElmo,
    PLAIN_LOOP: PlainLoopEngine,
    "simple-elmo": SimpleElmo,
    "simple-elmo-pytorch": SimpleElmoPytorch,
    "allennlp": AllenNLP,
}


def batches_of(sentences: Sentences, size: int) -> Iterator[Sentences]:
    """Cut into batches in the given order."""
    for start in range(0, len(sentences), size):
        yield sentences[start : start + size]


class Commands:
    """What a worker does when asked to."""

    def __init__(self, name: str, threads: int) -> None:
        self.engine_class, self.threads = ENGINES[name], threads
        self.engine: Engine | None = None

    def load(self, directory: str, precision: Any = "float32") -> dict[str, str]:
        """Load the model in a directory, as `spacy_elmo.formats.write` writes it; return versions of packages.

        precision: ours can do with less than float32.
        """
        self.engine = self.engine_class(Path(directory), self.threads)
        if precision != "float32":
            assert isinstance(self.engine, SpacyElmo)
            self.engine.bilm.set_precision(precision)
        return {package: metadata.version(package) for package in self.engine_class.packages}

    def encode(self, sentences: Sentences, to: str) -> None:
        """Write the layers of each sentence, from zero state, to a file `.npz` under its number."""
        encoded = enumerate(self._loaded().encode(sentences))
        np.savez(to, **{str(number): layers for number, layers in encoded})  # type: ignore[arg-type] # names are numbers

    def time(self, calls: Sequence[Sentences], cold: bool) -> list[float]:
        """Return the seconds of each call. cold: with no word remembered in any of them; else with all."""
        engine, taken = self._loaded(), []
        ours = engine if isinstance(engine, SpacyElmo) else None  # the only one that remembers words
        if ours and not cold:
            ours.remember([sentence for call in calls for sentence in call])
        for call in calls:
            if ours and cold:
                ours.forget()
            start = time.perf_counter()
            engine.run(call)
            taken.append(time.perf_counter() - start)
        return taken

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise RuntimeError("no model is loaded")
        return self.engine


if __name__ == "__main__":
    main()
