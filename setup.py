"""The compiled part, which is optional: without a C compiler the package is installed without it and runs all the same.

Everything else is in pyproject.toml.
"""

import sysconfig

from setuptools import Extension, setup

# One binary for all versions of Python; those without a global lock do not have that yet.
has_limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "spacy_elmo.bilm._single_row",
            ["spacy_elmo/bilm/_single_row.c"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if has_limited_api else [],
            extra_compile_args=["-O3", "-fno-fast-math", "-fno-trapping-math"],  # other compilers ignore them
            py_limited_api=has_limited_api,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if has_limited_api else {},
)
