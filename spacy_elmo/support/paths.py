"""What somebody gave as a path in, a path that the system can look for out, or one error that names the setting."""

import errno
import os
from pathlib import Path

from spacy_elmo.errors import ElmoError
from spacy_elmo.support.files import behind_link
from spacy_elmo.support.messages import quoted, reason


def path_of(value: object, setting: str, error: type[ElmoError] = ElmoError) -> Path:
    """Return a value as a path, whether something is there or not. setting: names it in the error.

    Raises:
        ElmoError: (or the given type) it is something else, or no file can have this path: it has a NUL byte or a lone
            surrogate, or is too long.
    """
    try:
        path = Path(value)  # type: ignore[arg-type]
    except TypeError:
        raise error(f"{setting}: expected a path, got {quoted(value)}") from None
    try:
        os.lstat(path)
    except ValueError as impossible:  # a NUL byte, or what the file system's encoding lacks
        raise error(f"{setting}: {quoted(str(path))} cannot be a path ({reason(impossible)})") from None
    except OSError as missing:
        if missing.errno == errno.ENAMETOOLONG:
            raise error(f"{setting}: {quoted(str(path))} is too long for a path") from None
    return path


def place_of(value: object, setting: str, error: type[ElmoError] = ElmoError) -> Path:
    """Return `path_of` a folder to write. If it is a link to a folder that does not exist, return that folder: nothing
    can be made at the link itself.

    Raises:
        ElmoError: (or the given type) as `path_of`, or the link leads back to itself.
    """
    path = path_of(value, setting, error)
    try:
        return path if os.path.exists(path) else behind_link(path)  # noqa: PTH110 (Path.exists may raise)
    except OSError as impossible:
        raise error(f"{setting}: {quoted(str(path))} cannot be written ({reason(impossible)})") from None
