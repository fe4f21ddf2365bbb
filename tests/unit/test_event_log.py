# SPDX-License-Identifier: MIT
"""The event log: lines of JSON that never stand in a build's way."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.record.event_log import KEPT_LOGS, EventLog
from memguard.record.events import BuildEnded, BuildStarted, Held, parse

START = BuildStarted(1700000000.125, mode="enforce", limit_bytes=1 << 33)
END = BuildEnded(1700000009.5, wall_s=9.375)


def lines(log: EventLog) -> list[dict[str, Any]]:
    """The events so far."""
    log.flush()
    assert log.path is not None
    return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `room_bytes`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def old_logs(directory: Path, count: int, mtime_s: float) -> list[Path]:
    """Logs of earlier builds, the first the oldest."""
    logs = [directory / f"old-{number:02}.jsonl" for number in range(count)]
    for number, path in enumerate(logs):
        path.write_text("")
        os.utime(path, (mtime_s + number, mtime_s + number))
    return logs


def test_each_event_is_a_line(tmp_path: Path) -> None:
    """An event is a line once it was flushed, with its name and time first."""
    log = EventLog(tmp_path / "not" / "yet" / "there")
    log.write(Held(1700000000.125, "foo", "do_compile", reason="needs 1.0 TiB", used_bytes=1 << 40))
    (event,) = lines(log)
    assert list(event.items()) == [
        ("event", "hold"),
        ("time", 1700000000.125),
        ("recipe", "foo"),
        ("task", "do_compile"),
        ("reason", "needs 1.0 TiB"),
        ("used_bytes", 1 << 40),
    ]
    assert log.failure is None


def test_nothing_is_written_before_it_is_flushed(tmp_path: Path) -> None:
    """A decision waits for no disk: what was taken stays in memory, until the heartbeat flushes it."""
    log = EventLog(tmp_path)
    log.write(START)
    assert log.path is not None
    assert log.path.read_bytes() == b""
    log.flush()
    assert parse(log.path.read_bytes()) == START


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.text(st.characters(categories=None)), st.none() | st.integers())
def test_any_value_is_one_line(tmp_path: Path, text: str, number: int | None) -> None:
    """Newlines and surrogates in a value break no line, and are read as they were written."""
    log = EventLog(tmp_path)
    log.write(Held(1.0, text, "do_compile", reason=text, used_bytes=number))
    log.write(END)
    log.close()
    assert log.path is not None
    assert log.path.read_bytes().count(b"\n") == 2
    held, end = lines(log)
    assert (held["recipe"], held.get("reason", ""), held["used_bytes"], end["event"]) == (
        text,
        text,
        number,
        "build_end",
    )


def test_twenty_logs_are_kept(tmp_path: Path) -> None:
    """The oldest logs give way to the new one, and no other file does."""
    old = old_logs(tmp_path, 25, time.time() - 1000)
    (tmp_path / "notes.txt").write_text("mine")
    log = EventLog(tmp_path)
    assert sorted(tmp_path.glob("*.jsonl")) == sorted([*old[-(KEPT_LOGS - 1) :], log.path])
    assert (tmp_path / "notes.txt").exists()


def test_a_clock_that_was_set_back_costs_no_log(tmp_path: Path) -> None:
    """The log of this build stays, even where all earlier ones seem younger."""
    old_logs(tmp_path, KEPT_LOGS, time.time() + 1_000_000)
    log = EventLog(tmp_path)
    log.write(START)
    assert [event["event"] for event in lines(log)] == ["build_start"]
    assert len(list(tmp_path.glob("*.jsonl"))) == KEPT_LOGS


def test_a_log_that_vanishes_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """A name that cannot be looked at, as when another build removes its log, is passed over."""
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    log = EventLog(tmp_path)
    log.write(START)
    assert log.failure is None
    assert len(lines(log)) == 1


def test_builds_of_one_second_have_logs_of_their_own(tmp_path: Path) -> None:
    """Two builds that start together do not write into one file."""
    logs = [EventLog(tmp_path) for _ in range(5)]
    for number, log in enumerate(logs):
        log.write(BuildStarted(1.0, used_bytes=number))
    assert [lines(log)[0]["used_bytes"] for log in logs] == list(range(5))


@pytest.mark.parametrize("place", ["file", "file/below", "dangling/below"])
def test_a_directory_that_cannot_be_made_is_a_failure_in_words(tmp_path: Path, place: str) -> None:
    """Where no log can be, the build goes on, and the failure says where."""
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("/proc/none/none")
    log = EventLog(tmp_path / place)
    log.write(START)
    log.close()
    assert log.path is None
    assert log.failure is not None
    assert str(tmp_path / place) in log.failure
    assert "None" not in log.failure


def test_a_full_disk_silences_the_log(tmp_path: Path) -> None:
    """When the disk is full the log falls silent with a failure, and stays silent."""
    log = EventLog(tmp_path)
    log.write(START)
    assert log.path is not None
    with full_disk(log.path.stat().st_size + 10):
        log.write(Held(1.0, "foo", "do_compile", reason="x" * 100))
        log.flush()
        log.write(END)
        log.flush()
    log.write(END)
    log.close()
    assert log.failure is not None
    assert str(log.path) in log.failure
    assert "build_end" not in log.path.read_text()


def test_closing_twice_and_writing_after_is_quiet(tmp_path: Path) -> None:
    """A log that was closed takes no more events and raises nothing."""
    log = EventLog(tmp_path)
    log.close()
    log.close()
    log.write(END)
    assert lines(log) == []
    assert log.failure is None


def test_no_log_is_silent() -> None:
    """Without a place there is no log, and no failure either."""
    log = EventLog(None)
    log.write(START)
    log.close()
    assert (log.path, log.failure) == (None, None)
