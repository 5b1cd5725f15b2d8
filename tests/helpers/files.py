"""What lies in directories, as tests compare it."""

import hashlib


def names(directory):
    """The sorted names of what lies in a directory."""
    return sorted(path.name for path in directory.iterdir())


def contents(directory):
    """The bytes of each file in a directory and in its directories, by its name in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def sha256(content):
    """The SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
