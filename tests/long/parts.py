"""Run one part of the long runs in its own process: `python parts.py PART SIZE` prints its measurements as JSON.

`PARTS` names them. Each is a function of its size that returns `figures`, and in `wrong` what is not as it should be.
"""

import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import random
import string
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import spacy
from spacy.language import Language

from spacy_elmo.errors import ElmoError

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny_2l_skip"
N_WORDS = 60_000  # more than any table keeps
WARM_UP = 0.1  # share of a run in which memory may still grow: 100,000 of a million sentences
MOST_BYTES_A_SENTENCE = 20.0
MOST_MIB_IN_HOLES = 60.0

Result = dict[str, Any]


# --- what is measured ---


def rss() -> int:
    """Return the bytes of this process that are in memory, without pages of files, which the system may drop."""
    resident, of_files = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")


def n_open_files() -> int:
    """Return the number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def trimmed() -> float:
    """Return the MiB in holes: what glibc returns to the system when asked."""
    before = rss()
    ctypes.CDLL(None).malloc_trim(0)
    return round((before - rss()) / 2**20, 1)


class Samples:
    """Memory and open files, sampled over the rounds."""

    def __init__(self, size: int) -> None:
        self._begin = int(size * WARM_UP)
        self._each = max(1, size // 100)
        self._rounds: list[int] = []
        self._bytes: list[int] = []
        self._files: set[int] = set()

    def take(self, done: int) -> None:
        """Take a sample. Call it after each round."""
        if done >= self._begin and done % self._each == 0:
            self._rounds.append(done)
            self._bytes.append(rss())
            self._files.add(n_open_files())

    def figures(self) -> Result:
        """Return slope: bytes per round, by least squares; files: minimum and maximum number of open files."""
        slope = float(np.polyfit(self._rounds, self._bytes, 1)[0])
        in_mib = {"first": self._bytes[0] / 2**20, "last": self._bytes[-1] / 2**20}
        return {
            **{name: round(value, 1) for name, value in in_mib.items()},
            "slope": round(slope, 2),
            "files": [min(self._files), max(self._files)],
        }


def _judge(figures: Result, most: float) -> Result:
    wrong = []
    if figures["slope"] >= most:
        wrong.append(f"memory grows by {figures['slope']} bytes a round, expected less than {most}")
    if len(set(figures["files"])) > 1:
        wrong.append(f"open files went from {figures['files'][0]} to {figures['files'][1]}, expected no change")
    return {"figures": figures, "wrong": wrong}


# --- what is run ---


def pipeline(weights: Path | str = TINY) -> Language:
    """Return a pipeline with only `elmo`."""
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(weights)}})
    return nlp


def fixed_texts(size: int, seed: int = 0) -> Iterator[str]:
    """Yield sentences made of 60,000 words."""
    pick = random.Random(seed)
    words = ["".join(pick.choices(string.ascii_lowercase, k=pick.randint(2, 10))) for _ in range(N_WORDS)]
    for _ in range(size):
        yield " ".join(pick.choices(words, k=pick.randint(1, 12)))


def new_texts(size: int, seed: int = 0) -> Iterator[str]:
    """Yield sentences with three words that never occurred before, and some of 60,000 others."""
    for number, text in enumerate(fixed_texts(size, seed)):
        yield f"{text} a{seed}q{number} b{seed}q{number} c{seed}q{number}"


def fixed(size: int) -> Result:
    """Run sentences of fixed words."""
    nlp, samples = pipeline(), Samples(size)
    for done, _ in enumerate(nlp.pipe(fixed_texts(size)), 1):
        samples.take(done)
    return _judge(samples.figures(), MOST_BYTES_A_SENTENCE)


def zones(size: int) -> Result:
    """Run sentences that keep bringing new words, in memory zones of 1,000, with `elmo` and with spaCy alone.

    spaCy's own tables grow (`map_clear` of preshed leaves a slot occupied), so the difference counts.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        alone = pool.submit(_in_zones, size, False).result()
    figures = _in_zones(size, True)
    result = _judge({**figures, "slope": figures["slope"] - alone["slope"]}, MOST_BYTES_A_SENTENCE)
    return {**result, "figures": {**figures, "slope of spaCy alone": alone["slope"]}}


def _in_zones(size: int, with_elmo: bool) -> Result:
    nlp = pipeline() if with_elmo else spacy.blank("en")
    samples, texts, done = Samples(size), new_texts(size), 0
    while batch := list(itertools.islice(texts, 1000)):
        with nlp.memory_zone():
            for _ in nlp.pipe(batch):
                done += 1
        samples.take(done)
    return samples.figures()


def holes(size: int) -> Result:
    """Run sentences of fixed words through the bundled biLM. Then measure what malloc_trim returns."""
    nlp = pipeline("en_elmo_sm")
    for _ in nlp.pipe(fixed_texts(size), batch_size=128):
        pass
    figures = {"rss": round(rss() / 2**20, 1), "holes": trimmed()}
    wrong = [f"{figures['holes']} MiB in holes"] if figures["holes"] > MOST_MIB_IN_HOLES else []
    return {"figures": figures, "wrong": wrong}


def loads(size: int) -> Result:
    """Load and drop a pipeline with a listener.

    spaCy's pipelines contain reference cycles of a few hundred KiB each, which wait for the garbage collector. It runs
    every 20 rounds here, so that only what remains is measured. The biLM, most of a pipeline, does not need it:
    see `test_dropped_pipeline_is_freed_without_the_garbage_collector` in tests/pipeline/test_hub.py.
    """
    from tempfile import TemporaryDirectory

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(TINY)}})
    listener = {"@architectures": "spacy-elmo.ElmoListener.v1", "width": 32}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener}}).add_label("A")
    nlp.initialize()
    samples = Samples(size)
    with TemporaryDirectory() as folder:
        nlp.to_disk(folder)
        for done in range(1, size + 1):
            spacy.load(folder)("Some words")
            if done % 20 == 0:
                gc.collect()
            samples.take(done)
    return _judge(samples.figures(), 4096)  # one page per pipeline


# --- several threads, several processes ---

_THREADS = 8


def threads(size: int) -> Result:
    """Run eight threads: half share one pipeline, half have their own, with memory zones."""
    shared, texts = pipeline(), list(fixed_texts(200))
    expected = [doc._.elmo.copy() for doc in shared.pipe(texts)]
    wrong: list[str] = []
    rounds: list[int] = []

    def work(number: int) -> None:
        pick, own = random.Random(number), pipeline() if number % 2 else None
        try:
            for done in range(size // _THREADS):
                places = pick.sample(range(len(texts)), 10)
                asked = [texts[place] for place in places]
                if own is None:
                    found = _vectors(shared, asked, one_by_one=done % 2 == 0)
                else:
                    with own.memory_zone():
                        found = _vectors(own, [*asked, f"new{number}x{done}"])[:-1]
                for place, vectors in zip(places, found, strict=True):
                    if not _same(expected[place], vectors):
                        wrong.append(f"thread {number}, round {done}: other vectors")
                rounds.append(number)
        except Exception as error:
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")

    _run_threads(work)
    return {"figures": {"rounds": len(rounds)}, "wrong": wrong}


def shared_zones(size: int) -> Result:
    """Run eight threads with zones of one pipeline, which spaCy cannot do. Expect right vectors or our error."""
    nlp, texts = pipeline(), list(fixed_texts(200))
    expected = [doc._.elmo.copy() for doc in nlp.pipe(texts)]
    wrong: list[str] = []
    ends: list[str] = []

    def work(number: int) -> None:
        pick = random.Random(number)
        for done in range(size // _THREADS):
            places = pick.sample(range(len(texts)), 10)
            asked = [f"{texts[place]}" for place in places]
            try:
                with nlp.memory_zone():
                    found = _vectors(nlp, [*asked, f"new{number}x{done}"])
                    _ = [token.text for token in nlp(f"other{number}x{done}")]
            except ElmoError:
                ends.append("refused")
                continue
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
                continue
            ends.append("right")
            if not all(_same(expected[place], vectors) for place, vectors in zip(places, found[:-1], strict=True)):
                wrong.append("other vectors")

    _run_threads(work)
    return {"figures": {kind: ends.count(kind) for kind in ("right", "refused")}, "wrong": wrong}


def _vectors(nlp: Language, texts: list[str], one_by_one: bool = False) -> list[Any]:
    docs = map(nlp, texts) if one_by_one else nlp.pipe(texts)
    return [doc._.elmo.copy() for doc in docs]


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=1e-5))


def _run_threads(work: Callable[[int], None]) -> None:
    at_work = [threading.Thread(target=work, args=[number]) for number in range(_THREADS)]
    for thread in at_work:
        thread.start()
    for thread in at_work:
        thread.join()


def processes(size: int) -> Result:
    """Run worker processes of `nlp.pipe`, started in each available way, while threads use the pipeline."""
    nlp, texts = pipeline(), list(fixed_texts(100))
    expected = [doc._.elmo.copy() for doc in nlp.pipe(texts)]
    wrong, counts = [], {}
    for method in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(method, force=True)
        counts[method] = 0
        for _ in range(size):
            found = [doc._.elmo for doc in nlp.pipe(texts, n_process=2, batch_size=10)]
            if not all(map(_same, expected, found)):
                wrong.append(f"{method}: other vectors")
            counts[method] += 1
    children = multiprocessing.active_children()
    if children:
        wrong.append(f"{len(children)} processes outlive their work")
    return {"figures": counts, "wrong": wrong}


PARTS: dict[str, Callable[[int], Result]] = {
    part.__name__: part for part in (threads, shared_zones, processes, loads, holes, zones, fixed)
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](int(sys.argv[2]))))
