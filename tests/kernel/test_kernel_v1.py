# SPDX-License-Identifier: MIT
"""Reading real cgroups of this machine's kernel: limits that change, page cache, tmpfs, nesting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memguard.units import GIB, MIB
from testbed.container import Container, NoContainer, container

REPOSITORY = Path(__file__).resolve().parents[2]

# What runs inside says what it sees after each step, a line of JSON each.
PREAMBLE = """
import dataclasses, json, os, sys, tempfile, time
from pathlib import Path
from memguard.sense.container import Sensor
sensor = Sensor()
def say(until=lambda reading: True, **more):
    # The kernel brings memory.stat up to date when it sees fit, every two seconds at the latest.
    deadline = time.monotonic() + 6
    while not until(sensor.read()) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(json.dumps({**dataclasses.asdict(sensor.read()), **more}), flush=True)
"""


@pytest.fixture
def box() -> Iterator[Container]:
    """A real memory cgroup of 512 MiB."""
    try:
        with container(512 * MIB, "memguard-test") as made:
            yield made
    except NoContainer as missing:
        pytest.skip(str(missing))


def see(box: Container, code: str, *arguments: str) -> list[dict[str, object]]:
    """Run a piece of Python inside and return what it says."""
    path = str(REPOSITORY / "meta-memguard" / "lib")
    done = subprocess.run(
        [*box.prefix, sys.executable, "-c", PREAMBLE + code, *arguments],
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.memcg
def test_the_limit_is_followed_up_and_down(box: Container) -> None:
    """A container that is resized in place has its new limit in the next reading."""
    code = """
name = "memory.max" if (Path(sys.argv[1]) / "memory.max").exists() else "memory.limit_in_bytes"
for size in (512, 256, 384):
    (Path(sys.argv[1]) / name).write_text(str(size << 20))
    say()
"""
    seen = see(box, code, str(box.directory))
    assert [reading["limit_bytes"] for reading in seen] == [512 * MIB, 256 * MIB, 384 * MIB]
    assert all(str(reading["limit_source"]).startswith(f"{box.directory}/memory.") for reading in seen)


@pytest.mark.memcg
def test_the_tightest_of_nested_limits_counts(box: Container) -> None:
    """A process three cgroups deep has the smallest limit above it, and the room that neighbours leave."""
    code = """
top = Path(sys.argv[1])
v2 = (top / "memory.max").exists()
name = "memory.max" if v2 else "memory.limit_in_bytes"
groups = [top / "a", top / "a" / "b", top / "c"]
try:
    for group in groups:
        if v2:
            (group.parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    (groups[0] / name).write_text(str(384 << 20))
    (groups[1] / name).write_text(str(256 << 20))
    (groups[1] / "cgroup.procs").write_text(str(os.getpid()))
    sensor = Sensor()
    say()
    (groups[1] / name).write_text(str(448 << 20))
    say()
    neighbour = os.fork()
    if not neighbour:
        (groups[2] / "cgroup.procs").write_text(str(os.getpid()))
        held = b"x" * (300 << 20)
        say(lambda reading: reading.room_bytes < 212 << 20)
        os._exit(0)
    os.waitpid(neighbour, 0)
finally:
    (top / "cgroup.procs").write_text(str(os.getpid()))
    for group in (groups[1], groups[0], groups[2]):
        group.rmdir()
"""
    alone, wider, beside = see(box, code, str(box.directory))
    assert (alone["limit_bytes"], wider["limit_bytes"]) == (256 * MIB, 384 * MIB)
    assert str(alone["limit_source"]).startswith(f"{box.directory}/a/b/")
    assert str(wider["limit_source"]).startswith(f"{box.directory}/a/memory.")
    # 384 MiB are free below the own limits, but the neighbour leaves no more than 212 MiB of the 512 above both.
    room = beside["room_bytes"]
    assert isinstance(room, int)
    assert 128 * MIB < room < 212 * MIB


@pytest.mark.memcg
def test_a_process_that_is_moved_has_the_limit_of_where_it_is(box: Container) -> None:
    """Somebody moves the build to another cgroup and removes the one it was in: the limit there counts at once."""
    code = """
top = Path(sys.argv[1])
v2 = (top / "memory.max").exists()
groups = [top / "a", top / "b"]
try:
    if v2:
        (top / "cgroup.subtree_control").write_text("+memory")
    for group, size in zip(groups, (256, 384)):
        group.mkdir()
        (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(size << 20))
    (groups[0] / "cgroup.procs").write_text(str(os.getpid()))
    sensor = Sensor()
    say()
    (groups[1] / "cgroup.procs").write_text(str(os.getpid()))
    groups.pop(0).rmdir()
    print(json.dumps(dataclasses.asdict(sensor.read())))
finally:
    (top / "cgroup.procs").write_text(str(os.getpid()))
    for group in groups:
        group.rmdir()
"""
    before, after = see(box, code, str(box.directory))
    assert (before["limit_bytes"], after["limit_bytes"]) == (256 * MIB, 384 * MIB)
    assert str(after["limit_source"]).startswith(f"{box.directory}/b/")


@pytest.mark.memcg
def test_page_cache_does_not_move_the_gate(box: Container, tmp_path: Path) -> None:
    """Files read and written up to the limit are charged, and not used; the kubelet's working set lies between."""
    code = """
say()
path = Path(sys.argv[1]) / "large"
with open(path, "wb") as file:
    for _ in range(600):
        file.write(os.urandom(1 << 20))
    file.flush()
    os.fsync(file.fileno())
with open(path, "rb") as file:
    while file.read(1 << 20):
        pass
say()
path.unlink()
"""
    before, after = see(box, code, str(tmp_path))
    for reading in (before, after):
        assert isinstance(reading["used_bytes"], int)
        assert isinstance(reading["charged_bytes"], int)
        assert isinstance(reading["working_set_bytes"], int)
        assert reading["working_set_bytes"] <= reading["charged_bytes"]
    assert after["charged_bytes"] > 400 * MIB  # type: ignore[operator]
    assert after["used_bytes"] - before["used_bytes"] < 16 * MIB  # type: ignore[operator]


@pytest.mark.memcg
def test_tmpfs_moves_the_gate(box: Container) -> None:
    """What lies in /dev/shm is used, and told apart, until it is removed."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    code = """
say()
with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
    for _ in range(200):
        file.write(b"x" * (1 << 20))
    file.flush()
    say(lambda reading: reading.shmem_bytes >= 200 << 20)
say(lambda reading: reading.shmem_bytes < 16 << 20)
"""
    before, full, after = see(box, code)
    assert 200 * MIB <= full["shmem_bytes"] - before["shmem_bytes"] < 216 * MIB  # type: ignore[operator]
    assert 200 * MIB <= full["used_bytes"] - before["used_bytes"] < 216 * MIB  # type: ignore[operator]
    assert after["used_bytes"] - before["used_bytes"] < 16 * MIB  # type: ignore[operator]


@pytest.mark.memcg
def test_a_process_that_unshared_its_namespace_is_found(box: Container) -> None:
    """After unshare -C the path reads "/" and the mount shows the tree above it: the limit is found all the same."""
    unshare = ["unshare", "-C", sys.executable, "-c", PREAMBLE + "say(group=sensor.memory.group)"]
    done = subprocess.run(
        [*box.prefix, *unshare],
        env={"PYTHONPATH": str(REPOSITORY / "meta-memguard" / "lib"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in done.stderr and done.returncode:
        pytest.skip(f"no cgroup namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["group"] == "/"
    assert seen["limit_bytes"] == 512 * MIB < GIB


@pytest.mark.memcg
def test_a_search_among_many_cgroups_keeps_no_descriptor(box: Container) -> None:
    """A process that looks itself up among more cgroups than it may open files finds itself and its limit."""
    code = """
import resource, subprocess
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
groups = [Path(sys.argv[1]) / f"{number:03}" for number in range(100)]
inside = 'say(descriptors=len(os.listdir("/proc/self/fd")))'
try:
    for group in groups:
        group.mkdir()
    (groups[-1] / "cgroup.procs").write_text(str(os.getpid()))
    subprocess.run(["unshare", "-C", sys.executable, "-c", sys.argv[2] + inside], check=True)
finally:
    (groups[0].parent / "cgroup.procs").write_text(str(os.getpid()))
    for group in groups:
        group.rmdir()
"""
    if subprocess.run(["unshare", "-C", "true"], check=False).returncode:
        pytest.skip("no cgroup namespace can be made here")
    (seen,) = see(box, code, str(box.directory), PREAMBLE)
    assert seen["limit_bytes"] == 512 * MIB
    assert seen["descriptors"] < 32  # type: ignore[operator]
