"""Builds the compiled part, for Linux and macOS on x86-64 and ARM. It is optional: without a C compiler, the package is
installed without it and is slower (`python -m spacy elmo info --machine` shows whether it is there). Set
SPACY_ELMO_PURE=1 to leave it out, for a wheel that works on every platform.

Everything else is in pyproject.toml.
"""

import os
import platform
import sys
import sysconfig
import zlib
from pathlib import Path

from setuptools import Extension, setup

# One binary for all versions of Python. Free-threaded builds do not support that yet.
has_limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")
is_pure = os.environ.get("SPACY_ELMO_PURE", "0") not in ("", "0")
is_served = sys.platform in ("linux", "darwin") and platform.machine() in ("x86_64", "aarch64", "arm64")
has_kernels = is_served and not is_pure

sources = ["spacy_elmo/bilm/_kernels.c", "spacy_elmo/bilm/_kernels_level.h", "spacy_elmo/bilm/_kernels_training.h"]
checksum = zlib.crc32(b"".join(Path(source).read_bytes() for source in sources))  # kernels.py compares it

kernels = Extension(
    "spacy_elmo.bilm._kernels",
    sources[:1],
    depends=sources[1:],
    define_macros=[("SOURCE", f"{checksum}L"), *([("Py_LIMITED_API", "0x030A0000")] if has_limited_api else [])],
    extra_compile_args=["-O3", "-fno-fast-math", "-fno-trapping-math", "-ffp-contract=fast"],
    libraries=["dl"] if sys.platform == "linux" else [],  # a separate library before glibc 2.34
    py_limited_api=has_limited_api,
    optional=True,
)

setup(
    ext_modules=[kernels] if has_kernels else [],
    options={
        "editable_wheel": {"mode": "compat"},  # a plain path, so that type checkers find the package
        **({"bdist_wheel": {"py_limited_api": "cp310"}} if has_kernels and has_limited_api else {}),
    },
)
