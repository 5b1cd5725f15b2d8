"""Run the tests of the network at the lower levels of instructions of this processor, and without the compiled part.

Each library has an environment variable that limits it to a level, so a single processor with AVX-512 can run all
tests.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = [
    "test_reference.py",
    "test_lstm.py",
    "test_kernels.py",
    "test_training_kernels.py",
    "test_products.py",
    "engines",
]
CAPABILITY, ONEDNN, MKL = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"
LEVELS: dict[str, dict[str, str]] = {
    "avx512": {CAPABILITY: "avx512"},
    "avx2": {CAPABILITY: "avx2", ONEDNN: "AVX2", MKL: "AVX2"},
    "generic": {CAPABILITY: "default", ONEDNN: "SSE41", MKL: "SSE4_2"},
    "neon": {},
}


def main() -> int:
    """Return 1 if tests failed at any level. The best level is left out: all other tests run there."""
    best, *lower = here().items()
    levels = dict(lower or [best])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = pool.map(lambda name: run(name, levels[name][0], *levels[name][1]), levels)
    failed = [name for name, has_passed in zip(levels, passed, strict=True) if not has_passed]
    print(f"levels that failed: {', '.join(failed)}" if failed else "all levels passed")
    return int(bool(failed))


def here() -> dict[str, tuple[dict[str, str], tuple[str, ...]]]:
    """Return this processor's levels, the best first, and "none": the variables that limit a process to each, and
    pytest's options."""
    from spacy_elmo.bilm import kernels

    found = {level: ({**LEVELS[level], kernels.VARIABLE: level}, ()) for level in kernels.instruction_sets()}
    return {**found, "without the compiled part": ({}, ("--without-kernels",))}


def run(name: str, variables: dict[str, str], *options: str) -> bool:
    """Run the tests at one level; return whether all passed."""
    folder, start = Path(__file__).resolve().parent, time.perf_counter()
    tests = [str(folder / "bilm" / test) for test in TESTS]
    command = [sys.executable, "-m", "pytest", "-m", "not slow", *options, *tests]
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"== {name}: {time.perf_counter() - start:.0f} s\n{done.stdout}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
