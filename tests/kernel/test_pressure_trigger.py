# SPDX-License-Identifier: MIT
"""The kernel's word that a cgroup waits for memory: real triggers on real memory.pressure files."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memguard.sense.pressure_trigger import PressureTrigger

# A hybrid host has the v2 hierarchy beside those of v1.
TOPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
MEMORY_V1 = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of the v2 hierarchy, made for the test."""
    top = next((top for top in TOPS if (top / "cgroup.controllers").exists()), None)
    if top is None:
        pytest.skip("no v2 hierarchy is mounted here")
    made = top / f"memguard-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made in {top}: {error.strerror}")
    try:
        if not (made / "memory.pressure").exists():
            pytest.skip("this kernel has no pressure of cgroups (CONFIG_PSI, psi=1)")
        yield made
    finally:
        _remove(made)


def _remove(made: Path) -> None:
    deadline = time.monotonic() + 20
    while made.exists() and time.monotonic() < deadline:
        for pid in (made / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        with contextlib.suppress(OSError):
            made.rmdir()
        time.sleep(0.02)


@pytest.mark.memcg
def test_the_trigger_tells_of_pressure(group: Path, tmp_path: Path) -> None:
    """Processes that read a file larger than their memory wait for memory, and poll() says so."""
    if not MEMORY_V1.is_dir():
        pytest.skip("needs a v1 memory limit beside the v2 hierarchy; on v2 alone test_kernel_v2 does it")
    limited = MEMORY_V1 / group.name
    limited.mkdir()
    trigger = PressureTrigger(str(group / "memory.pressure"))
    large = tmp_path / "large"
    assert trigger.file is not None
    enter = f"echo $$ > {group}/cgroup.procs; echo $$ > {limited}/cgroup.procs"
    # Written inside, since a page of a file is charged to whoever touches it first.
    write = f"head -c 268435456 /dev/zero > {large}"
    read = f"while cat {large} > /dev/null; do :; done"
    try:
        (limited / "memory.limit_in_bytes").write_text(str(24 << 20))
        process = subprocess.Popen(
            ["sh", "-c", f"{enter}; {write}; {read} & {read} & {read} & wait"], start_new_session=True
        )
        poller = select.poll()
        poller.register(trigger.file, select.POLLPRI)
        found = poller.poll(120_000)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert [trigger.took_place(events) for _, events in found] == [True]
    finally:
        trigger.close()
        _remove(group)
        _remove(limited)
        large.unlink(missing_ok=True)


@pytest.mark.memcg
def test_a_trigger_whose_cgroup_is_gone_is_closed(group: Path) -> None:
    """That is no pressure; the file is given back, so that nobody polls it again."""
    trigger = PressureTrigger(str(group / "memory.pressure"))
    file = trigger.file
    assert file is not None
    poller = select.poll()
    poller.register(file, select.POLLPRI)
    group.rmdir()
    events = dict(poller.poll(10_000))[file]
    assert not trigger.took_place(events)
    assert trigger.file is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


@pytest.mark.parametrize("path", [None, "/nowhere/memory.pressure", "/dev/null", "/proc/self/stat"])
def test_where_there_is_no_trigger_there_is_none(path: str | None) -> None:
    """No file, one that is not there, and files of another kind: no fault, and nothing to poll."""
    trigger = PressureTrigger(path)
    if path == "/dev/null":
        trigger.close()  # takes whatever is written; who polls it hears nothing
    assert trigger.file is None
    trigger.close()
