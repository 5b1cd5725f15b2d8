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

# Of an array [2, rows, width]: address, rows from one direction to the other, width, whether it is bfloat16
Numbers = tuple[int, int, int, bool]

def step_forward(
    n_threads: int,
    n_rows: int,
    dim: int,
    cell_clip: float,
    kept: int,
    gates: Numbers,
    cells: Numbers,
    found: Numbers,
    hidden: Numbers,
    /,
) -> None: ...
def step_backward(
    n_threads: int,
    n_rows: int,
    dim: int,
    cell_clip: float,
    kept: int,
    gates: Numbers,
    cells: Numbers,
    found: Numbers,
    d_hidden: Numbers,
    d_gates: Numbers,
    d_cells: Numbers,
    /,
) -> None: ...
def softmax_rows(
    n_threads: int,
    n_parts: int,
    n_rows: int,
    n_words: int,
    is_bfloat16: bool,
    logits: int,
    biases: int,
    hits: int,
    truth: int,
    totals: int,
    largest: int,
    shares: int,
    d_biases: int,
    /,
) -> None: ...
def pool(
    n_threads: int,
    n_words: int,
    n_windows: int,
    n_filters: int,
    stride: int,
    is_bfloat16: bool,
    products: int,
    pooled: int,
    windows: int,
    /,
) -> None: ...
def unpool(
    n_threads: int,
    n_words: int,
    n_positions: int,
    dim: int,
    n_filters: int,
    size: int,
    stride: int,
    d_pooled: int,
    windows: int,
    x: int,
    filters: int,
    d_filters: int,
    d_x: int,
    /,
) -> None: ...
def use_large_pages(address: int, size: int, /) -> None: ...
