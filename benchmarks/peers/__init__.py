"""Other projects in, the two calls that the benchmarks time out: an adapter for each, and what its environment holds.

A module of an engine has `Engine(directory, threads)`, which loads a model, with

    run(sentences)      encodes sentences in one call; what comes of it is dropped
    encode(sentences)   yields the layers of each sentence from zero state, `[layers, tokens, width]`, borders left out
    remember(sentences) for one that remembers words from call to call: these, and no others

Engines get batches of 32 sentences in the given order. A module of a pipeline has `ner_config(batch_size)`, what
spaCy's own `init config` makes for `ner`.
"""

from collections.abc import Iterator, Sequence

Sentences = Sequence[Sequence[str]]
BATCH = 32


def batches_of(sentences: Sentences, size: int = BATCH) -> Iterator[Sentences]:
    """Cut into batches in the given order."""
    for start in range(0, len(sentences), size):
        yield sentences[start : start + size]
