# SPDX-License-Identifier: MIT
"""What a history forgets: its bound in bytes, and what goes first."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from memguard.record.history.store import LEAST_MAX_BYTES
from memguard.units import KIB
from testbed.histories import (
    check,
    fill,
    opened,
    run,
    size,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a history may lie."""
    return tmp_path / "history.db"


def test_the_file_stays_within_its_bound(path: Path) -> None:
    """However much is added, the file and its log are no larger than said, and the newest are kept."""
    most = 512 * KIB
    with opened(path, max_bytes=most) as history:
        for build in range(30):
            history.add(run(build * 1000 + number, f"b{build:02}") for number in range(400))
            assert size(path) <= most
        assert {sample.age_builds for sample in history.records("zlib")} >= {0, 1, 2}
    assert size(path) <= most * 7 / 8
    check(path)


def test_lives_make_room_for_samples(path: Path) -> None:
    """In a file that is to shrink, lives go before samples do, those that were written longest ago first."""
    most = 512 * KIB
    with opened(path, max_bytes=most) as history:
        history.add(run(number) for number in range(400))
        for number in range(40):
            history.remember_lives("zlib", f"do_{number:02}", bytes(40 * KIB))
        history.add([run(1000)])
        left = [number for number in range(40) if history.lives("zlib", f"do_{number:02}")]
        assert left
        assert left == list(range(left[0], 40))
        assert size(path) <= most
        assert len(history.records("zlib")) == 401
    check(path)


def test_the_best_known_go_first(path: Path) -> None:
    """A task with few samples loses none while another has more, and the oldest go."""
    with opened(path) as history:
        history.add([run(1, "a", "rare")])
        fill(history, 60, {"often": 60, "seldom": 1})
        before = size(path)
        forgotten = history.prune(before // 2)
        rare, often, seldom = (history.records(recipe) for recipe in ("rare", "often", "seldom"))
        assert (len(rare), len(seldom)) == (1, 60)
        assert 60 <= len(often) == 3600 - forgotten
        ages = [sample.age_builds for sample in often]
        assert max(ages) <= min(60, len(often) // 60 + 1)
        assert size(path) <= max(before // 2, LEAST_MAX_BYTES)
    check(path)


def test_pruning_frees_the_disk_at_once(path: Path) -> None:
    """Space goes back to the disk, also with nothing left to forget but the last of each task."""
    with opened(path) as history:
        history.add(run(number, "b1", f"recipe-{number}") for number in range(8000))
        before = size(path)
        assert history.prune(0) > 0
        assert size(path) <= LEAST_MAX_BYTES < before
    check(path)


def test_emptied_builds_do_not_count(path: Path) -> None:
    """Builds and tasks of which nothing is left go with their samples."""
    with opened(path) as history:
        fill(history, 50, {"zlib": 100})
        history.prune(0)
        left = {sample.record.build for sample in history.records("zlib")}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert {name for (name,) in connection.execute("SELECT name FROM builds")} == left


def test_a_reader_does_not_stop_pruning(path: Path) -> None:
    """While another process reads, nothing more is forgotten than must be, and the space is freed after it."""
    with opened(path, max_bytes=LEAST_MAX_BYTES) as history:
        fill(history, 10, {"zlib": 50})
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM samples").fetchone()
        for build in range(10):
            history.add(run(number, f"c{build}") for number in range(300))
        assert len(history.records("zlib")) > 600
        reader.close()
        history.add([run(1, "d")])
        assert size(path) <= LEAST_MAX_BYTES
    check(path)
