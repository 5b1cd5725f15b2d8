"""Texts in, the seconds that `nlp.pipe` took for them out, in one or several processes: the pipelines of memory.py.

    python memory_worker.py

Answers the commands below (see worker.py). The pipeline is `elmo` alone.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence

import spacy
import torch
from spacy.language import Language
from worker import reset_peak, serve

BATCH_SIZE = 128
DISTINCT_WORDS, TEXT_WORDS = 60_000, 4  # of the long stream


def main() -> None:
    """Serve a pipeline."""
    serve({"load": load, "pid": os.getpid, "pipe": pipe, "stream": stream})


def load(directory: str, threads: int, method: str | None) -> None:
    """Make the pipeline with the model of a directory. method: how processes are to start."""
    global nlp
    torch.set_num_threads(threads)
    if method:
        multiprocessing.set_start_method(method)
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": directory}})


nlp: Language


def pipe(texts: Sequence[str], n_process: int) -> dict[str, float]:
    """Run the pipeline over texts; return the number of words, and the seconds with starting the processes."""
    start = time.perf_counter()
    words = sum(len(doc) for doc in nlp.pipe(texts, batch_size=BATCH_SIZE, n_process=n_process))
    return {"words": words, "seconds": time.perf_counter() - start}


def stream(count: int, looks: int) -> list[tuple[int, int]]:
    """Run the pipeline over many short texts; return how many had come out at each look, and the memory then."""
    seen, step = [], max(1, count // looks)
    for number, _ in enumerate(nlp.pipe(short_texts(count), batch_size=1_000), start=1):
        if number % step == 0:
            seen.append((number, reset_peak()))
    return seen


def short_texts(count: int) -> Iterator[str]:
    """Texts of words that come again and again, in ever new company."""
    choose = random.Random(0).choices
    for _ in range(count):
        yield " ".join(f"w{number}" for number in choose(range(DISTINCT_WORDS), k=TEXT_WORDS))


if __name__ == "__main__":
    main()
