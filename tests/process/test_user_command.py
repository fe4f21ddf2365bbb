# SPDX-License-Identifier: MIT
"""The user's command before a kill: what it is told, how often and how long it runs, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memguard.act.user_command import PressureCommand


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def wait_until(holds: Callable[[], bool]) -> None:
    """Return once something holds; fail after a time in which it must."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(command: PressureCommand) -> None:
    """Poll until the command has ended."""

    def has_ended() -> bool:
        command.poll()
        return command._keeper is None

    wait_until(has_ended)


def test_it_is_told_what_is_about_to_happen(tmp_path: Path) -> None:
    """The five facts are in its environment; where there is no limit, or nothing is lacking, that one is empty."""
    said = tmp_path / "said"
    words = "$MEMGUARD_LIMIT_BYTES|$MEMGUARD_USED_BYTES|$MEMGUARD_RECIPE|$MEMGUARD_TASK|$MEMGUARD_WANTED_BYTES"
    for limit_bytes, wanted_bytes, line in (
        (4096, None, "4096|4000|foo|do_compile|\n"),
        (None, 512, "|4000|foo|do_compile|512\n"),
    ):
        command = PressureCommand(f'echo "{words}" > {said}')
        assert command.start(limit_bytes, 4000, "foo", "do_compile", wanted_bytes)
        finish(command)
        assert command.failure is None
        assert said.read_text() == line


def test_it_runs_at_most_once_in_its_interval(tmp_path: Path) -> None:
    """However often it is called for, it is started again only when a minute has passed since."""
    clock = Clock()
    command = PressureCommand(f"echo >> {tmp_path}/runs", clock)
    started = []
    for second in range(130):
        clock.now_s = 1000.0 + second
        started.append(command.start(None, 0, "foo", "do_compile"))
        finish(command)
    assert [second for second, was in enumerate(started) if was] == [0, 60, 120]
    assert (tmp_path / "runs").read_text() == "\n\n\n"


def test_what_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """After its time the whole group is killed, whatever signals it ignores; that is told, and nothing else happens."""
    clock = Clock()
    command = PressureCommand(f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; wait", clock)
    assert command.start(None, 0, "foo", "do_compile")
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"))
    command.poll()
    assert command.failure is None
    clock.now_s += 120
    command.poll()
    assert command.failure == "MEMGUARD_PRESSURE_CMD did not end within 120 s"
    wait_until(lambda: not is_running(int((tmp_path / "child").read_text())))


def test_what_it_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    """Neither its own end nor the sentinel's leaves a process of it."""
    for ends_itself in (True, False):
        child = tmp_path / f"child-{ends_itself}"
        command = PressureCommand(f"sleep 1000 & echo $! > {child}" + ("" if ends_itself else "; wait"))
        assert command.start(None, 0, "foo", "do_compile")
        wait_until(lambda path=child: path.exists() and path.read_text().endswith("\n"))
        if ends_itself:
            finish(command)
        else:
            command.end()
        wait_until(lambda path=child: not is_running(int(path.read_text())))


def test_what_leaves_its_session_ends_with_it(tmp_path: Path) -> None:
    """A daemon of it that forks twice, in a session of its own and without its environment, ends with it, too."""
    daemon = f"setsid sh -c '(env -i /bin/sh -c \"echo \\$\\$ > {tmp_path}/child; exec sleep 1000\" &)' &"
    for rest in ("sleep 0.2", "wait; sleep 1000"):
        (tmp_path / "child").unlink(missing_ok=True)
        clock = Clock()
        command = PressureCommand(f"{daemon} {rest}", clock)
        assert command.start(None, 0, "foo", "do_compile")
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"))
        if rest != "sleep 0.2":
            clock.now_s += 120
        finish(command)
        assert not is_running(int((tmp_path / "child").read_text()))


def test_its_environment_is_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what a command of cron does and the four facts, nothing that this process has beside."""
    monkeypatch.setenv("SECRET_OF_THE_BUILD", "x")
    monkeypatch.setenv("PATH", f"/build/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", "/home/of/somebody")
    command = PressureCommand(f"env > {tmp_path}/env")
    assert command.start(4096, 4000, "foo", "do_compile")
    finish(command)
    found = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    facts = {name: value for name, value in found.items() if name.startswith("MEMGUARD_")}
    assert facts == {
        "MEMGUARD_LIMIT_BYTES": "4096",
        "MEMGUARD_USED_BYTES": "4000",
        "MEMGUARD_RECIPE": "foo",
        "MEMGUARD_TASK": "do_compile",
        "MEMGUARD_WANTED_BYTES": "",
    }
    assert found["HOME"] == "/home/of/somebody"
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    usual = {"HOME", "USER", "LOGNAME", "PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    assert found.keys() <= {*usual, *facts}


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Where the sentinel is killed, the command is over, too."""
    code = (
        "import sys, time; from memguard.act.user_command import PressureCommand; "
        "PressureCommand(sys.argv[1]).start(None, 0, 'foo', 'do_compile'); time.sleep(1000)"
    )
    words = f"echo $$ > {tmp_path}/child; exec sleep 1000"
    path = os.pathsep.join(sys.path)
    starter = subprocess.Popen([sys.executable, "-c", code, words], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"))
    finally:
        starter.kill()
        starter.wait()
    wait_until(lambda: not is_running(int((tmp_path / "child").read_text())))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failure_changes_nothing() -> None:
    """A command that is none, fails, or cannot be started is told of in words; without one nothing is started."""
    command = PressureCommand("no-such-program-here; exit 3")
    assert command.start(None, 0, "foo", "do_compile")
    finish(command)
    assert command.failure == "MEMGUARD_PRESSURE_CMD ended with exit status 3"
    broken = PressureCommand("echo")
    assert not broken.start(None, 0, "a\0b", "do_compile")
    assert broken.failure is not None
    assert "cannot be started" in broken.failure
    none = PressureCommand("")
    assert not none.start(None, 0, "foo", "do_compile")
    none.end()
    assert none.failure is None
