# SPDX-License-Identifier: MIT
"""Containers of every make, as literal trees below fixtures/cgroup and as this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.sense import Sensor

CASES = Path(__file__).parent / "fixtures" / "cgroup"
CPUS = len(os.sched_getaffinity(0))
MEM_TOTAL = 32768000 * 1024
MEM_AVAILABLE = 24576000 * 1024
LIMIT = 199999488
V2_USED = 50_000_000 + 4_000_000 + (30_000_000 - 10_000_000) + 1000
# A quarter of the machine's kernel memory cannot be reclaimed, so a quarter of the group's 20 MB is taken.
V1_USED = 50_000_000 + 4_000_000 + 5_000_000


@dataclass(frozen=True)
class Seen:
    """What a reading of a case must say; `source` is the end of its path."""

    limit: int | None
    source: str
    used: int = V2_USED
    room: int | None = None
    cpus: float = 1000.0


HOST = Seen(None, "MemTotal", used=MEM_TOTAL - MEM_AVAILABLE, room=MEM_AVAILABLE)

EXPECTED = {
    "v2-bare": Seen(LIMIT, "cgroup/g/memory.max", cpus=2.5),
    "v2-limit-on-ancestor": Seen(8_000_000_000, "pod1/memory.max", used=2_024_001_000),
    "v2-high-below-max": Seen(LIMIT, "g/memory.high"),
    "v2-private-namespace": Seen(LIMIT, "cgroup/memory.max"),
    "v2-host-namespace": Seen(LIMIT, "docker/4f5e/memory.max"),
    "v2-unlimited": HOST,
    "v2-page-cache": Seen(8_000_000_000, "g/memory.max"),
    "v2-neighbours": Seen(2_000_000_000, "pod/build/memory.max", room=4_000_000_000 - 3_524_001_000),
    "v2-old-kernel": Seen(LIMIT, "g/memory.max", used=54_000_000 + 6_500_000 + 1000),
    "v2-stat-unreadable": Seen(LIMIT, "g/memory.max", used=150_000_000),
    "v2-limit-beyond-machine": Seen(MEM_TOTAL, "MemTotal", room=MEM_TOTAL),
    "v2-outside-namespace": Seen(LIMIT, "cgroup/memory.max"),
    "v2-mount-with-space": Seen(LIMIT, "cg roup/a b/memory.max"),
    "v1-bare": Seen(LIMIT, "memory/g/memory.limit_in_bytes", V1_USED, cpus=2.5),
    "v1-container-host-namespace": Seen(LIMIT, "cgroup/memory/memory.limit_in_bytes", V1_USED, cpus=2.5),
    "v1-container-private-namespace": Seen(LIMIT, "cgroup/memory/memory.limit_in_bytes", V1_USED),
    "v1-unlimited": HOST,
    "v1-limit-on-ancestor": Seen(
        4_000_000_000, "pod/build/memory.stat", V1_USED, room=4_000_000_000 - 3_500_000_000 - 9_000_000
    ),
    "v1-old-kernel": Seen(LIMIT, "memory/g/memory.limit_in_bytes", V1_USED),
    "hybrid": Seen(LIMIT, "memory/g/memory.limit_in_bytes", V1_USED),
    "hybrid-v2-first": Seen(LIMIT, "memory/g/memory.limit_in_bytes", V1_USED),
    "no-cgroup": HOST,
    "no-proc-self": HOST,
    "empty-files": HOST,
    "binary-files": HOST,
}


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a case, to be changed."""
    return Path(shutil.copytree(CASES / request.param, tmp_path / "root"))


def test_every_tree_has_its_row() -> None:
    """No case lies about unread."""
    assert {path.name for path in CASES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("case", EXPECTED)
def test_reads_the_container(case: str) -> None:
    """Limit, its file, use and room are what the tree says."""
    seen, want = Sensor(CASES / case).read(), EXPECTED[case]
    assert seen.limit_bytes == want.limit
    assert seen.limit_source.endswith(want.source)
    assert seen.used_bytes == want.used
    assert seen.room_bytes == ((want.limit or 0) - want.used if want.room is None else want.room)
    assert seen.cpus == min(CPUS, want.cpus)
    assert (seen.total_bytes, seen.host_available_bytes) == (MEM_TOTAL, MEM_AVAILABLE)


@pytest.mark.parametrize("case", ["v1-bare", "v1-old-kernel", "v2-bare", "hybrid"])
def test_shmem_is_told_apart(case: str) -> None:
    """What lies in tmpfs is known, on kernels that do not list it, too."""
    assert Sensor(CASES / case).read().shmem_bytes == 4_000_000


def test_page_cache_is_not_used() -> None:
    """A group that page cache fills to its limit is nearly empty."""
    seen = Sensor(CASES / "v2-page-cache").read()
    assert seen.used_bytes < 100_000_000
    assert seen.ceiling_bytes == 8_000_000_000


def test_neighbours_take_room() -> None:
    """Where neighbours use up the ancestor's limit, its room is the room."""
    seen = Sensor(CASES / "v2-neighbours").read()
    assert seen.ceiling_bytes == seen.used_bytes + 475_999_000


@pytest.mark.parametrize("tree", ["v2-bare"], indirect=True)
def test_a_limit_that_changes_is_seen(tree: Path) -> None:
    """A pod that is resized in place has its new limit at the next reading."""
    sensor = Sensor(tree)
    assert sensor.read().limit_bytes == LIMIT
    limit = tree / "sys/fs/cgroup/g/memory.max"
    limit.write_text("400000000\n")
    assert sensor.read().limit_bytes == 400_000_000
    limit.write_text("max\n")
    assert sensor.read().limit_bytes is None
    limit.unlink()
    assert sensor.read().limit_bytes is None


@pytest.mark.parametrize("tree", ["v2-stat-unreadable"], indirect=True)
def test_a_limit_without_any_use_still_limits(tree: Path) -> None:
    """A group that tells its limit and nothing else is not taken for one without a limit."""
    (tree / "sys/fs/cgroup/g/memory.current").unlink()
    seen = Sensor(tree).read()
    assert (seen.limit_bytes, seen.used_bytes, seen.ceiling_bytes) == (LIMIT, 0, LIMIT)


@pytest.mark.parametrize("tree", ["v2-bare", "v1-bare"], indirect=True)
def test_half_a_cpu_is_half_a_cpu(tree: Path) -> None:
    """A quota below one CPU is told as it is."""
    for path, text in (("g/cpu.max", "50000 100000"), ("cpu,cpuacct/g/cpu.cfs_quota_us", "50000")):
        if (tree / "sys/fs/cgroup" / path).exists():
            (tree / "sys/fs/cgroup" / path).write_text(text)
    assert Sensor(tree).cpus() == 0.5


@pytest.mark.parametrize("case", ["v2-bare", "v1-bare", "v1-container-host-namespace"])
def test_the_quota_counts_below_the_affinity(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and a half CPUs of a quota count on a large machine, and its affinity on a small one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert Sensor(CASES / case).cpus() == 2.5
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert Sensor(CASES / case).cpus() == 1.0


def test_own_limit_below_the_containers_counts() -> None:
    """MEMGUARD_LIMIT may make the container smaller."""
    seen = Sensor(CASES / "v2-bare", limit_bytes=100_000_000).read()
    assert (seen.limit_bytes, seen.limit_source) == (100_000_000, "MEMGUARD_LIMIT")
    assert seen.room_bytes == 100_000_000 - V2_USED


def test_own_limit_above_the_containers_is_void() -> None:
    """MEMGUARD_LIMIT cannot make the container larger."""
    assert Sensor(CASES / "v2-bare", limit_bytes=1 << 40).read() == Sensor(CASES / "v2-bare").read()


@pytest.mark.parametrize(("case", "used"), [("v2-unlimited", V2_USED), ("no-cgroup", MEM_TOTAL - MEM_AVAILABLE)])
def test_own_limit_where_none_is_seen(case: str, used: int) -> None:
    """Without another limit MEMGUARD_LIMIT bounds the own group, or the machine where there is none."""
    seen = Sensor(CASES / case, limit_bytes=16 << 30).read()
    assert (seen.limit_bytes, seen.limit_source, seen.used_bytes) == (16 << 30, "MEMGUARD_LIMIT", used)
    assert seen.ceiling_bytes == 16 << 30


def test_own_limit_beyond_the_machine_is_the_machine() -> None:
    """Nobody has more memory than there is."""
    assert Sensor(CASES / "no-cgroup", limit_bytes=1 << 50).read().bound_bytes == MEM_TOTAL


@pytest.mark.parametrize(
    ("case", "kills"),
    [("v2-bare", 3), ("v2-private-namespace", 1), ("v1-bare", 2), ("no-cgroup", None), ("binary-files", None)],
)
def test_oom_kills_are_counted(case: str, kills: int | None) -> None:
    """Kills, not alarms, are counted, and None is said where nobody counts."""
    assert Sensor(CASES / case).oom_kills() == kills


def test_without_meminfo_there_is_no_reading(tmp_path: Path) -> None:
    """A machine that does not tell its memory is an OSError that names the file."""
    with pytest.raises(OSError, match="meminfo"):
        Sensor(tmp_path).read()


@pytest.mark.parametrize("tree", ["v2-bare"], indirect=True)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_no_content_of_a_file_makes_it_raise(tree: Path, data: st.DataObject) -> None:
    """Whatever the kernel's files hold, a reading is made of what can be read."""
    for name in ("memory.max", "memory.high", "memory.stat", "cpu.max"):
        words = st.sampled_from([b"anon ", b"shmem ", b"max", b"7", b" ", b"\n", b"-1", b"\xc2\xb2", b"9" * 5000])
        content = data.draw(st.binary() | st.lists(words).map(b"".join))
        (tree / "sys/fs/cgroup/g" / name).write_bytes(content)
    seen = Sensor(tree).read()
    assert seen.ceiling_bytes >= seen.used_bytes >= 0
    assert seen.cpus >= 0


@pytest.mark.parametrize("tree", ["v2-bare"], indirect=True)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.binary(), st.binary())
def test_no_mount_table_makes_it_raise(tree: Path, mounts: bytes, groups: bytes) -> None:
    """Whatever the tables of mounts and groups hold, the machine is read at least."""
    (tree / "proc/self/mountinfo").write_bytes(b"1 2 0:1 / /sys/fs/cgroup rw - cgroup2 x rw\n" + mounts)
    (tree / "proc/self/cgroup").write_bytes(b"0::" + groups)
    assert Sensor(tree).read().total_bytes == MEM_TOTAL


def test_this_machine_is_read_plausibly() -> None:
    """On the real machine the numbers agree with what psutil says."""
    seen, memory = Sensor().read(), psutil.virtual_memory()
    assert seen.total_bytes == memory.total
    assert seen.host_available_bytes is not None
    assert abs(seen.host_available_bytes - memory.available) < memory.total // 10
    assert 0 < seen.used_bytes <= seen.bound_bytes <= memory.total
    assert 0 < seen.cpus <= (psutil.cpu_count() or 1)
    assert seen.used_bytes <= seen.ceiling_bytes <= memory.total
