"""Rows of each time step in, the time steps of packed sequences out, alone and in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

State = tuple[Tensor, Tensor]  # hidden [2, rows, projection_dim], cell [2, rows, dim]


@dataclass(frozen=True)
class TimeStep:
    """One time step of packed sequences: its first token, its rows, and where rows start afresh there.

    kept: `[rows, 1]`, 0 for a row that forgets its state before the step; None where all keep it.
    """

    start: int
    rows: int
    kept: Tensor | None = None

    @property
    def tokens(self) -> slice:
        """Where its tokens stand."""
        return slice(self.start, self.start + self.rows)

    def keep(self, state: Tensor) -> Tensor:
        """State `[2, rows, width]` (or its gradient) as the step finds it."""
        return state if self.kept is None else state * self.kept.to(state)


def time_steps(batch_sizes: Sequence[int], starts: Tensor | None) -> list[TimeStep]:
    """The time steps of rows of these numbers; starts: `[n_tokens]` bool on the CPU, where a row starts afresh."""
    steps, start = [], 0
    for rows in batch_sizes:
        fresh = None if starts is None else starts[start : start + rows]
        steps.append(TimeStep(start, rows, (~fresh)[:, None] if fresh is not None and fresh.any() else None))
        start += rows
    return steps


def time_blocks(steps: list[TimeStep], max_rows: int) -> list[list[TimeStep]]:
    """Group time steps into blocks of at most `max_rows` rows, one step at least."""
    blocks: list[list[TimeStep]] = []
    for step in steps:
        if blocks and step.tokens.stop - blocks[-1][0].start <= max_rows:
            blocks[-1].append(step)
        else:
            blocks.append([step])
    return blocks


def tokens_of(steps: list[TimeStep]) -> slice:
    """The tokens of time steps that follow each other."""
    return slice(steps[0].start, steps[-1].tokens.stop)
