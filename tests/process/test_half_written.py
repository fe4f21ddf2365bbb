# SPDX-License-Identifier: MIT
"""What a killed run leaves: processes that still write, and files half written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from memguard.act import half_written

WRITER = """
trap '{trap}' TERM
exec 3> {directory}/half.o 4>> {directory}/log 5< /dev/null
echo x >&3
echo ready
while :; do sleep 0.05; done
"""


def writer(directory: Path, trap: str) -> subprocess.Popen[bytes]:
    """A session whose leader has ended, and a process in it that writes a file and appends to another."""
    script = WRITER.format(trap=trap, directory=directory)
    process = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_outputs_are_told_from_logs(tmp_path: Path) -> None:
    """What a process writes to is an output; what it appends to or reads is none; a process that is gone has none."""
    process = writer(tmp_path, "exit")
    try:
        assert half_written.written_by(process.pid) == (str(tmp_path / "half.o"),)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert half_written.written_by(process.pid) == ()


@pytest.mark.parametrize("trap", ["exit", ""])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_session_is_ended_and_its_leader_is_not(tmp_path: Path, trap: str, is_stopped: bool) -> None:
    """Every process of the session ends, one that ignores a request or was stopped, too; what it wrote is known."""
    reading, writing = os.pipe()
    leader = os.fork()
    if leader == 0:
        # As a task's child: it leads the session, and ends what a run has left.
        status = 1
        try:
            os.setsid()
            before = subprocess.Popen(["sleep", "60"])
            time.sleep(0.03)
            since_ticks = half_written.now_ticks()
            child = subprocess.Popen(
                ["sh", "-c", WRITER.format(trap=trap, directory=tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            child.stdout.readline()
            if is_stopped:
                os.kill(child.pid, signal.SIGSTOP)
            outputs = half_written.end_session(os.getpid(), since_ticks)
            child.wait()
            assert before.poll() is None
            before.kill()
            before.wait()
            os.write(writing, "\n".join(outputs).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    _, status = os.waitpid(leader, 0)
    assert status == 0
    assert os.read(reading, 4096).decode() == str(tmp_path / "half.o")
    os.close(reading)


MAKE = """\
make -C lib
make[1]: Entering directory '/w/build/lib'
gcc -shared -o libx.so a.o
collect2: fatal error: ld terminated with signal 9 [Killed]
make[1]: *** [Makefile:12: libx.so] Error 1
make[1]: Leaving directory '/w/build/lib'
make[1]: Entering directory '/w/build/bin'
make: *** [Makefile:3: lib] Error 2
make: *** [old.o] Error 1
gmake[2]: *** [/w/abs/Makefile:7: /w/abs/p.o] Killed
make: *** Waiting for unfinished jobs....
make[1]: [Makefile:9: ignored.o] Error 1 (ignored)
"""


def test_make_names_what_it_failed_to_make() -> None:
    """Targets lie in any directory entered at their depth, else in the one given; ignored failures are none."""
    assert half_written.failed_targets(MAKE.splitlines(), "/w/build") == [
        "/w/build/lib/libx.so",
        "/w/build/lib",
        "/w/build/old.o",
        "/w/abs/p.o",
    ]


def test_ninja_names_what_it_failed_to_make() -> None:
    """Both forms of its line, and the directory it was called with."""
    lines = ["ninja: Entering directory `/w/out'", "[3/9] LINK x", "FAILED: x.so x.so.sym", "FAILED: [code=137] y.o"]
    assert half_written.failed_targets(lines, "/w/build") == ["/w/out/x.so", "/w/out/x.so.sym", "/w/out/y.o"]
    assert half_written.failed_targets(lines[2:], "/w/build")[0] == "/w/build/x.so"


def test_only_fresh_regular_files_below_the_roots_are_removed(tmp_path: Path) -> None:
    """Nothing outside, old, linked, spared or no regular file is touched."""
    build, temp, outside = tmp_path / "work" / "build", tmp_path / "work" / "temp", tmp_path / "outside"
    for directory in (build, temp, outside, build / "directory"):
        directory.mkdir(parents=True)
    for path in (build / "half.o", build / "old.o", temp / "log.do_compile", outside / "precious", build / "target"):
        path.write_text("x")
    os.utime(build / "old.o", (1, 1))
    (build / "link.o").symlink_to(build / "target")
    (build / "way").symlink_to(outside)
    os.mkfifo(build / "fifo")
    asked = [build / "half.o", build / "old.o", temp / "log.do_compile", outside / "precious", build / "link.o"]
    asked += [
        build / "directory",
        build / "fifo",
        build / "way" / "precious",
        build / ".." / ".." / "outside" / "precious",
    ]
    asked += [build / "missing.o", tmp_path / "work"]
    removed = half_written.remove_partial(
        [*map(str, asked), "half.o", "", "a\0b"], [str(tmp_path / "work"), ""], [str(temp)], time.time() - 60
    )
    assert removed == [str(build / "half.o")]
    assert sorted(path.name for path in build.iterdir()) == ["directory", "fifo", "link.o", "old.o", "target", "way"]
    assert (outside / "precious").exists()
    assert (temp / "log.do_compile").exists()


def test_a_clock_that_is_set_back_hides_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before and after it was set back is removed; one that was set on makes nothing older."""
    now_s, now_epoch_s = time.monotonic(), time.time()
    before, after, old = (tmp_path / name for name in ("before.o", "after.o", "old.o"))
    for path, written_s in ((before, now_epoch_s), (after, now_epoch_s - 3599), (old, now_epoch_s - 7200)):
        path.write_text("x")
        os.utime(path, (written_s, written_s))
    asked = [str(before), str(after), str(old)]
    monkeypatch.setattr(time, "time", lambda: now_epoch_s + 3600)
    assert half_written.oldest_mtime(now_s, now_epoch_s) == now_epoch_s - 1
    monkeypatch.setattr(time, "time", lambda: now_epoch_s - 3600 + (time.monotonic() - now_s))
    oldest_s = half_written.oldest_mtime(now_s, now_epoch_s)
    assert half_written.remove_partial(asked, [str(tmp_path)], [], oldest_s) == asked[:2]


def test_a_work_directory_behind_a_link_is_the_same(tmp_path: Path) -> None:
    """Where TMPDIR is a link, an output that the kernel names by its real path is found, and the other way round."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root, path in (("link", "real"), ("real", "link")):
        (tmp_path / "real" / "half.o").write_text("x")
        assert half_written.remove_partial([str(tmp_path / path / "half.o")], [str(tmp_path / root)])
