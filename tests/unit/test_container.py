# SPDX-License-Identifier: MIT
"""Containers of every make, as trees of files and as this machine."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Policy
from memguard.sense.container import Sensor
from testbed.cgroup_trees import CASES, EXPECTED, FIXTURES

MEM_TOTAL = 32768000 * 1024
MEM_AVAILABLE = 24576000 * 1024
LIMIT = 199999488
V2_USED = 50_000_000 + 4_000_000 + (30_000_000 - 10_000_000) + 1000
# A quarter of the machine's kernel memory cannot be reclaimed, so a quarter of the group's 20 MB is taken.
V1_USED = 50_000_000 + 4_000_000 + 5_000_000


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a case, to be changed."""
    return Path(shutil.copytree(CASES / request.param, tmp_path / "root"))


def test_there_is_a_tree_for_every_kind_of_container() -> None:
    """Each tree has its numbers beside it, with the place it comes from and who says that it looks like that."""
    assert {path.name for path in FIXTURES.iterdir()} == {"_base", *EXPECTED}
    assert len(EXPECTED) >= 30
    for want in EXPECTED.values():
        assert want["place"]
        assert want["shape"]


@pytest.mark.parametrize("case", EXPECTED)
def test_reads_the_container(case: str) -> None:
    """Limit, its file, use, working set and CPUs are what stands beside the tree."""
    seen, want = Sensor(CASES / case).read(), EXPECTED[case]
    assert seen.limit_bytes == want["limit_bytes"]
    assert seen.limit_source.replace(str(CASES / case), "") == want["limit_source"]
    assert seen.used_bytes == want["used_bytes"]
    assert seen.working_set_bytes == want["working_set_bytes"]
    assert seen.host_available_bytes == want["host_available_bytes"]
    assert seen.cpus == want["cpus"]
    assert seen.swap_left_bytes == want.get("swap_left_bytes", 0)
    reserve = Policy().reserve_of(seen.bound_bytes)
    assert seen.ceiling_bytes - seen.used_bytes - reserve == max(-reserve, want["headroom_bytes"])


@pytest.mark.parametrize(
    "case", ["cgroup-v1-bare", "cgroup-v1-linux-4.4", "docker-v2-private-namespace", "systemd-hybrid-host"]
)
def test_shmem_is_told_apart(case: str) -> None:
    """What lies in tmpfs is known, on kernels that do not list it, too."""
    assert Sensor(CASES / case).read().shmem_bytes == 4_000_000


def test_page_cache_is_not_used() -> None:
    """A group that page cache fills to its limit is nearly empty."""
    seen = Sensor(CASES / "cgroup-v2-page-cache").read()
    assert seen.used_bytes < 100_000_000
    assert seen.ceiling_bytes == 8_000_000_000


def test_neighbours_take_room() -> None:
    """Where neighbours use up the ancestor's limit, its room is the room."""
    seen = Sensor(CASES / "cgroup-v2-neighbours").read()
    assert seen.ceiling_bytes == seen.used_bytes + 475_999_000


@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
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


@pytest.mark.parametrize("tree", ["broken-stat"], indirect=True)
def test_a_limit_without_any_use_still_limits(tree: Path) -> None:
    """A group that tells its limit and nothing else is not taken for one without a limit."""
    (tree / "sys/fs/cgroup/g/memory.current").unlink()
    seen = Sensor(tree).read()
    assert (seen.limit_bytes, seen.used_bytes, seen.ceiling_bytes) == (LIMIT, 0, LIMIT)


@pytest.mark.parametrize("tree", ["docker-in-docker-v1"], indirect=True)
def test_a_limit_above_counts_though_the_use_is_not_told(tree: Path) -> None:
    """A v1 memory.stat that lacks what is used still tells of the limit above the visible tree."""
    own = tree / "sys/fs/cgroup/memory"
    (own / "memory.stat").write_text("hierarchical_memory_limit 199999488\n")
    seen = Sensor(tree).read()
    assert (seen.limit_bytes, seen.used_bytes) == (LIMIT, 150_000_000)
    (own / "memory.usage_in_bytes").unlink()
    assert Sensor(tree).read().limit_bytes == LIMIT


@pytest.mark.parametrize("tree", ["cgroup-v2-bare", "cgroup-v1-bare"], indirect=True)
def test_half_a_cpu_is_half_a_cpu(tree: Path) -> None:
    """A quota below one CPU is told as it is."""
    for path, text in (("g/cpu.max", "50000 100000"), ("cpu,cpuacct/g/cpu.cfs_quota_us", "50000")):
        if (tree / "sys/fs/cgroup" / path).exists():
            (tree / "sys/fs/cgroup" / path).write_text(text)
    assert Sensor(tree).cpus().count == 0.5


def test_on_this_machine_the_affinity_counts() -> None:
    """No quota raises the number of CPUs above those this process may run on."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert Sensor().cpus().count <= 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_own_limit_below_the_containers_counts() -> None:
    """MEMGUARD_LIMIT may make the container smaller."""
    seen = Sensor(CASES / "cgroup-v2-bare", limit_bytes=100_000_000).read()
    assert (seen.limit_bytes, seen.limit_source) == (100_000_000, "MEMGUARD_LIMIT")
    assert seen.room_bytes == 100_000_000 - V2_USED


def test_own_limit_above_the_containers_is_void() -> None:
    """MEMGUARD_LIMIT cannot make the container larger."""
    assert Sensor(CASES / "cgroup-v2-bare", limit_bytes=1 << 40).read() == Sensor(CASES / "cgroup-v2-bare").read()


@pytest.mark.parametrize(
    ("case", "used"), [("bare-metal-v2-slice", V2_USED), ("chroot-without-cgroup", MEM_TOTAL - MEM_AVAILABLE)]
)
def test_own_limit_where_none_is_seen(case: str, used: int) -> None:
    """Without another limit MEMGUARD_LIMIT bounds the own group, or the machine where there is none."""
    seen = Sensor(CASES / case, limit_bytes=16 << 30).read()
    assert (seen.limit_bytes, seen.limit_source, seen.used_bytes) == (16 << 30, "MEMGUARD_LIMIT", used)
    assert seen.ceiling_bytes == 16 << 30


def test_own_limit_beyond_the_machine_is_the_machine() -> None:
    """Nobody has more memory than there is."""
    assert Sensor(CASES / "chroot-without-cgroup", limit_bytes=1 << 50).read().bound_bytes == MEM_TOTAL


@pytest.mark.parametrize(
    ("case", "kills"),
    [
        ("cgroup-v2-bare", 3),
        ("docker-v2-private-namespace", 1),
        ("cgroup-v1-bare", 2),
        ("cgroup-v2-memory-not-enabled", 0),
        ("chroot-without-cgroup", None),
        ("broken-binary-files", None),
    ],
)
def test_oom_kills_are_counted(case: str, kills: int | None) -> None:
    """Kills, not alarms, are counted, and None is said where nobody counts."""
    assert Sensor(CASES / case).oom_kills() == kills


@pytest.mark.parametrize(("limit_bytes", "ceiling_bytes"), [(None, MEM_TOTAL), (8 << 30, 8 << 30)])
@pytest.mark.parametrize("tree", ["chroot-without-cgroup"], indirect=True)
def test_a_machine_that_tells_only_its_size_is_no_larger(
    tree: Path, limit_bytes: int | None, ceiling_bytes: int
) -> None:
    """Where nothing says what is available, all of the machine or of the limit is room, and no more."""
    (tree / "proc/meminfo").write_text(f"MemTotal: {MEM_TOTAL // 1024} kB\n")
    seen = Sensor(tree, limit_bytes=limit_bytes).read()
    assert (seen.used_bytes, seen.ceiling_bytes) == (0, ceiling_bytes)


def test_without_meminfo_there_is_no_reading(tmp_path: Path) -> None:
    """A machine that does not tell its memory is an OSError that names the file."""
    with pytest.raises(OSError, match="meminfo"):
        Sensor(tmp_path).read()


WORDS = [b"anon ", b"shmem ", b"total_rss ", b"max", b"7", b" ", b"\n", b"-1", b"\xc2\xb2", b"\0", b"9" * 5000, b"kB"]
CONTENT = (
    st.binary(max_size=300)
    | st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)
    | st.integers(0).map(str).map(str.encode)
)


def smallest_limit(tree: Path) -> int | None:
    """The smallest number in a file that sets a limit, by plain reading of all of them."""
    limits = []
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        for path in tree.glob(f"sys/fs/cgroup/**/{name}"):
            text = path.read_bytes().strip()
            if re.fullmatch(rb"[0-9]{1,20}", text) and int(text) < 1 << 62:
                limits.append(int(text))
    return min(limits, default=None)


@pytest.mark.parametrize(
    "tree",
    ["cgroup-v2-nested-five-levels", "cgroup-v1-bare", "docker-in-docker-v2", "hybrid-memory-on-v2"],
    indirect=True,
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_whatever_the_files_hold_the_smallest_valid_limit_counts(tree: Path, data: st.DataObject) -> None:
    """Any bytes in any files of the cgroups and of meminfo never raise, and never lift the limit."""
    own = tree.parent / "changed"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(tree, own)
    changeable = [own / "proc" / "meminfo", *sorted(own.glob("sys/fs/cgroup/**/*.*"))]
    for path in data.draw(st.lists(st.sampled_from(changeable), min_size=1, max_size=6, unique=True)):
        path.write_bytes(data.draw(CONTENT))
    try:
        seen = Sensor(own).read()
    except OSError:
        assert smallest_limit(own) is None
        return
    smallest = smallest_limit(own)
    if smallest is not None:
        assert seen.limit_bytes is not None
        assert seen.limit_bytes <= smallest
    assert seen.ceiling_bytes >= seen.used_bytes >= 0
    assert seen.cpus > 0


@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(), st.binary(), st.binary())
def test_no_mount_table_makes_it_raise(tree: Path, mounts: bytes, groups: bytes, stat: bytes) -> None:
    """Whatever the tables of mounts and groups hold, the machine is read at least."""
    (tree / "proc/self/mountinfo").write_bytes(b"1 2 0:1 / /sys/fs/cgroup rw - cgroup2 x rw\n" + mounts)
    (tree / "proc/self/cgroup").write_bytes(b"0::" + groups)
    (tree / "proc/self/stat").write_bytes(stat)
    assert Sensor(tree).read().total_bytes == MEM_TOTAL


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("memory.max", "holds no number"),
        ("memory.stat", "is far longer than such a file should be"),
        ("memory.high", "cannot be read: Is a directory"),
        ("memory.current", "is empty"),
    ],
)
@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
def test_a_file_that_cannot_be_used_is_named(tree: Path, name: str, why: str) -> None:
    """Binary, huge, odd and empty files are told by path, and the rest is read."""
    path = tree / "sys/fs/cgroup/g" / name
    path.unlink()
    if name == "memory.max":
        path.write_bytes(b"\x7fELF\0\0")
    elif name == "memory.stat":
        with open(path, "wb") as file:
            file.truncate(1 << 32)
    elif name == "memory.high":
        path.mkdir()
    else:
        path.touch()
    sensor = Sensor(tree)
    sensor.read()
    assert sensor.faults[str(path)] == why


@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
def test_a_fifo_in_place_of_a_file_hangs_nobody(tree: Path) -> None:
    """A tree that somebody sent in may hold a FIFO that nobody writes to."""
    path = tree / "sys/fs/cgroup/g/memory.max"
    path.unlink()
    os.mkfifo(path)
    assert Sensor(tree).read().limit_bytes is None


def test_a_search_for_the_process_ends(tmp_path: Path) -> None:
    """A hierarchy of thousands of cgroups none of which lists the process is given up, and the mount's root counts."""
    tree = Path(shutil.copytree(CASES / "unshare-cgroup-namespace", tmp_path / "root"))
    for path in tree.glob("sys/fs/cgroup/**/cgroup.procs"):
        path.write_text("17\n")
    for number in range(300):
        (tree / "sys/fs/cgroup" / f"n{number}").mkdir()
    sensor = Sensor(tree)
    assert sensor.memory is not None
    assert not sensor.memory.is_found
    assert [level.directory for level in sensor.memory.levels] == [str(tree / "sys/fs/cgroup")]


@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
@pytest.mark.parametrize("group", ["/g" + "/a" * 100_000, "/g" + "/a" * 1000])
def test_a_group_of_any_depth_is_looked_for_no_deeper_than_there_is_one(tree: Path, group: str) -> None:
    """The kernel names no path of more than 4096 bytes; of others each part is asked for once."""
    (tree / "proc/self/cgroup").write_text(f"0::{group}\n")
    sensor = Sensor(tree)
    assert len(sensor.memory.levels if sensor.memory else ()) <= 2
    assert sensor.read().room_bytes > 0


@pytest.mark.parametrize("tree", ["cgroup-v2-bare"], indirect=True)
@pytest.mark.parametrize("below", ["memguard.rest", "memguard.tasks.17-4/23-9"])
def test_what_memguard_made_is_no_level_of_the_container(tree: Path, below: str) -> None:
    """The build's own cgroup is the one above those that memguard has made: all of them are charged to it."""
    before = Sensor(tree).read()
    (tree / "sys/fs/cgroup/g" / below).mkdir(parents=True)
    (tree / "proc/self/cgroup").write_text(f"0::/g/{below}\n")
    sensor = Sensor(tree)
    assert sensor.memory is not None
    assert sensor.memory.is_found
    assert sensor.memory.levels[0].directory == str(tree / "sys/fs/cgroup/g")
    assert sensor.read() == before


def test_this_machine_is_read_plausibly() -> None:
    """On the real machine the numbers agree with what psutil says."""
    seen, memory = Sensor().read(), psutil.virtual_memory()
    assert seen.total_bytes == memory.total
    assert seen.host_available_bytes is not None
    assert abs(seen.host_available_bytes - memory.available) < memory.total // 10
    assert 0 < seen.used_bytes <= seen.bound_bytes <= memory.total
    assert 0 < seen.cpus <= (psutil.cpu_count() or 1)
    assert seen.used_bytes <= seen.ceiling_bytes <= memory.total
