"""Bytes in, the same bytes with a checksum in front out, and back: a change is noticed before anything is read."""

import hashlib

from spacy_elmo.errors import WeightsError

_MAGIC = b"spacy-elmo sealed 1\n"


def seal(data: bytes) -> bytes:
    """Put a SHA-256 in front."""
    return _MAGIC + hashlib.sha256(data).digest() + data


def unseal(data: bytes, name: str) -> bytes:
    """Return what `seal` was given. Bytes of earlier versions have no checksum and are returned as they are.

    name: what the bytes are, for the error.

    Raises:
        WeightsError: the argument is not bytes, or the bytes have changed since they were sealed.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise WeightsError(f"{name}: expected bytes, got {type(data).__name__}")
    data = bytes(data)
    if not data.startswith(_MAGIC):
        return data
    start = len(_MAGIC) + hashlib.sha256().digest_size
    content = data[start:]
    if hashlib.sha256(content).digest() != data[len(_MAGIC) : start]:
        raise WeightsError(f"{name}: the bytes are damaged (their checksum differs); make them again with to_bytes")
    return content
