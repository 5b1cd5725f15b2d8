"""The process in which one side of a comparison runs. It reads commands and writes answers.

    python runner.py encode ENGINE | pipeline NAME | train | machine

It runs with the Python of the side's environment. So it only imports the standard library before `load`, the first
command. A command is a pickled pair on standard input: the name of a method of the role below, and its arguments. An
answer is a pair, too: the result, and the error. Other output goes to standard error.
"""

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Sentences = Sequence[Sequence[str]]

ENGINES = {
    "spacy-elmo": "ours",
    "plain loop": "peers.plain",
    "simple-elmo": "peers.simple_elmo",
    "simple-elmo-pytorch": "peers.simple_elmo_pytorch",
    "allennlp": "peers.allennlp",
}
PIPELINES = {"elmo": "ours", "tok2vec": "peers.tok2vec", "minilm": "peers.minilm"}
BATCH_SIZE = 128  # of nlp.pipe
LABELS = ("PERSON", "ORG", "GPE", "DATE")


def serve(side: object) -> None:
    """Run commands from standard input until it ends."""
    commands, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while commands.peek():
        command, arguments = pickle.load(commands)
        answer: tuple[Any, str | None]
        try:
            answer = getattr(side, command)(**arguments), None
        except (Exception, SystemExit) as error:  # some peers exit instead of raising
            traceback.print_exc()
            answer = None, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


class Encode:
    """Encodes sentences, and times it."""

    def __init__(self, name: str) -> None:
        self.module = ENGINES[name]

    def load(self, directory: str, threads: int | None, **settings: Any) -> None:
        """Load the model in a directory that `spacy_elmo.formats.write` has written."""
        self.engine: Any = import_module(self.module).Engine(Path(directory), threads, **settings)

    def encode(self, sentences: Sentences) -> list[Any]:
        """Return the layers of each sentence, `[layers, tokens, width]`."""
        return list(self.engine.encode(sentences))

    def time(self, calls: Sequence[Sentences], is_cold: bool = True) -> float:
        """Return the seconds of all calls. is_cold: no words are cached in any call; otherwise all are."""
        taken = 0.0
        for call in calls:
            if hasattr(self.engine, "remember"):
                self.engine.remember([] if is_cold else call)
            start = time.perf_counter()
            self.engine.run(call)
            taken += time.perf_counter() - start
        return taken


class Pipeline:
    """Times a pipeline on texts. The NER has a few labels and is not trained, which does not matter for speed."""

    def __init__(self, name: str) -> None:
        self.module = PIPELINES[name]

    def load(self, threads: int, weights: str | None = None, method: str | None = None) -> None:
        """Make the pipeline. weights: for `elmo` alone, without NER; method: how to start processes."""
        import spacy
        import torch
        from spacy.training import Example

        torch.set_num_threads(threads)
        multiprocessing.set_start_method(method)
        module = import_module(self.module)
        if weights:
            self.nlp = spacy.blank("en")
            self.nlp.add_pipe("elmo", config={"model": {"weights": weights}})
        else:
            self.nlp = spacy.util.load_model_from_config(module.ner_config(BATCH_SIZE), auto_fill=True)
            entities = [f"U-{label}" for label in LABELS]
            example = Example.from_dict(self.nlp.make_doc(" ".join(LABELS)), {"entities": entities})
            self.nlp.initialize(lambda: [example])
        self.forget_words = getattr(module, "forget_words", lambda nlp: None)

    def time(self, texts: Sequence[str], n_process: int = 1) -> tuple[int, float]:
        """Run the pipeline without cached words. Return the number of words, and the seconds including the start of the
        processes."""
        self.forget_words(self.nlp)
        start = time.perf_counter()
        words = sum(len(doc) for doc in self.nlp.pipe(texts, batch_size=BATCH_SIZE, n_process=n_process))
        return words, time.perf_counter() - start


class Train:
    """Times our pretraining steps and plain steps, in one process. Freed memory is kept, as in the command, and both
    gain from it."""

    def load(self, threads: int, directory: str, device: str, **settings: Any) -> None:
        """Make both sides. See `ours.make_steps`."""
        import ours
        import torch
        from peers import plain

        ours.keep_freed_memory()
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 everywhere, as in torch's products
        steps = ours.make_steps(Path(directory), device=device, **settings)
        self.sides: dict[str, Any] = {"spacy-elmo": steps}
        if device == "cpu" or settings["size"] != "original":
            self.sides["plain step"] = ours.with_model(steps, plain.PlainLanguageModel(steps.model))
        self.wait: Any = torch.cuda.synchronize if device == "cuda" else lambda: None

    def about(self) -> tuple[list[str], int]:
        """Return the names of the sides, and the number of words per step that one direction predicts."""
        return list(self.sides), self.sides["spacy-elmo"].tokens_per_step

    def time(self, side: str, steps: int) -> float:
        """Return the seconds of `steps` steps. Then drop the gradients, so that the other side has their memory."""
        one = self.sides[side]
        start = time.perf_counter()
        for _ in range(steps):
            one.advance()
        self.wait()
        taken = time.perf_counter() - start
        one.optimizer.zero_grad(set_to_none=True)
        return taken


ROLES: dict[str, Any] = {
    "encode": Encode,
    "pipeline": Pipeline,
    "train": Train,
    "machine": lambda: import_module("machine"),
}

if __name__ == "__main__":
    role, *name = sys.argv[1:]
    serve(ROLES[role](*name))
