"""Read the tensors of a network's `state_dict` that `torch.save` wrote, by name.

Such a file is a pickle, and a pickle can call anything. So every name in it is checked before torch reads it, and torch
reads it with `weights_only=True`. Nothing in it is executed.
"""

import io
import itertools
import os
import pickletools
import zipfile
from collections.abc import Collection
from typing import BinaryIO

import torch
from torch import Tensor

from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, reading, size_of
from spacy_elmo.formats.bounded_zip import open_zip
from spacy_elmo.support.messages import reason, shown

# The names in the pickle of a state_dict with float32 tensors.
_KNOWN_GLOBALS = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage")
# The names that other tensors need in addition.
OTHER_STORAGES = tuple(
    f"torch {kind}Storage" for kind in ("Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
)
# Other ways to name or call something. torch.save does not use them.
_OTHER_CALLS = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID")
_LEGACY_PICKLES = 5  # magic number, protocol, system, tensors, storages
_MOST_PICKLED = 2**20  # bytes; a model has about 10 kB without its numbers
_MOST_MEMBERS, _MOST_DIRECTORY = 10_000, 2**22  # members and directory bytes of the zip archive that torch writes


def read(file: File, other_storages: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU, wherever they were saved.

    other_storages: those of `OTHER_STORAGES` that are allowed in addition to float32.

    Raises:
        WeightsError: the file is missing, truncated or of another kind, or it holds anything except tensors by name.
    """
    if not file.is_file():
        raise WeightsError(f"{file}: no such file")
    with reading(file) as content:
        try:
            _refuse_unknown(content, {*_KNOWN_GLOBALS, *other_storages}, str(file))
            content.seek(0)
            state = torch.load(content, map_location="cpu", weights_only=True)
        except WeightsError:
            raise
        except Exception as error:  # torch raises many kinds
            raise WeightsError(
                f"{file}: cannot be read as a torch state_dict; truncated, damaged or in another format "
                f"({reason(error)})"
            ) from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{file}: is not a torch state_dict, which holds tensors by name")
    size = size_of(file)
    for name, tensor in state.items():
        if (n_bytes := tensor.numel() * tensor.element_size()) > size:  # one stored number may stand for all of them
            raise WeightsError(
                f"{file}: has {size:,} bytes, but declares {n_bytes:,} for {shown(str(name))}; damaged or hostile"
            )
    return {str(name): tensor for name, tensor in state.items()}


def _refuse_unknown(file: BinaryIO, known: Collection[str], source: str) -> None:
    """Raise a WeightsError if a pickle in the file contains any name that is not known."""
    for opcode, argument, _ in _opcodes(file, source):
        if opcode.name in _OTHER_CALLS or (opcode.name == "GLOBAL" and argument not in known):
            what = shown(str(argument).replace(" ", ".")) if opcode.name == "GLOBAL" else f"a call ({opcode.name})"
            raise WeightsError(
                f"{source}: this pickle contains {what}, but weights contain only tensors; it may be hostile, and was "
                "not loaded"
            )


def _opcodes(file: BinaryIO, source: str) -> "itertools.chain[tuple[pickletools.OpcodeInfo, object, int | None]]":
    if file.read(4) == b"PK\3\4":
        pickled, n_pickles = io.BytesIO(_pickle_in_zip(file, source)), 1
    else:
        file.seek(0)
        pickled, n_pickles = io.BytesIO(file.read(_MOST_PICKLED)), _LEGACY_PICKLES
    return itertools.chain.from_iterable(pickletools.genops(pickled) for _ in range(n_pickles))


def _pickle_in_zip(file: BinaryIO, source: str) -> bytes:
    """Return the one pickle in the zip archive that torch has written since 1.6. Torch stores it uncompressed."""
    with open_zip(file, _MOST_DIRECTORY) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(entries) > _MOST_MEMBERS or not is_written_by_torch(archive, file.seek(0, os.SEEK_END)):
            raise WeightsError(f"{source}: torch does not write zip archives like this; damaged or hostile")
        if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLED:
            raise WeightsError(f"{source}: expected one short pickle in this zip archive, as torch.save writes it")
        if (damaged := archive.testzip()) is not None:  # torch does not check the checksums
            raise WeightsError(
                f"{source}: the checksum of {shown(damaged)} in it is wrong; the file is damaged, copy it again"
            )
        return archive.read(pickles[0])


def is_written_by_torch(archive: zipfile.ZipFile, size: int) -> bool:
    """Return whether the members lie uncompressed in this file of `size` bytes, and torch would read all of them.

    It skips folders and members without compressed bytes, and leaves their tensors uninitialized
    (`mz_zip_reader_extract_to_mem_no_alloc` in miniz).
    """
    entries = archive.infolist()
    return sum(entry.file_size for entry in entries) <= size and all(
        entry.compress_type == zipfile.ZIP_STORED
        and entry.compress_size == entry.file_size
        and not (entry.external_attr & 0x10 or entry.is_dir())
        for entry in entries
    )
