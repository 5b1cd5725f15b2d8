"""Make the batch of any step from an encoded corpus; without state, so a run can resume at any step."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.corpus import Corpus, Ids

_ORDER, _RESETS = 0, 1  # purposes of the streams of random numbers


@dataclass(frozen=True)
class Batch:
    """What the rows of one process read at one step. The first axis of `words` and `targets` is the direction.

    words: `[2, rows, unroll_steps]`, entries of the corpus' lexicon; targets: the same shape, vocabulary ids.
    starts: `[rows, unroll_steps]`, whether a row resets its state before this position.
    """

    words: Ids
    targets: Ids
    starts: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Resets:
    """When rows return to zero state.

    kind: "batch": before a batch, each row with `probability`; "sentence": at every start of a document, and at
        other sentence starts with `probability`.
    """

    kind: Literal["batch", "sentence"]
    probability: float


class Batches:
    """The batches of a corpus, epoch after epoch.

    In each epoch the documents get a new order and form one long text, which is cut into one stretch per row. At each
    step every row reads the next `unroll_steps` positions. The rest (less than a batch) is not read in this epoch.

    rows: number of rows of all processes; own: the rows of this process.
    """

    def __init__(
        self, corpus: Corpus, rows: int, unroll_steps: int, resets: Resets, shuffle: bool, seed: int, own: slice
    ) -> None:
        self.corpus, self.rows, self.unroll_steps = corpus, rows, unroll_steps
        self.resets, self.shuffle, self.seed, self.own = resets, shuffle, seed, own
        self.steps_per_epoch = corpus.n_positions // (rows * unroll_steps)
        if not self.steps_per_epoch:
            raise CorpusError(
                f"the corpus has {corpus.n_positions:,} words and sentence ends, less than one batch of {rows} rows x "
                f"{unroll_steps} unroll_steps = {rows * unroll_steps:,}; use more text or a smaller batch_size"
            )
        self._arrange(0)

    def at(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._arrange(epoch)
        row_starts = np.arange(self.rows)[:, None] * (self.steps_per_epoch * self.unroll_steps)
        places = row_starts + step_in_epoch * self.unroll_steps + np.arange(self.unroll_steps)
        chosen = np.random.default_rng([self.seed, _RESETS, step]).random(places.shape) < self.resets.probability
        places, chosen = places[self.own], chosen[self.own]
        document = np.searchsorted(self._ends, places, side="right")
        positions = places + self._shifts[document]
        words, targets, sentence_starts = self.corpus.read(positions)
        if self.resets.kind == "batch":
            chosen[:, 1:] = False
        else:
            chosen = (chosen & sentence_starts) | (positions == self.corpus.documents[self._order[document]])
            chosen[:, 0] |= step_in_epoch == 0  # the row read other text before
        return Batch(words, targets, chosen)

    def _arrange(self, epoch: int) -> None:
        """Put the documents in this epoch's order: set where each ends, and its offset to its place in the corpus."""
        starts, lengths = self.corpus.documents[:-1], np.diff(self.corpus.documents)
        self._order = np.arange(len(lengths))
        if self.shuffle:
            np.random.default_rng([self.seed, _ORDER, epoch]).shuffle(self._order)
        self._ends = np.cumsum(lengths[self._order])
        self._shifts = starts[self._order] - (self._ends - lengths[self._order])
        self._epoch = epoch
