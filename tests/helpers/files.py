"""What lies in directories, as tests compare it."""

import hashlib


def names(directory):
    """The sorted names of what lies in a directory."""
    return sorted(path.name for path in directory.iterdir())


def sha256(content):
    """The SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
