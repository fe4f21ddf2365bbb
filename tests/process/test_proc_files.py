# SPDX-License-Identifier: MIT
"""The files of /proc/PID: real processes, and lines of every shape."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.sense.proc_files import (
    ProcessId,
    find_process,
    has_ended,
    parse_mark,
    parse_stat,
    read_file,
    read_size,
    read_stat,
)

NOBODY = 2**22 + 1  # beyond the highest pid there can be


def test_a_process_is_what_psutil_says() -> None:
    """Name, parent, session, state and CPU time of this process are those that psutil finds."""
    seen, known = read_stat(os.getpid()), psutil.Process()
    assert seen is not None
    assert seen.comm == known.name()[:15].encode()
    assert (seen.parent, seen.session, seen.state) == (os.getppid(), os.getsid(0), b"R")
    ticks = os.sysconf("SC_CLK_TCK")
    assert seen.cpu_ticks / ticks == pytest.approx(sum(known.cpu_times()[:4]), abs=0.1)
    assert seen.start_ticks / ticks + psutil.boot_time() == pytest.approx(known.create_time(), abs=1.5)


def test_exec_is_told_from_fork() -> None:
    """The addresses of a program's parts stay in a fork and change by exec."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        own, forked, called = (read_stat(pid) for pid in (os.getpid(), child, other.pid))
        assert own
        assert forked
        assert called
        assert own.image == forked.image != ()
        assert called.image != own.image
        other.communicate(b"\n")
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def test_who_is_not_there_has_no_stat() -> None:
    """A pid that nobody has is no process, whatever its directory."""
    assert read_stat(NOBODY) is None
    assert find_process(NOBODY) is None
    assert read_stat(1, Path("/nowhere")) is None


LINE = b"7 (sh) S 1 7 5 0 -1 4194560 300 11 12 13 4 3 2 1 20 0 1 0 900 9 9 9 40 41 42 43 44 " + b"0 " * 16 + b"47 0 0\n"


def test_fields_are_where_the_manual_puts_them() -> None:
    """Fields are counted from behind the name, and the CPU time includes children that were waited for."""
    assert parse_stat(LINE) == (b"sh", b"S", 1, 5, 300, 10, 900, (b"40", b"42", b"47"))


@pytest.mark.parametrize("name", [b"a b) S 1 1 7 (", b")", b"", b"\xff\xfe", b"two\nlines", b"cc1plus) R 9 9 9"])
def test_a_name_may_hold_anything(name: bytes) -> None:
    """Parentheses, blanks and newlines in a name move no field."""
    seen = parse_stat(LINE.replace(b"(sh)", b"(" + name + b")"))
    assert seen is not None
    assert seen == parse_stat(LINE)._replace(comm=name)  # type: ignore[union-attr]


@given(st.integers(0, len(LINE) - 1), st.binary(max_size=40))
def test_a_line_that_is_cut_or_spoiled_raises_nothing(end: int, tail: bytes) -> None:
    """Whatever a stat file holds, it is a process or none."""
    seen = parse_stat(LINE[:end] + tail)
    assert seen is None or isinstance(seen.start_ticks, int)
    assert parse_stat(LINE[: min(end, 100)]) is None


def test_no_number_is_larger_than_the_kernels() -> None:
    """One of thousands of digits would be too large for the sums that are made of it."""
    digits = b"9" * 400
    for number in (b"5", b"900"):
        assert parse_stat(LINE.replace(b" " + number + b" ", b" " + digits + b" ", 1)) is None
    assert read_size(b"\nVmSwap: " + digits + b" kB\n", b"VmSwap:") is None
    assert parse_mark(f"1-{digits.decode()}") is None
    assert parse_mark("12-34") == (12, 34)


def test_an_end_is_seen() -> None:
    """A process has ended once it is a zombie or another has its pid, which only a thorough look knows."""
    child = subprocess.Popen(["sleep", "60"])
    process = find_process(child.pid)
    assert process is not None
    another = ProcessId(process.pid, process.start_ticks - 1)
    assert [has_ended(process, is_thorough) for is_thorough in (True, False)] == [False, False]
    assert [has_ended(another, is_thorough) for is_thorough in (True, False)] == [True, False]
    child.kill()
    deadline = time.monotonic() + 10
    while not has_ended(process, is_thorough=True):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not has_ended(process, is_thorough=False)
    child.wait()
    assert [has_ended(process, is_thorough) for is_thorough in (True, False)] == [True, True]


def test_a_process_of_somebody_else_has_not_ended() -> None:
    """That no signal may be sent to a process does not mean that it is gone."""
    first = find_process(1)
    assert first is not None
    assert not has_ended(first, is_thorough=False)


def test_files_are_read_up_to_a_size(tmp_path: Path) -> None:
    """A file that is missing is None, one that cannot be read is empty, and of a long one the beginning is read."""
    (tmp_path / "long").write_bytes(b"x" * 20000)
    assert read_file(str(tmp_path / "none")) is None
    assert read_file(str(tmp_path)) == b""
    assert read_file(str(tmp_path / "long")) == b"x" * 4096
    assert read_file(str(tmp_path / "long"), 1 << 20) == b"x" * 20000


@pytest.mark.parametrize(
    ("text", "size"),
    [(b"A: 1 kB\nPss:  12 kB\n", 12288), (b"Pss: 1 kB\n", None), (b"\nPss:\n", None), (b"\nPss: x kB\n", None)],
)
def test_sizes_are_read_by_line(text: bytes, size: int | None) -> None:
    """A size stands at the beginning of a line of its own, in KiB; the first line of such a file holds none."""
    assert read_size(text, b"Pss:") == size
