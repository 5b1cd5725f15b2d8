STRIP: int
SOURCE: int  # checksum of the source that it was built from
HAS_THREADS: int

# Eight addresses: of input weight, hidden weight, bias, projection or 0, inputs, hidden, cell, outputs
Direction = tuple[int, ...]

def levels() -> list[str]: ...
def choose(level: str, /) -> None: ...
def update_gates(
    n_threads: int, n_rows: int, dim: int, cell_clip: float, gates: int, inputs: int, cell: int, outputs: int, /
) -> None: ...
def multiply(
    n_threads: int, n_rows: int, n_in: int, n_out: int, activation: int, x: int, weight: int, bias: int, out: int, /
) -> None: ...
def run_layer(
    n_threads: int,
    n_in: int,
    dim: int,
    width: int,
    cell_clip: float,
    proj_clip: float,
    n_steps: int,
    batch_sizes: int,
    starts: int,
    forward: Direction,
    backward: Direction,
    /,
) -> None: ...
def use_large_pages(address: int, size: int, /) -> None: ...
