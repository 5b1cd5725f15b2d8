"""Results of long runs in, the same results in a later run out, as long as the code is the same."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


def digest_of_code(others: Iterable[Path]) -> str:
    """Return a digest of spacy-elmo's code, and of other files that can change the results."""
    sha = hashlib.sha256()
    package = [path for kind in ("py", "c", "h", "so") for path in CHECKOUT.glob(f"spacy_elmo/**/*.{kind}")]
    for path in sorted([*package, *others]):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


class Kept:
    """Results by key, in a file with one line of JSON each. Name the file by all that the results depend on.

    path: None to keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.results: dict[Any, Any] = {}
        self._path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one is cut off if the run was stopped
        if whole != lines:
            path.write_text("".join(whole))
        self.results = {line["key"]: line["result"] for line in map(json.loads, whole)}

    def add(self, key: Any, result: Any) -> None:
        """Keep a result instead of an earlier one of this key."""
        self.results[key] = result
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "result": result}) + "\n")
