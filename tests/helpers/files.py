"""What is in directories, for tests to compare; and files, for tests to damage."""

import hashlib
import zipfile


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


def make_a_folder_of(archive, name):
    """Set the attribute of a folder on the member of a zip whose path ends in this name. Its content stays."""
    with zipfile.ZipFile(archive) as file:
        member = next(path for path in file.namelist() if path.endswith(name))
    content = bytearray(archive.read_bytes())
    entry = content.rindex(member.encode()) - 46  # in the directory at the end of the file
    content[entry + 38] |= 0x10
    archive.write_bytes(content)
