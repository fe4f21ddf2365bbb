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

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(st.characters(categories=None)))


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
    before_s = time.time()
    log.write("hold", recipe="foo", bytes=1 << 40, mc=None)
    (event,) = lines(log)
    assert list(event) == ["event", "time", "recipe", "bytes", "mc"]
    assert (event["event"], event["bytes"], event["mc"]) == ("hold", 1 << 40, None)
    assert abs(event["time"] - before_s) < 60
    assert log.failure is None


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(VALUES)
def test_any_value_is_one_line(tmp_path: Path, value: object) -> None:
    """Newlines and surrogates in a value break no line."""
    log = EventLog(tmp_path)
    log.write("note", value=value)
    log.write("end")
    log.close()
    assert log.path is not None
    assert log.path.read_bytes().count(b"\n") == 2
    assert [event["event"] for event in lines(log)] == ["note", "end"]


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
    log.write("build_start")
    assert [event["event"] for event in lines(log)] == ["build_start"]
    assert len(list(tmp_path.glob("*.jsonl"))) == KEPT_LOGS


def test_a_log_that_vanishes_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """A name that cannot be looked at, as when another build removes its log, is passed over."""
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    log = EventLog(tmp_path)
    log.write("build_start")
    assert log.failure is None
    assert len(lines(log)) == 1


def test_builds_of_one_second_have_logs_of_their_own(tmp_path: Path) -> None:
    """Two builds that start together do not write into one file."""
    logs = [EventLog(tmp_path) for _ in range(5)]
    for number, log in enumerate(logs):
        log.write("build_start", number=number)
    assert [lines(log)[0]["number"] for log in logs] == list(range(5))


@pytest.mark.parametrize("place", ["file", "file/below", "dangling/below"])
def test_a_directory_that_cannot_be_made_is_a_failure_in_words(tmp_path: Path, place: str) -> None:
    """Where no log can be, the build goes on, and the failure says where."""
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("/proc/none/none")
    log = EventLog(tmp_path / place)
    log.write("build_start")
    log.close()
    assert log.path is None
    assert log.failure is not None
    assert str(tmp_path / place) in log.failure
    assert "None" not in log.failure


def test_a_full_disk_silences_the_log(tmp_path: Path) -> None:
    """When the disk is full the log falls silent with a failure, and stays silent."""
    log = EventLog(tmp_path)
    log.write("build_start")
    assert log.path is not None
    with full_disk(log.path.stat().st_size + 10):
        log.write("hold", reason="x" * 100)
        log.flush()
        log.write("grant")
        log.flush()
    log.write("end")
    log.close()
    assert log.failure is not None
    assert str(log.path) in log.failure
    assert "grant" not in log.path.read_text()


def test_closing_twice_and_writing_after_is_quiet(tmp_path: Path) -> None:
    """A log that was closed takes no more events and raises nothing."""
    log = EventLog(tmp_path)
    log.close()
    log.close()
    log.write("late")
    assert lines(log) == []
    assert log.failure is None


def test_no_log_is_silent() -> None:
    """Without a place there is no log, and no failure either."""
    log = EventLog(None)
    log.write("build_start", anything=object())
    log.close()
    assert (log.path, log.failure) == (None, None)
