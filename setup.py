"""The compiled part, for x86-64 Linux and optional: without GCC the package is installed without it, and runs as well.

Everything else is in pyproject.toml.
"""

import platform
import sys
import sysconfig

from setuptools import Extension, setup

# One binary for all versions of Python; those without a global lock do not have that yet.
has_limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")

compiled = Extension(
    "spacy_elmo.bilm._compiled",
    ["spacy_elmo/bilm/_compiled.c"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")] if has_limited_api else [],
    extra_compile_args=["-O3", "-fno-fast-math", "-fno-trapping-math"],
    libraries=["dl"],  # of its own before glibc 2.34
    py_limited_api=has_limited_api,
    optional=True,
)

setup(
    ext_modules=[compiled] if (sys.platform, platform.machine()) == ("linux", "x86_64") else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if has_limited_api else {},
)
