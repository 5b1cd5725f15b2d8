"""The user's name of a device in, torch's device out."""

import torch

from spacy_elmo.errors import ElmoError


def choose_device(name: str, setting: str = "device", error: type[ElmoError] = ElmoError) -> torch.device:
    """Return the device that the name means; this does not touch a GPU yet.

    name: "auto" (an NVIDIA or AMD GPU if torch sees one), "cpu", "cuda", "cuda:1", or "mps" (the GPU of a Mac; "auto"
        never chooses it, because nothing has been measured there yet). setting: its name in errors.

    Raises:
        `error`: the name is none of these, or there is no such GPU here.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise error(f'{setting} is {name!r}, expected "auto", "cpu", "cuda", "cuda:N" or "mps"')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise error(f'{setting} is "mps", the GPU of a Mac, but torch sees none here; use "auto" or "cpu"')
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        seen = f"only {n_gpus}" if n_gpus else "no"
        raise error(f'{setting} is {name!r}, but torch sees {seen} GPU here; use "auto" or "cpu"')
    return device
