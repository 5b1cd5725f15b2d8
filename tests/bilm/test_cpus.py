"""CPU quotas in file trees like those of containers, and how many of the CPUs are used."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import cpus
from spacy_elmo.bilm.cpus import cpu_quota, usable_cpus

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
OTHER = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" + MEMORY


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes a file system and returns its root."""

    def write(cgroup, mountinfo, files):
        texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
        for name, text in (texts | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "max 100000\n", "cpu.max": "300000 100000\n"}, 3.0),
        ({"a/b/cpu.max": "200000\n"}, 2.0),
        ({"a/b/c/cpu.max": "100000 100000\n", "other/cpu.max": "100000 100000\n"}, None),
        ({}, None),
    ],
)
def test_the_smallest_quota_of_the_group_and_of_those_around_it_counts(files, expected, tree):
    assert cpu_quota(tree("0::/a/b\n", OTHER + V2, files)) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("250000\n", "100000\n", 2.5), ("25000\n", "50000\n", 0.5), ("-1\n", "100000\n", None), ("0", "100000", None)],
)
def test_quotas_of_version_1(quota, period, expected, tree):
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": quota, "cpu,cpuacct/a/cpu.cfs_period_us": period}
    assert cpu_quota(tree("12:memory:/a\n3:cpu,cpuacct:/a/b\n0::/\n", OTHER + V1, files)) == expected


def test_of_both_versions_side_by_side_the_smaller_quota_counts(tree):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "unified/cpu.max": "200000 100000",
    }
    mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    assert cpu_quota(tree("3:cpu,cpuacct:/\n0::/\n", mounts, files)) == 2.0


@pytest.mark.parametrize("group", ["/docker/abc", "/docker/abc/inner", "/", "/../elsewhere"])
def test_a_container_sees_its_own_group_at_the_mount(group, tree):
    mount = V2.replace(" / /sys", " /docker/abc /sys")
    assert cpu_quota(tree(f"0::{group}\n", mount, {"cpu.max": "100000 50000"})) == 2.0


def test_groups_of_others_that_are_mounted_too_do_not_count(tree):
    others = V2.replace(" / /sys/fs/cgroup ", " /docker/xyz /sys/fs/cgroup/others ")
    files = {"others/cpu.max": "100000 100000", "docker/abc/cpu.max": "400000 100000"}
    assert cpu_quota(tree("0::/docker/abc\n", others + V2, files)) == 4.0


def test_names_with_spaces_and_colons(tree):
    mount = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/my\\040groups ")
    assert cpu_quota(tree("0::/a:b\n", mount, {"my groups/a:b/cpu.max": "100000 100000"})) == 1.0


@pytest.mark.parametrize("text", ["", "x y", "1 x", "100000 0", "-5 100000", "nan 1", "max", "9" * 400 + " 1", "\0"])
def test_an_odd_quota_is_no_limit(text, tree):
    assert cpu_quota(tree("0::/a\n", V2, {"a/cpu.max": text})) is None


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_no_limit(tree):
    root = tree("0::/a\n", V2, {"a/cpu.max": "100000 100000"})
    (root / "sys/fs/cgroup/a/cpu.max").chmod(0)
    assert cpu_quota(root) is None


def test_a_directory_in_the_place_of_a_file_is_no_limit(tree):
    assert cpu_quota(tree("0::/a\n", V2, {"a/cpu.max/x": ""})) is None


_PARTS = st.sampled_from(
    ["0", ":", "::", "/", "//", "..", "cpu", " ", " - ", "cgroup", "cgroup2", "\n", "\\040", "\0", "ü"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cgroup=st.lists(_PARTS).map("".join), mountinfo=st.lists(_PARTS).map("".join), lines=st.booleans())
def test_odd_files_never_raise(cgroup, mountinfo, lines, tree):
    cpu_quota.cache_clear()
    if lines:
        mountinfo = f"1 2 0:1 {mountinfo} - cgroup2 x rw"
    assert cpu_quota(tree(f"0::{cgroup}", V2 + mountinfo, {"cpu.max": "100000 100000"})) in (None, 1.0)


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"), [(4, None, 4), (4, 2.9, 2), (4, 0.3, 1), (1, 8.0, 1), (4, 16.0, 4)]
)
def test_no_more_cpus_than_affinity_and_quota_allow(affinity, quota, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert usable_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs of a process cannot be chosen here")
def test_a_change_of_affinity_is_heeded_at_once():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= usable_cpus() <= len(allowed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_reads_its_quota_anew():
    cpu_quota()
    assert cpu_quota.cache_info().currsize
    child = os.fork()
    if child == 0:
        os._exit(cpu_quota.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
