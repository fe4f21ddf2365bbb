# SPDX-License-Identifier: MIT
"""Records, and the histories that tests fill with them, damage, and write from other processes."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from memguard.model import Outcome, Record
from memguard.record.history.store import History
from memguard.units import MIB
from testbed.records import RUN

LIB = Path(__file__).parents[2] / "meta-memguard" / "lib"
RECORD = replace(RUN, build="b1", per_job_bytes=40 * MIB, serial_bytes=100 * MIB)
NAMES = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=30)
SIZES = st.integers(0, (1 << 63) - 1)
SECONDS = st.floats(0, 1e9)
RECORDS = st.builds(
    Record,
    build=NAMES,
    recipe=NAMES,
    version=NAMES,
    task=NAMES,
    machine=st.one_of(st.just(""), NAMES),
    jobs=st.one_of(st.none(), st.integers(1, 1000)),
    peak_bytes=st.one_of(st.none(), SIZES),
    largest_process_bytes=SIZES,
    wall_s=SECONDS,
    cpu_s=SECONDS,
    outcome=st.sampled_from(Outcome),
    per_job_bytes=st.one_of(st.none(), SIZES),
    serial_bytes=st.one_of(st.none(), SIZES),
)


class Warnings(list[str]):
    """The warnings of one history."""

    def __call__(self, text: str) -> None:
        self.append(text)


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[History]:
    """A history that has nothing to warn of."""
    with contextlib.closing(History(path, warn=pytest.fail, **options)) as history:
        yield history


def run(number: int, build: str = "b1", recipe: str = "zlib") -> Record:
    """One of many runs."""
    return replace(RECORD, build=build, recipe=recipe, wall_s=float(number))


def fill(history: History, builds: int, tasks: dict[str, int]) -> None:
    """Add `builds` builds, each with runs of the recipes in `tasks`, which has the number of each."""
    for build in range(builds):
        history.add(
            run(build * 1000 + number, f"b{build:04}", recipe)
            for recipe, count in tasks.items()
            for number in range(count)
        )


def seconds(path: Path) -> list[float]:
    """The wall seconds of all samples, by which tests know runs apart."""
    with opened(path) as history:
        return sorted(sample["duration_s"] for sample in history.export())


def size(path: Path) -> int:
    """The bytes that a history takes on disk."""
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*") if not found.name.endswith("-shm"))


def check(path: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(LIB)!r})
from memguard.record.history.store import History
from memguard.model import Outcome, Record
path, build, first, max_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
history = History(path, max_bytes, warn=lambda text: print("warning", text, flush=True))
for number in range(first, first + int(sys.argv[5])):
    history.add([Record(build, "zlib", "1", "do_compile", "", 1, 1, 1, float(number), 0.0, Outcome.OK)])
    if not history._pending:
        print(number, flush=True)
history.close()
"""


def start_writer(path: Path, build: str, first: int, count: int, max_bytes: int = 64 * MIB) -> subprocess.Popen[str]:
    """Start a process that adds `count` runs, numbered from `first`, and prints the number of each that is kept."""
    arguments = [sys.executable, "-S", "-c", WRITER, str(path), build, str(first), str(max_bytes), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def make_newer(path: Path) -> None:
    """A history that a later version of memguard wrote."""
    with opened(path) as history:
        history.add([RECORD])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE samples ADD COLUMN colour TEXT")
        connection.execute("PRAGMA user_version = 99")


def make_endless(path: Path) -> None:
    """A history whose samples are a view that has rows without end."""
    with opened(path) as history:
        history.add([RECORD])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE samples")
        names = ("task", "build", "digest", "version", "machine", "jobs", "peak_bytes", "largest_process_bytes")
        more = ("wall_s", "cpu_s", "outcome", "per_job_bytes", "serial_bytes")
        columns = ", ".join(f"x AS {name}" for name in (*names, *more))
        endless = "WITH RECURSIVE counted (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM counted)"
        connection.execute(f"CREATE VIEW samples AS {endless} SELECT {columns} FROM counted")


def make_foreign(path: Path) -> None:
    """A database that another program wrote."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")
