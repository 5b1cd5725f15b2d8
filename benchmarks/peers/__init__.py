"""Other projects in, the two calls that the benchmarks time out: an adapter for each, and what its environment holds.

A module of an engine has `Engine(directory, threads)`, which loads a model, with

    packages            whose versions matter
    run(sentences)      encodes sentences in one call; what comes of it is dropped
    encode(sentences)   yields the layers of each sentence from zero state, `[layers, tokens, width]`, borders left out
    forget(), remember(sentences)   for one that remembers words from call to call

Engines get batches of 32 sentences in the given order. A module of a pipeline has `ner_config(batch_size)`, what
spaCy's own `init config` makes for `ner`, and PIPELINE_PACKAGES.
"""

from collections.abc import Iterator, Sequence

Sentences = Sequence[Sequence[str]]
BATCH = 32


def batches_of(sentences: Sentences, size: int = BATCH) -> Iterator[Sentences]:
    """Cut into batches in the given order."""
    for start in range(0, len(sentences), size):
        yield sentences[start : start + size]


class Forgetful:
    """An engine that remembers no word from call to call."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def remember(self, sentences: Sentences) -> None:
        """It does not."""
