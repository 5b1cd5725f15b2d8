"""Open a zip archive whose list of members may be hostile."""

import zipfile
from typing import BinaryIO


def open_zip(file: BinaryIO, most: int) -> zipfile.ZipFile:
    """Open an archive for reading, if its list of members (the zip's directory) has at most `most` bytes.

    Raises:
        BadZipFile: it is longer, or this is no zip archive.
    """
    return zipfile.ZipFile(_BoundedReads(file, most))


class _BoundedReads:
    """A file that never returns more than this at once: zipfile reads a directory of any length in one go."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, self._most + 1) if size >= 0 else self._most + 1)
        if len(content) > self._most:
            raise zipfile.BadZipFile("its directory is longer than any model's")
        return content
