# SPDX-License-Identifier: MIT
"""A history that several processes use at once, hold, or are killed over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from memguard.record.history import connection
from memguard.record.history.connection import is_local
from memguard.record.history.store import LEAST_MAX_BYTES, History
from memguard.units import MIB
from testbed.histories import (
    RECORD,
    Warnings,
    check,
    opened,
    run,
    seconds,
    start_writer,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a history may lie."""
    return tmp_path / "history.db"


@pytest.mark.parametrize("max_bytes", [64 * MIB, LEAST_MAX_BYTES])
def test_a_killed_writer_loses_nothing_that_was_kept(path: Path, max_bytes: int) -> None:
    """After kill -9 at any moment, pruning included, the file is sound and has all that was committed before."""
    chance = random.Random(1)
    acknowledged: list[float] = []
    for turn in range(12):
        writer = start_writer(path, f"b{turn}", turn * 100_000, 100_000, max_bytes)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 300))]
        time.sleep(chance.random() / 50)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
        assert not [line for line in lines if line.startswith("warning")]
        acknowledged += [float(line) for line in lines if line.strip()]
        check(path)
        if max_bytes == 64 * MIB:
            assert set(acknowledged) <= set(seconds(path))
    with opened(path, max_bytes=max_bytes) as history:
        last = run(1, "the last")
        history.add([last])
        assert history.records("zlib")[0].record == last


def test_several_builds_share_a_file(path: Path) -> None:
    """Processes that begin and write one history together, with a reader beside them, lose nothing."""
    writers = [start_writer(path, f"b{number}", number * 1000, 200) for number in range(4)]
    with opened(path) as reader:
        while any(writer.poll() is None for writer in writers):
            reader.latest(["zlib"])
    for writer in writers:
        assert writer.communicate()[0].count("warning") == 0
        assert writer.returncode == 0
    assert seconds(path) == sorted(float(n * 1000 + number) for n in range(4) for number in range(200))
    check(path)


def test_a_child_uses_its_own_connection(path: Path) -> None:
    """After fork() parent and child both write, and nothing breaks."""
    with opened(path) as history:
        history.add([run(1)])
        child = os.fork()
        if child == 0:
            history.add([run(2)])
            history.close()
            os._exit(0 if history.failure is None else 1)
        _, status = os.waitpid(child, 0)
        history.add([run(3)])
        assert status == 0
    assert seconds(path) == [1.0, 2.0, 3.0]
    check(path)


def test_a_child_leaves_what_waits_to_its_parent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that wait for a held file are written once, by the process that was given them, whatever a child does."""
    monkeypatch.setattr(connection, "PATIENCE_S", 0.1)
    with opened(path) as history:
        history.add([run(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        history = History(path, warn=Warnings())
        history.add([run(2)])
    child = os.fork()
    if child == 0:
        history.records("zlib")
        history.add([run(3)])
        history.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert seconds(path) == [1.0, 3.0]
    history.close()
    assert seconds(path) == [1.0, 2.0, 3.0]


def test_a_file_that_is_held_costs_one_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written waits for the next call, and once a build's patience is used up it waits no more."""
    monkeypatch.setattr(connection, "PATIENCE_S", 0.3)
    warnings = Warnings()
    with opened(path) as history:
        history.add([run(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with contextlib.closing(History(path, warn=warnings)) as history:
        for number in range(2, 52):
            history.add([run(number)])
        assert history._file._connection is not None
        assert history._file._connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
        assert [text for text in warnings if "is held by another process" in text] == warnings != []
        assert len(history.records("zlib")) == 1
        other.execute("ROLLBACK")
    other.close()
    assert len(warnings) == 1
    assert seconds(path) == [float(number) for number in range(1, 52)]


def test_a_reader_that_was_held_reads_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rollback journal a writer holds readers: that costs one warning, and the next reading succeeds."""
    monkeypatch.setattr(connection, "is_local", lambda path: False)
    monkeypatch.setattr(connection, "PATIENCE_S", 0.3)
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        history.add([run(1)])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert history.records("zlib") == history.records("zlib") == []
            other.execute("ROLLBACK")
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM samples").fetchone()
            history.add([run(2)])
            history.add([run(3)])
        assert len(history.records("zlib")) == 1
    assert len(warnings) == 1
    assert seconds(path) == [1.0, 2.0, 3.0]


def test_a_reader_is_not_held(path: Path) -> None:
    """On a local file system reading goes on while another process writes."""
    with opened(path) as history:
        history.add([RECORD])
    if not is_local(path):
        pytest.skip("the tests run on a file system that is not known to be local")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with opened(path) as history:
        assert len(history.records("zlib")) == 1
    other.close()


def test_a_rollback_journal_serves_where_memory_is_not_shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that had a log loses it on a network's file system, and gets it back."""
    for answer, journal in ((True, b"\2\2"), (False, b"\1\1"), (True, b"\2\2")):
        monkeypatch.setattr(connection, "is_local", lambda path, answer=answer: answer)
        with opened(path) as history:
            history.add([run(1, recipe=str(answer) + str(journal))])
        assert path.read_bytes()[18:20] == journal  # "File format version numbers" in SQLite's description
    assert len(seconds(path)) == 2
    check(path)
