"""Reads the memory of a process and its children in MiB, on Linux."""

from contextlib import suppress
from pathlib import Path

IS_TOLD = Path("/proc/self/smaps_rollup").exists()


def peak(pid: int, is_from_now: bool = False) -> float | None:
    """Return the highest resident memory so far; None if it is not known. is_from_now: start to measure now."""
    if IS_TOLD and is_from_now:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")
    return _fields(pid, "status")["VmHWM:"] if IS_TOLD else None


def look(pid: int, looks: list[dict[int, tuple[float, float]]]) -> None:
    """Measure a process and its children, and append the result to `looks`: for each, its share of the memory (shared
    memory counts once in all), and its private memory. A process that has just ended is left out."""
    looks.append({})
    for one in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split())):
        with suppress(OSError, KeyError):
            kept = _fields(one, "smaps_rollup")
            looks[-1][one] = kept["Pss:"], kept["Private_Clean:"] + kept["Private_Dirty:"]


def _fields(pid: int, file: str) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}
