# SPDX-License-Identifier: MIT
"""The readings that stay of a build: their lines, how often one is kept, and disks that are full."""

from __future__ import annotations

from pathlib import Path

from memguard.record.events import ReadingTaken, Stopped, TaskRow, parse
from memguard.record.readings_log import EVERY_S, THIN_AFTER, Readings, Rhythm

READING = ReadingTaken(1.5, 100, 200, 10, (TaskRow("a", "do_compile", 50, 2, 1, None),))
STOP = Stopped(2.5, "a", "do_compile", 100, bytes=50, reason="memory is short")


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Each event is one line, there at once; a sentinel that comes later adds to them."""
    path = tmp_path / "readings" / "1.jsonl"
    for event in (READING, STOP):
        readings = Readings(str(path))
        readings.write(event)
        assert parse(path.read_text(encoding="utf-8").splitlines()[-1]) == event
        readings.close()
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert "pid" not in path.read_text(encoding="utf-8")


def test_nowhere_and_a_full_disk_take_all(tmp_path: Path) -> None:
    """What cannot be written is lost, and nothing else happens."""
    (tmp_path / "file").touch()
    for path in ("", "/dev/full", str(tmp_path / "file" / "1.jsonl")):
        readings = Readings(path)
        for _ in range(2):
            readings.write(READING)
        readings.close()


def test_readings_thin_out() -> None:
    """One a second for an hour, then one in two, then one in four."""
    rhythm, kept = Rhythm(), []
    for tick in range(4 * THIN_AFTER * 2):
        if rhythm.is_due(tick / 2):
            kept.append(tick / 2)
    gaps = [round(later - earlier, 1) for earlier, later in zip(kept, kept[1:])]
    assert gaps[0] == EVERY_S
    assert [gaps.index(seconds) for seconds in (2.0, 4.0)] == [THIN_AFTER, 2 * THIN_AFTER]
