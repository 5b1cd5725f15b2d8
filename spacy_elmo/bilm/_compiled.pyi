TILE: int
HAS_THREADS: int
IS_FASTER: int

# n_steps, dim, width, block, cell_clip, proj_clip; addresses of inputs, weight, projection, hidden, cell, outputs
Direction = tuple[float, ...]

def update_rows(
    n_threads: int, n_rows: int, dim: int, cell_clip: float, gates: int, inputs: int, cell: int, outputs: int, /
) -> None: ...
def run(n_threads: int, forward: Direction, backward: Direction, /) -> None: ...
