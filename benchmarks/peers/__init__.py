"""Adapters for other projects, and the requirements of their environments.

A module of an engine has `Engine(directory, threads)`, which loads a model. It has these methods:

- `run(sentences)` encodes sentences in one call. The result is dropped.
- `encode(sentences)` yields the layers of each sentence from zero state, `[layers, tokens, width]`, without borders.
- `remember(sentences)` caches these words and no others. Only engines with a cache from call to call have it.

Engines get batches of 32 sentences in the given order. A module of a pipeline has `ner_config(batch_size)`, the config
that spaCy's own `init config` makes for `ner`.
"""

from collections.abc import Iterator, Sequence

Sentences = Sequence[Sequence[str]]
BATCH = 32


def batches_of(sentences: Sentences, size: int = BATCH) -> Iterator[Sentences]:
    """Yield batches in the given order."""
    for start in range(0, len(sentences), size):
        yield sentences[start : start + size]
