"""The compiled part, which is optional: without a C compiler the package is installed without it and runs all the same.

Everything else is in pyproject.toml.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "spacy_elmo.bilm._single_row",
            ["spacy_elmo/bilm/_single_row.c"],
            extra_compile_args=["-O3", "-fno-trapping-math"],  # unknown to some compilers, which ignore them
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
