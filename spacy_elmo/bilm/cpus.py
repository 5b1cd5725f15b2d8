"""How many CPUs this process may use, by its affinity and by the CPU quota of its container."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PERIOD = 100_000  # microseconds: the kernel's default if cpu.max has none


def usable_cpus() -> int:
    """Return the number of CPUs that this process may run on now, or fewer if its CPU quota is smaller; at least 1.

    Each call asks for the CPUs, because they can change. The quota is read once per process.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if hasattr(os, "process_cpu_count"):  # Python 3.13: it also respects PYTHON_CPU_COUNT
        counts.append(os.process_cpu_count() or 1)
    quota = cpu_quota()
    if quota is not None:
        counts.append(int(quota))
    return max(1, min(counts))


@functools.cache
def cpu_quota(root: str | Path = "/") -> float | None:
    """Return the CPU quota, in CPUs, of the control groups (cgroups) of this process; None if they set no limit.

    The limit of a group also applies to the groups within it, so the smallest counts. Files that are missing,
    unreadable or malformed set no limit.

    root: of the file system that has `/proc` and `/sys`.
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
    os.register_at_fork(after_in_child=cpu_quota.cache_clear)  # a forked process may move to another group


class _Mount(NamedTuple):
    """A hierarchy of control groups in the file system. group: the one that is mounted at `point`."""

    is_v2: bool
    group: PurePosixPath
    point: PurePosixPath


def _read_mounts(root: Path) -> Iterator[_Mount]:
    """Yield the hierarchies that limit CPU time. proc(5) describes the format of the file."""
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
    """Yield the directories of a group and of all groups around it, as far as they are mounted here."""
    mounts = list(mounts)
    inside = [mount for mount in mounts if ".." not in group.parts and group.is_relative_to(mount.group)]
    for mount in inside:
        directory = mount.point / group.relative_to(mount.group)
        yield from (parent for parent in (directory, *directory.parents) if parent.is_relative_to(mount.point))
    if not inside:  # in a container that only sees its own group, but under the host's name
        yield from (mount.point for mount in mounts)


def _read_quota_v2(directory: Path) -> float | None:
    """Read the quota from a line `QUOTA PERIOD`, or `max PERIOD` for no limit."""
    quota, period = ([*" ".join(_read_lines(directory / "cpu.max")).split(), "", ""])[:2]
    return _divide(quota, period or str(_PERIOD))


def _read_quota_v1(directory: Path) -> float | None:
    """Read the quota from two files; -1 means no limit."""
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
    except (OSError, ValueError):  # no such file, or not a valid file name
        return []
