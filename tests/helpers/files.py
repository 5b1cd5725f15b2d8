"""What is in directories, for tests to compare."""

import hashlib


def names(directory):
    """Return the sorted names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def contents(directory):
    """Return the bytes of each file in a directory and its subdirectories, by its relative name."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def sha256(content):
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
