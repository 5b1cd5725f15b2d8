"""Other projects in, the two calls that the benchmarks time out: an adapter for each, and what its environment holds.

Engines (see `Engine` in runner.py) get batches of 32 sentences in the given order. Pipelines are what spaCy's own
`init config` makes for `ner`.
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
