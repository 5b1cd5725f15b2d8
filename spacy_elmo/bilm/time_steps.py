"""The time steps of packed sequences, alone and in blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

State = tuple[Tensor, Tensor]  # hidden [2, rows, projection_dim], cell [2, rows, dim]


@dataclass(frozen=True)
class TimeStep:
    """One time step of packed sequences: its first token, its rows, and which rows reset their state.

    kept: `[rows, 1]`, 0 for a row that resets its state before the step; None if no row does.
    """

    start: int
    rows: int
    kept: Tensor | None = None

    @property
    def tokens(self) -> slice:
        """Positions of its tokens."""
        return slice(self.start, self.start + self.rows)

    def keep(self, state: Tensor) -> Tensor:
        """Reset the rows of a state `[2, rows, width]` (or of its gradient) that do not keep it."""
        return state if self.kept is None else state * self.kept.to(state)


def time_steps(batch_sizes: Sequence[int], starts: Tensor | None) -> list[TimeStep]:
    """Return the time steps with these numbers of rows. starts: `[n_tokens]` bool on the CPU: whether a row resets its
    state before this token."""
    steps, start = [], 0
    for rows in batch_sizes:
        fresh = None if starts is None else starts[start : start + rows]
        steps.append(TimeStep(start, rows, (~fresh)[:, None] if fresh is not None and fresh.any() else None))
        start += rows
    return steps


def time_blocks(steps: list[TimeStep], max_rows: int) -> list[list[TimeStep]]:
    """Group time steps into blocks of at most `max_rows` rows and at least one step."""
    blocks: list[list[TimeStep]] = []
    for step in steps:
        if blocks and step.tokens.stop - blocks[-1][0].start <= max_rows:
            blocks[-1].append(step)
        else:
            blocks.append([step])
    return blocks


def tokens_of(steps: list[TimeStep]) -> slice:
    """Return the positions of the tokens of consecutive time steps."""
    return slice(steps[0].start, steps[-1].tokens.stop)
