TILE: int

def update_rows(
    n_rows: int, dim: int, cell_clip: float, gates: int, inputs: int, cell: int, outputs: int, /
) -> None: ...
def run(
    n_steps: int,
    dim: int,
    width: int,
    block: int,
    cell_clip: float,
    proj_clip: float,
    inputs: int,
    weight: int,
    projection: int,
    hidden: int,
    cell: int,
    outputs: int,
    /,
) -> None: ...
