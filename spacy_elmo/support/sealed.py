"""Bytes in, the same bytes behind a checksum of them out, and back: a change is seen before anything is read."""

import hashlib

from spacy_elmo.errors import WeightsError

_MAGIC = b"spacy-elmo sealed 1\n"


def seal(data: bytes) -> bytes:
    """Put a SHA-256 in front."""
    return _MAGIC + hashlib.sha256(data).digest() + data


def unseal(data: bytes, name: str) -> bytes:
    """What `seal` was given; bytes of earlier versions, which carry no checksum, as they are.

    name: of what the bytes hold, for the error.

    Raises:
        WeightsError: the bytes are no bytes, or others than those that were sealed.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise WeightsError(f"{name}: expected bytes, got {type(data).__name__}")
    data = bytes(data)
    if not data.startswith(_MAGIC):
        return data
    start = len(_MAGIC) + hashlib.sha256().digest_size
    content = data[start:]
    if hashlib.sha256(content).digest() != data[len(_MAGIC) : start]:
        raise WeightsError(f"{name}: the bytes are damaged (their checksum differs); make them anew with to_bytes")
    return content
