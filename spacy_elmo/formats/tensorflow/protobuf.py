"""Read the fields of a protocol buffer: as much of the wire format as TensorFlow's files need.

See https://protobuf.dev/programming-guides/encoding. The callers document the meaning of the fields.
"""

from collections.abc import Iterator

Value = int | memoryview  # a number, or the bytes of a string, of a message or of a fixed-width number

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class MalformedError(ValueError):
    """Bytes that are not what they should be."""


class Reader:
    """Reads messages, with at most `most_fields` fields in all of them together, so a file takes bounded time."""

    def __init__(self, most_fields: int) -> None:
        self._left = most_fields

    def fields(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Yield the number and value of each field, in the order of the message.

        Raises:
            MalformedError: it is cut off, is not a message, or has too many fields.
        """
        at = 0
        while at < len(message):
            self._left -= 1
            if self._left < 0:
                raise MalformedError("it has more fields than any model")
            tag, at = varint(message, at)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, at = varint(message, at)
                yield number, value
                continue
            if kind == _BYTES:
                width, at = varint(message, at)
            elif kind in _WIDTHS:
                width = _WIDTHS[kind]
            else:
                raise MalformedError(f"a field of unknown kind {kind}")
            if width > len(message) - at:
                raise MalformedError("a field extends beyond its end")
            yield number, message[at : at + width]
            at += width

    def all(self, message: memoryview, number: int) -> Iterator[memoryview]:
        """Yield the messages or strings in a repeated field."""
        for found, value in self.fields(message):
            if found == number:
                yield as_bytes(value)

    def single(self, message: memoryview) -> dict[int, Value]:
        """Return the fields by number; of a repeated field, the last value."""
        return dict(self.fields(message))


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned number of up to 64 bits. Return it and the offset of its end.

    Raises:
        MalformedError: it is cut off or longer.
    """
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise MalformedError("a number is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, at
    raise MalformedError("a number of more than 64 bits")


def signed(number: int) -> int:
    """Return the int64 that a varint encodes."""
    return number - (1 << 64) if number >= 1 << 63 else number


def as_number(value: Value) -> int:
    """Return the value of a field that holds a number.

    Raises:
        MalformedError: it holds something else.
    """
    if not isinstance(value, int):
        raise MalformedError("a field holds bytes instead of a number")
    return value


def as_bytes(value: Value) -> memoryview:
    """Return the value of a field that holds bytes.

    Raises:
        MalformedError: it holds something else.
    """
    if isinstance(value, int):
        raise MalformedError("a field holds a number instead of bytes")
    return value


def as_text(value: Value) -> str:
    """Return the value of a field that holds a string. Bytes that are not UTF-8 become escapes."""
    return bytes(as_bytes(value)).decode(errors="backslashreplace")
