# SPDX-License-Identifier: MIT
"""`memguard top` as one sees it: in a real pseudo-terminal behind a terminal emulator, and as plain lines."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyte
import pytest
from rich.console import Console

from memguard.channels.state import HeldTask, Marks, State, StateFile
from memguard.record import events as kinds
from memguard.record.events import Event, Killed, as_object
from memguard.units import GIB
from memguard_cli.builds.state import has_writer
from memguard_cli.screens.container_bar import course
from memguard_cli.screens.event_words import sentence
from memguard_cli.screens.text import make_console
from memguard_cli.screens.top import Room, draw, explain, status
from testbed import build_logs
from testbed.command import COMMAND, environment, memguard, refused
from testbed.states import STATE

# What a terminal is told to show its cursor, and to go back to what it showed before.
SHOW_CURSOR, HIDE_CURSOR, LEAVE_SCREEN = b"\x1b[?25h", b"\x1b[?25l", b"\x1b[?1049l"
PATIENCE_S = 60


class Terminal:
    """A command in a pseudo-terminal, and what a terminal emulator makes of its output."""

    def __init__(self, words: list[str], columns: int, rows: int, **env: str) -> None:
        self.output = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        variables = {**environment(**env), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        del variables["COLUMNS"]
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True
        )
        os.close(slave)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Change the window's size, as its user would."""
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def colours(self) -> set[str]:
        """The colours on the screen."""
        return {cell.fg for row in self._screen.buffer.values() for cell in row.values()}

    @property
    def afterwards(self) -> str:
        """What was written once the terminal was as before: the cursor shown, the screen that was there back."""
        _, left, rest = self.output.rpartition(LEAVE_SCREEN)
        assert left, self.output[-300:]
        assert self.output.rpartition(SHOW_CURSOR)[2].find(HIDE_CURSOR) < 0
        return rest.decode()

    def press(self, key: bytes) -> None:
        """Send what the terminal sends for a key."""
        os.write(self._master, key)

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as a shell expects."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def read(self, seconds: float = 0.1) -> None:
        """Take what has been written, waiting so long for the first of it."""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                content = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            if not content:
                return
            self.output += content
            self._stream.feed(content)
            seconds = 0.0

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Read until something shows."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_there():
            assert time.monotonic() < deadline_s, "\n".join(self.lines)
            self.read()

    def wait_for_text(self, text: str) -> None:
        self.wait_for(lambda: any(text in line for line in self.lines))

    def end(self) -> int:
        """Wait for the command's end; its exit status."""
        while self.process.poll() is None:
            self.read()
        self.read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def terminal(*words: str, columns: int = 80, rows: int = 24, **env: str) -> Iterator[Terminal]:
    """A terminal with a command in it, which is gone afterwards."""
    found = Terminal(list(words), columns, rows, **env)
    try:
        yield found
    finally:
        found.close()


def put(build: Path, **fields: Any) -> None:
    """Publish a state, as a sentinel does: whole, and as of now."""
    state = build_logs.make_state(**{"now_s": time.time(), "pid": os.getpid(), **fields})
    StateFile(build / "memguard").publish(state)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Return a build directory in which a build runs."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "local.conf").write_text('INHERIT += "memguard"\n', encoding="utf-8")
    (tmp_path / "memguard").mkdir()
    put(tmp_path)
    return tmp_path


def end(build: Path) -> None:
    """End the build as a real one does: a last event, then the state is gone."""
    build_logs.make(5).write(build / "memguard")
    (build / "memguard" / "state.json").unlink()


# -- the screen --------------------------------------------------------------------------------------------------------


def test_a_build_is_seen_until_its_end(build: Path) -> None:
    """In 80 columns everything is told; the end is said, exit 0, and the screen is as it was, cursor and all."""
    with terminal("top", str(build), "--interval", "0.2") as screen:
        screen.wait_for_text("events, the newest first")
        shown = "\n".join(screen.lines)
        for text in (
            "mode enforce  8 CPUs",
            "13.4 GiB of 16.0 GiB used (83 %)",
            "below all marks",
            "w withdraw 14.08 GiB  s stop 14.72 GiB  k kill 15.36 GiB",
            "6 tasks running",
            "stopped 3/8",
            "retrying",
            "predicted",
            "3 tasks held",
            "needs 2.4 GiB, 1.1 GiB fit",
            "stop cc1plus (812 MiB) of webkitgtk do_compile",
        ):
            assert text in shown, shown
        put(build, used_bytes=15 * GIB)
        screen.wait_for_text("above the stop mark")
        end(build)
        assert screen.end() == 0
    last = screen.afterwards
    assert "has ended after" in last
    assert "memguard report" in last
    assert "tasks running" not in last


def test_the_screen_follows_its_size(build: Path) -> None:
    """A wider terminal shows how long tasks run; a smaller one still the bar and the heaviest task."""
    with terminal("top", str(build), "--interval", "60") as screen:
        screen.wait_for_text("events, the newest first")
        assert not any("now of predicted" in line for line in screen.lines)
        screen.resize(160, 30)
        screen.wait_for_text("now of predicted")
        screen.resize(60, 9)
        screen.wait_for(lambda: not any("events, the" in line for line in screen.lines))
        screen.wait_for_text("qtwebengine")
        assert screen.lines[1].startswith("13.4 GiB of 16.0 GiB")


def test_keys_are_obeyed(build: Path) -> None:
    """Arrows scroll the tasks, ? explains the words until Escape is pressed, q ends; the terminal echoes again."""
    put(build, tasks=20)
    with terminal("top", str(build), "--interval", "60") as screen:
        screen.wait_for_text("q ends, ? explains")
        screen.wait_for_text("qtwebengine do_compile")
        for _ in range(2):
            screen.press(b"\x1b[B")
        screen.wait_for_text("3-")
        assert not any("qtwebengine" in line for line in screen.lines)
        screen.press(b"\x1b[H")
        screen.wait_for_text("qtwebengine do_compile")
        screen.press(b"?")
        screen.wait_for_text("each lets make, ninja or cargo run one more job")
        screen.press(b"\x1b")
        screen.wait_for_text("qtwebengine do_compile")
        screen.press(b"q")
        assert screen.end() == 0
        assert screen.echoes
    assert screen.afterwards.strip() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_terminal_as_it_was(build: Path, number: signal.Signals) -> None:
    """Ctrl-C and a request to end are exit 130, with the cursor back and no traceback."""
    with terminal("top", str(build)) as screen:
        screen.wait_for_text("tasks running")
        screen.process.send_signal(number)
        assert screen.end() == 130
    assert "Traceback" not in screen.afterwards


def test_no_colour_is_respected(build: Path) -> None:
    """With NO_COLOR the same is told without colours; without it there are some."""
    with terminal("top", str(build)) as screen:
        screen.wait_for_text("tasks running")
        assert screen.colours > {"default"}
    with terminal("top", str(build), NO_COLOR="1") as screen:
        screen.wait_for_text("tasks running")
        assert screen.colours == {"default"}


def test_names_move_no_terminal(build: Path) -> None:
    """Escape sequences in names and reasons are shown as question marks, in the screen and in plain lines."""
    evil = HeldTask("a\x1b[2Jb", "do_\u202ex", "\x1b]0;title\x07", since=1.0)
    kill = Killed(1.0, "a\x1b[2Jb", "[red]", program="\x9b31m")
    state = build_logs.make_state(now_s=time.time(), pid=os.getpid())
    StateFile(build / "memguard").publish(replace(state, held=(evil,), events=(as_object(kill),)))
    done = memguard("top", "--once", cwd=build)
    assert done.returncode == 0, done.stderr
    assert "a?[2Jb do_?x" in done.stdout
    assert "a?[2Jb [red]" in done.stdout
    assert all(character.isprintable() or character == "\n" for character in done.stdout)


@pytest.mark.parametrize("columns", [30, 80, 103, 104, 160, 300])
def test_no_line_is_too_long(build: Path, columns: int) -> None:
    """Whatever the width, no line goes beyond it."""
    done = memguard("top", "--once", cwd=build, COLUMNS=str(columns))
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= columns


@pytest.mark.parametrize("rows", [5, 8, 12, 16, 24, 50])
@pytest.mark.parametrize(("tasks", "held"), [(0, 0), (1, 0), (6, 5), (20, 5)])
def test_the_screen_is_no_higher_than_it_may(rows: int, tasks: int, held: int) -> None:
    """Lists are cut where there is no room, and say so."""
    state = build_logs.make_state(tasks=tasks, held=held)
    lines = drawn(state, 80, rows)
    assert len(lines) <= max(rows, 8)
    if tasks >= 4:
        assert any(line.startswith("qtwebengine do_compile") for line in lines)
    if tasks == 20 and rows <= 24:
        assert any(" of 20 tasks running" in line for line in lines)
    if held:
        assert any(" 5 tasks held" in f" {line}" or ", 5 held" in line for line in lines)


def drawn(state: State, width: int, height: int | None, has_blocks: bool = True) -> list[str]:
    """The lines of the screen."""
    console = make_console()
    console.width = width
    room = Room(width, height, has_blocks)
    with console.capture() as capture:
        console.print(draw(state, "title", None, state.time, room))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_marks_stand_where_they_are() -> None:
    """The letter of each mark stands below its place in the bar, and none covers another."""
    limit = 16 * GIB
    marks = Marks(withdraw_bytes=limit // 2, stop_bytes=limit * 3 // 4, kill_bytes=limit - 1)
    lines = drawn(build_logs.make_state(marks=marks), 80, None)
    places = next(line for line in lines if line.split() == ["w", "s", "k"])
    assert [places.index(letter) for letter in "wsk"] == [40, 60, 79]
    crowded = drawn(build_logs.make_state(marks=Marks(limit, limit, limit)), 80, None)
    assert next(line for line in crowded if line.endswith("wsk")).index("w") == 77


def test_progress_and_what_was_done_are_told() -> None:
    """Tasks done of all, and the time that is left where earlier builds know it; in observe mode nothing was held."""
    lines = drawn(build_logs.make_state(done=34, all_tasks=1200, left_s=725.0), 80, 24)
    assert "34 of 1,200 tasks done, about 12:05 min left" in lines[5]
    assert lines[5].endswith("stopped 2, killed 1, retried 1")
    told = drawn(build_logs.make_state(mode="observe"), 100, 24)[5]
    assert told.strip() == "would have held 9, retried 1"


def test_the_course_of_memory_is_drawn() -> None:
    """The last five minutes, the newest at the right; what nobody has looked at is as before it, or empty."""
    now_s = build_logs.BEGAN_S
    seen = [(now_s - 301, 16 * GIB), (now_s - 150, 4 * GIB), (now_s - 10, 8 * GIB), (now_s, 16 * GIB)]
    # A column is ten seconds.
    text = course(seen, 16 * GIB, now_s, 11 + 30, has_blocks=False).plain
    assert text == "last 5 min " + " " * 14 + "-" * 14 + "+@"


def test_what_lies_in_swap_has_a_column() -> None:
    """A task of which jobs are parked says how much of it lies in swap, at any width."""
    state = build_logs.make_state()
    (tid, task), *_ = state.tasks.items()
    parked = replace(state, tasks={**state.tasks, tid: replace(task, swapped_bytes=700 << 20)})
    for width in (80, 160):
        assert not any(" swap " in line for line in drawn(state, width, None))
        lines = drawn(parked, width, None)
        assert any(" swap " in line for line in lines)
        assert any(line.startswith(task.name) and "700 MiB" in line for line in lines)


def test_the_words_are_explained_in_80_by_24() -> None:
    """The explanation fits the smallest usual terminal."""
    console = make_console()
    console.width = 80
    with console.capture() as capture:
        console.print(explain(80))
    lines = capture.get().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_machines_memory_is_named_as_such() -> None:
    """Where no limit is visible, the bar is that of the whole machine, and says so."""
    state = build_logs.make_state(limit_source="MemTotal")
    assert "of the machine's 16.0 GiB used" in drawn(state, 80, 24)[1]


def test_a_terminal_of_ascii_gets_ascii() -> None:
    """Where only ASCII can be shown the bar is made of it."""
    lines = drawn(build_logs.make_state(), 80, None, has_blocks=False)
    assert lines[2].startswith("####")


# -- plain lines -------------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines(build: Path) -> None:
    """A line at the start, one for each new event, and the end, which is exit 0; no escape sequence."""
    variables = environment(LC_ALL="C.UTF-8", PYTHONUNBUFFERED="1")
    with subprocess.Popen([*COMMAND, "top", str(build)], env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "13.4 GiB of 16.0 GiB used (83 %), 6 tasks running (1 stopped) (1 retrying), 3 held" in first
        kill = Killed(time.time(), "llvm", "do_compile", program="ld", bytes=GIB)
        put(build, events=(as_object(kill),))
        assert "kill ld (1.0 GiB) of llvm do_compile" in process.stdout.readline()
        end(build)
        last = process.stdout.read()
        assert process.wait() == 0
    assert "has ended" in last
    assert "at most" in last
    assert "\x1b" not in first + last


def test_once_is_one_picture(build: Path) -> None:
    """--once prints the whole screen and ends; the height of a terminal does not cut it."""
    put(build, tasks=20)
    done = memguard("top", "--once", cwd=build, LINES="10")
    assert done.returncode == 0
    assert done.stdout.count(" do_compile ") >= 20
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (kinds.BuildStarted(1.0, used_bytes=GIB, limit_bytes=4 * GIB), "the build starts, 1.0 GiB used of 4.0 GiB"),
        (kinds.BuildStarted(1.0), "the build starts, ? used of a machine without a limit"),
        (kinds.BuildEnded(1.0, peak_bytes=GIB), "the build ends, at most 1.0 GiB used"),
        (kinds.Held(1.0, "zlib", "do_compile", reason="why"), "hold zlib do_compile: why"),
        (kinds.Held(1.0, "zlib", "do_compile", observed=True), "would hold zlib do_compile"),
        (kinds.Released(1.0, "zlib", "do_compile", reason="why"), "release zlib do_compile after 0 s: why"),
        (kinds.Granted(1.0, "zlib", "do_compile", jobs=2), "start zlib do_compile with 2 of ? jobs"),
        (kinds.Extended(1.0, "zlib", "do_compile"), "let zlib do_compile have ? jobs"),
        (kinds.Started(1.0, "zlib", "do_compile"), "zlib do_compile runs"),
        (kinds.Ended(1.0, "zlib", "do_compile"), "zlib do_compile has ended: unknown"),
        (kinds.TaskMeasured(1.0, "zlib", "do_compile", outcome="ok"), "zlib do_compile has ended: ok"),
        (kinds.ReadingTaken(1.0, GIB), "1.0 GiB used"),
        (kinds.Withdrawn(1.0, "zlib", "do_compile"), "withdraw jobs from zlib do_compile"),
        (
            kinds.Withdrawn(1.0, "zlib", "do_compile", tokens=2, tokens_before=5),
            "withdraw jobs from zlib do_compile: 5 to 2 tokens",
        ),
        (kinds.Stopped(1.0, "zlib", "do_compile", reason="why"), "stop all of zlib do_compile: why"),
        (kinds.Woken(1.0, "zlib", "do_compile", pid=7), "wake a process of zlib do_compile"),
        (kinds.Killed(1.0, "zlib", "do_compile", program="ld", bytes=GIB), "kill ld (1.0 GiB) of zlib do_compile"),
        (kinds.Retried(1.0, "zlib", "do_compile", reason="why"), "zlib do_compile waits to run again: why"),
        (kinds.Retried(1.0, "zlib", "do_compile", jobs=4), "zlib do_compile waits to run again with 4 jobs"),
    ],
)
def test_every_event_has_its_sentence(event: Event, told: str) -> None:
    """All kinds of events of both logs are told in words, whatever they lack."""
    assert sentence(event) == told


NUMBERS = ("bytes", "jobs", "held_s", "limit_bytes", "time")


@pytest.mark.parametrize("odd", [None, [], "x", -1e300, float("nan"), True, -5, 1 << 59])
def test_odd_events_break_no_screen(odd: object) -> None:
    """What is in a state's events is drawn where it is an event, and passed over where it is none."""
    names = (*{kind.event for kind in get_args(Event)}, "moon", None)
    told = [{"event": kind, "recipe": "a", "time": 1.0, **dict.fromkeys(NUMBERS[:4], odd)} for kind in names]
    told += [{"event": kind, "recipe": odd, **dict.fromkeys(NUMBERS, odd)} for kind in names]
    assert drawn(build_logs.make_state(events=tuple(told)), 80, None)


def test_a_sentinel_is_known_by_its_command_line() -> None:
    """A state that is old has a writer where the process of its number is a sentinel."""
    program = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, "memguard.sentinel.process"]) as process:
        try:
            assert has_writer(build_logs.make_state(pid=process.pid), time.time())
        finally:
            process.kill()
    assert not has_writer(build_logs.make_state(pid=process.pid), time.time())
    assert not has_writer(build_logs.make_state(pid=-1), time.time())


# -- what is no running build ------------------------------------------------------------------------------------------


def test_what_is_no_running_build_is_told_apart(build: Path, tmp_path: Path) -> None:
    """Each reason why there is nothing to watch has a sentence of its own that names the directory; exit 2."""
    state = build / "memguard" / "state.json"
    content = json.loads(state.read_text(encoding="utf-8"))
    assert "does not exist" in refused(memguard("top", str(build / "nowhere"), cwd=build))
    assert "is not a directory" in refused(memguard("top", str(state), cwd=build))
    assert "is not a build directory" in refused(memguard("top", str(build / "conf"), cwd=build))
    state.unlink()
    assert "no build is running in" in refused(memguard("top", cwd=build))
    for damaged, what in (("", "is empty"), ('{"version": 2, "ti', "half-written"), ('{"version": 2}', "half-written")):
        state.write_text(damaged, encoding="utf-8")
        assert what in refused(memguard("top", cwd=build))
    state.write_text(json.dumps({**content, "version": 3}), encoding="utf-8")
    newer = refused(memguard("top", cwd=build))
    assert "is of version 3, and this memguard reads version 2: update meta-memguard" in newer
    state.write_text(json.dumps({"time_s": 1.0, "tasks": {}}), encoding="utf-8")
    assert "is of version 1" in refused(memguard("top", cwd=build))
    (build / "memguard" / "state.json").unlink()
    (build / "memguard").rmdir()
    assert "memguard has written nothing here" in refused(memguard("top", cwd=build))


def test_a_killed_build_tells_its_heaviest_task(build: Path) -> None:
    """A state whose sentinel is dead is what a killed build left: when, and which task was the heaviest; exit 2."""
    put(build, now_s=time.time() - 3600, pid=2**22 - 1)
    sentence = refused(memguard("top", cwd=build))
    assert "was killed 60:0" in sentence
    assert "the heaviest task was qtwebengine do_compile with 3.1 GiB" in sentence


def test_a_process_with_a_dead_sentinels_number_is_none(build: Path) -> None:
    """That some process has the number of a sentinel that is gone does not bring the build back."""
    put(build, now_s=time.time() - 3600, pid=os.getpid())
    assert "was killed" in refused(memguard("top", cwd=build))


def test_a_build_that_is_killed_while_it_is_watched(build: Path) -> None:
    """When the sentinel dies, the watching ends with the same sentence."""
    with terminal("top", str(build), "--interval", "0.2") as screen:
        screen.wait_for_text("tasks running")
        put(build, now_s=time.time() - 3600, pid=2**22 - 1)
        assert screen.end() == 2
    assert "was killed 60:0" in screen.afterwards


def test_waiting_is_said_and_ends_with_a_build(build: Path) -> None:
    """With --wait a build that has not begun is waited for, in a directory that no build has written to, too."""
    (build / "memguard" / "state.json").unlink()
    (build / "memguard").rmdir()
    with terminal("top", str(build), "--wait") as screen:
        screen.wait_for_text("waiting for a build in")
        (build / "memguard").mkdir()
        put(build)
        screen.wait_for_text("tasks running")
        end(build)
        assert screen.end() == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--interval", "0"], "--interval 0: not between"),
        (["--interval", "nan"], "--interval nan"),
        (["--interval", "soon"], "soon"),
        (["--once", "--wait"], "exclude each other"),
        (["x" * 5000], "cannot be read"),
    ],
)
def test_wrong_arguments_are_one_sentence(build: Path, words: list[str], what: str) -> None:
    """Each names the argument and shows a good one; exit 2."""
    assert what in refused(memguard("top", *words, cwd=build))


def test_the_directory_is_found_as_builds_find_it(build: Path, tmp_path: Path) -> None:
    """MEMGUARD_DIR of conf/local.conf and of the environment, $BUILDDIR, and MEMGUARD_DIR itself all name a build."""
    elsewhere = build / "elsewhere"
    (build / "memguard").rename(elsewhere)
    conf = build / "conf" / "local.conf"
    conf.write_text('MEMGUARD_DIR = "${TOPDIR}/elsewhere"\n', encoding="utf-8")
    home = build / "conf"
    for words, env in (
        ([str(build)], {}),
        ([], {"BUILDDIR": str(build)}),
        ([], {"MEMGUARD_DIR": str(elsewhere)}),
        ([str(elsewhere)], {}),
    ):
        done = memguard("top", "--once", *words, cwd=home, **env)
        assert done.returncode == 0, done.stderr
    conf.write_text('MEMGUARD_DIR = "${@bb}/x"\n', encoding="utf-8")
    assert "is for BitBake to work out" in refused(memguard("top", str(build), cwd=home))


def test_help_has_an_example() -> None:
    """What somebody would type stands in the help."""
    done = subprocess.run([*COMMAND, "top", "--help"], env=environment(), capture_output=True, text=True, check=True)
    assert "Example: memguard top ~/yocto/build" in done.stdout


def test_other_builds_under_the_limit_are_one_line() -> None:
    """On the screen and in the plain line, where there are any."""
    beside = replace(STATE, neighbours=2, neighbours_bytes=3 << 30)
    words = "2 other builds under this limit with 3.0 GiB"
    assert words in status(beside)
    assert "other build" not in status(STATE)
    for state, lines in ((beside, 1), (STATE, 0)):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(draw(state, "build", None, STATE.time, Room(80, 24)))
        drawn = console.export_text().splitlines()
        assert len(drawn) <= 24
        assert sum(words in line for line in drawn) == lines
