"""How many CPUs this process may use: those it may run on, and the CPU time that its container grants it."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PERIOD = 100_000  # microseconds: the kernel's default, where cpu.max names none


def usable_cpus() -> int:
    """The number of CPUs this process may run on now, or fewer where a CPU quota grants less; at least 1.

    The CPUs are asked for at each call, since they can change; the quota is read once in a process.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if hasattr(os, "process_cpu_count"):  # Python 3.13: it also heeds PYTHON_CPU_COUNT
        counts.append(os.process_cpu_count() or 1)
    quota = cpu_quota()
    if quota is not None:
        counts.append(int(quota))
    return max(1, min(counts))


@functools.cache
def cpu_quota(root: str | Path = "/") -> float | None:
    """CPUs' worth of time that the control groups (cgroups) of this process grant it; None where they set no limit.

    A limit of a group holds for the groups within it, so the smallest of all counts. Files that are missing,
    unreadable or odd set no limit.

    root: of the file system in which `/proc` and `/sys` are looked for.
    """
    root = Path(root)
    mounts = list(_read_mounts(root))
    quotas = []
    for line in _read_lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            hierarchy, read_quota = [mount for mount in mounts if mount.is_v2], _read_quota_v2
        elif "cpu" in controllers.split(","):
            hierarchy, read_quota = [mount for mount in mounts if not mount.is_v2], _read_quota_v1
        else:
            continue
        for directory in _find_directories(hierarchy, PurePosixPath(path)):
            quotas.append(read_quota(root / str(directory).lstrip("/")))
    return min((quota for quota in quotas if quota is not None), default=None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=cpu_quota.cache_clear)  # a forked process may be put into another group


class _Mount(NamedTuple):
    """A hierarchy of control groups in the file system; group: the one that is seen at `point`."""

    is_v2: bool
    group: PurePosixPath
    point: PurePosixPath


def _read_mounts(root: Path) -> Iterator[_Mount]:
    """The hierarchies that limit CPU time; the format of the file is in proc(5)."""
    for line in _read_lines(root / "proc/self/mountinfo"):
        mount, _, file_system = line.partition(" - ")
        fields, (kind, _, options) = mount.split(" "), (file_system.split(" ") + [""] * 3)[:3]
        is_v2 = kind == "cgroup2"
        if len(fields) < 5 or not (is_v2 or (kind == "cgroup" and "cpu" in options.split(","))):
            continue
        group, point = (PurePosixPath(_unescape(field)) for field in fields[3:5])
        if point.is_absolute():
            yield _Mount(is_v2, group, point)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _find_directories(mounts: Iterable[_Mount], group: PurePosixPath) -> Iterator[PurePosixPath]:
    """The directories of a group and of all groups around it, as far as they are mounted here."""
    mounts = list(mounts)
    inside = [mount for mount in mounts if ".." not in group.parts and group.is_relative_to(mount.group)]
    for mount in inside:
        directory = mount.point / group.relative_to(mount.group)
        yield from (parent for parent in (directory, *directory.parents) if parent.is_relative_to(mount.point))
    if not inside:  # in a container that sees its own group only, under a name from outside
        yield from (mount.point for mount in mounts)


def _read_quota_v2(directory: Path) -> float | None:
    """Of a line `QUOTA PERIOD`, or `max PERIOD` for no limit."""
    quota, period = ([*" ".join(_read_lines(directory / "cpu.max")).split(), "", ""])[:2]
    return _divide(quota, period or str(_PERIOD))


def _read_quota_v1(directory: Path) -> float | None:
    """Of two files; -1 for no limit."""
    quota, period = (" ".join(_read_lines(directory / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _divide(quota, period or str(_PERIOD))


def _divide(quota: str, period: str) -> float | None:
    try:
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (ValueError, OverflowError):
        return None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):  # no such file, or no name that a file can have
        return []
