TILE: int

def run(
    n_steps: int,
    dim: int,
    width: int,
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
