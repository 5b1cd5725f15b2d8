"""Commands in, answers out: the process in which one side of a comparison runs.

    python runner.py encode ENGINE | pipeline NAME | train | machine

It runs under the Python of the side's environment, so nothing but the standard library and numpy is imported before
`load`. A command is a JSON object on a line of standard input, `{"command": ..., "arguments": {...}}`, the name of a
method of the role below; so is the answer. What is printed meanwhile goes to standard error.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

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


def main() -> None:
    """Serve one side."""
    role, *name = sys.argv[1:]
    serve(ROLES[role](*name))


def serve(side: object) -> None:
    """Carry out commands from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(side, request["command"])(**request["arguments"])}
        except (Exception, SystemExit) as error:  # some peers exit where others raise
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Side:
    """What every process can be asked for."""

    def pid(self) -> int:
        """Number of the process."""
        return os.getpid()

    def reset_peak(self) -> int:
        """Forget the peak so far (where the system can: Linux) and return the resident memory now, in bytes."""
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")
        return self.peak()

    def peak(self) -> int:
        """Highest resident memory of this process so far, in bytes.

        On Linux not `ru_maxrss`, which starts at what the parent process had.
        """
        status = Path("/proc/self/status")
        if status.exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages."""
    return {package: metadata.version(package) for package in packages}


class Encode(Side):
    """Sentences in, layers and seconds out."""

    def __init__(self, name: str) -> None:
        self.module = ENGINES[name]
        self.engine: Any = None

    def load(self, directory: str, threads: int | None = None, **settings: Any) -> dict[str, str]:
        """Load the model in a directory, as `spacy_elmo.formats.write` writes it; return versions of packages."""
        self.engine = import_module(self.module).Engine(Path(directory), threads, **settings)
        return versions_of(self.engine.packages)

    def encode(self, sentences: Sentences, to: str) -> None:
        """Write the layers of each sentence to a file `.npz` under its number."""
        encoded = enumerate(self._loaded().encode(sentences))
        np.savez(to, **{str(number): layers for number, layers in encoded})

    def time(self, calls: Sequence[Sentences], cold: bool) -> list[float]:
        """Return the seconds of each call. cold: with no word remembered in any of them; else with all."""
        engine, taken = self._loaded(), []
        if not cold:
            engine.remember([sentence for call in calls for sentence in call])
        for call in calls:
            if cold:
                engine.forget()
            start = time.perf_counter()
            engine.run(call)
            taken.append(time.perf_counter() - start)
        return taken

    def _loaded(self) -> Any:
        if self.engine is None:
            raise RuntimeError("no model is loaded")
        return self.engine


class Pipeline(Side):
    """Texts in, seconds out: a spaCy pipeline. Its NER has a few labels and is not trained: no matter for speed."""

    def __init__(self, name: str) -> None:
        self.module = import_module(PIPELINES[name])
        self.nlp: Any = None

    def load(self, threads: int, weights: str | None = None, method: str | None = None) -> dict[str, str]:
        """Make the pipeline; return versions of packages.

        weights: have the biLM of this directory alone, without NER; method: how processes are to start.
        """
        import torch

        torch.set_num_threads(threads)
        if method:
            multiprocessing.set_start_method(method)
        self.nlp = self.module.bilm_alone(weights) if weights else self._with_ner()
        return versions_of(self.module.PIPELINE_PACKAGES)

    def _with_ner(self) -> Any:
        from spacy import util
        from spacy.training import Example

        nlp = util.load_model_from_config(self.module.ner_config(BATCH_SIZE), auto_fill=True)
        entities = [f"U-{label}" for label in LABELS]
        example = Example.from_dict(nlp.make_doc(" ".join(LABELS)), {"entities": entities})
        nlp.initialize(lambda: [example])
        return nlp

    def time(self, texts: Sequence[str], n_process: int = 1) -> dict[str, float]:
        """Run the pipeline, with no word remembered; return the words, and the seconds with starting the processes."""
        if "elmo" in self.nlp.pipe_names:
            self.module.forget_words(self.nlp)
        start = time.perf_counter()
        words = sum(len(doc) for doc in self.nlp.pipe(texts, batch_size=BATCH_SIZE, n_process=n_process))
        return {"words": words, "seconds": time.perf_counter() - start}

    def stream(self, count: int, looks: int) -> list[tuple[int, int]]:
        """Run many texts of four words out of 60,000; return how many had come out at each look, and the memory."""
        import random

        choose, seen, step = random.Random(0).choices, [], max(1, count // looks)
        texts = (" ".join(f"w{number}" for number in choose(range(60_000), k=4)) for _ in range(count))
        for number, _ in enumerate(self.nlp.pipe(texts, batch_size=1_000), start=1):
            if number % step == 0:
                seen.append((number, self.reset_peak()))
        return seen


class Train(Side):
    """Steps in, seconds out: pretraining by ours and as a plain step, in one process, where freed memory is kept as in
    that of the command; the plain step gains by it, too."""

    def load(self, threads: int, directory: str, **settings: Any) -> dict[str, str]:
        """Make both and check that they agree; return versions of packages.

        directory: for the encoded text; settings: of `ours.Step`.
        """
        import ours
        import torch
        from peers.plain import PlainStep

        ours.keep_freed_memory()
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # on a GPU, or the plain step is off by more than allowed
        step = ours.Step(Path(directory), **settings)
        self.sides: dict[str, Any] = {"spacy-elmo": step}
        if settings["device"] == "cpu" or settings["size"] != "original":
            plain = self.sides["plain step"] = PlainStep(step)
            plain.check()
        return versions_of(ours.Engine.packages)

    def about(self) -> dict[str, Any]:
        """Words of a step that one direction predicts, words that are different in it, and the sides there are."""
        step = self.sides["spacy-elmo"]
        return {"tokens": step.tokens, "distinct words": step.distinct_words(), "sides": list(self.sides)}

    def time(self, side: str, steps: int) -> float:
        """Seconds of so many steps; gradients, which the next would drop, are not left to the other's memory."""
        one = self.sides[side]
        start = time.perf_counter()
        for _ in range(steps):
            one.advance()
        self.sides["spacy-elmo"].synchronize()
        taken = time.perf_counter() - start
        one.optimizer.zero_grad(set_to_none=True)
        return taken


class Machine(Side):
    """Functions of machine.py."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("machine"), name)


ROLES: dict[str, type[Any]] = {"encode": Encode, "pipeline": Pipeline, "train": Train, "machine": Machine}

if __name__ == "__main__":
    main()
