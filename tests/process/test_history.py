# SPDX-License-Identifier: MIT
"""The history: what it gives back, how long it keeps it, and everything that can be wrong with its file."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Outcome, PastRun, Record
from memguard.record.history import store as history_module
from memguard.record.history.connection import UnusableHistory, is_local
from memguard.record.history.samples import EXAMPLE, BadSample, format_sample, parse_sample
from memguard.record.history.store import LEAST_MAX_BYTES, Counts, History
from memguard.units import KIB, MIB

LIB = Path(__file__).parents[2] / "meta-memguard" / "lib"
RECORD = Record(
    build="b1",
    recipe="zlib",
    version="1.3.1",
    task="do_compile",
    machine="qemux86-64",
    jobs=8,
    peak_bytes=400 * MIB,
    largest_process_bytes=100 * MIB,
    wall_s=12.5,
    cpu_s=60.25,
    outcome=Outcome.OK,
    per_job_bytes=40 * MIB,
    serial_bytes=100 * MIB,
)
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a history may lie."""
    return tmp_path / "history.db"


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[History]:
    """A history that has nothing to warn of."""
    with contextlib.closing(History(path, warn=pytest.fail, **options)) as history:
        yield history


def run(number: int, build: str = "b1", recipe: str = "zlib") -> Record:
    """One of many runs."""
    return replace(RECORD, build=build, recipe=recipe, wall_s=float(number))


def seconds(path: Path) -> list[float]:
    """The wall seconds of all samples, by which tests know runs apart."""
    with opened(path) as history:
        return sorted(sample["duration_s"] for sample in history.export())


def check(path: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- what it gives back ------------------------------------------------------------------------------------------------


def test_a_record_comes_back(path: Path) -> None:
    """What was added is found by recipe, and by recipe and task, in another process's connection, too."""
    with opened(path) as history:
        history.add([RECORD, replace(RECORD, task="do_install", peak_bytes=None, jobs=None, per_job_bytes=None)])
        for reader in (history, History(path, warn=pytest.fail)):
            assert [sample.record for sample in reader.records("zlib", "do_compile")] == [RECORD]
            assert [sample.record.task for sample in reader.records("zlib")] == ["do_compile", "do_install"]
            assert reader.records("bash") == reader.records("zlib", "do_package") == []
            reader.close()


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORDS, max_size=20))
def test_every_record_survives_every_way(tmp_path: Path, records: list[Record]) -> None:
    """Records are the same after adding, exporting as lines of JSON, importing and merging."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for old in tmp_path.iterdir():
        old.unlink()
    with opened(paths[0]) as first, opened(paths[1]) as second, opened(paths[2]) as third:
        first.add(records)
        lines = [json.dumps(sample) for sample in first.export()]
        counts = second.import_samples(json.loads(line) for line in lines)
        assert (counts.added, counts.known) == (len(set(records)), 0)
        if records:
            assert third.merge(paths[1]) == counts
        for history in (first, second, third):
            assert {parse_sample(sample)[0] for sample in history.export()} == set(records)
        assert list(second.export()) == list(first.export()) == list(third.export())


def test_the_same_sample_twice_is_one(path: Path) -> None:
    """Adding and importing what is there changes nothing; one that differs in anything is another."""
    with opened(path) as history:
        history.add([RECORD, RECORD])
        history.add([RECORD])
        assert history.import_samples([format_sample(RECORD)]) == Counts(added=0, known=1)
        assert history.import_samples([format_sample(replace(RECORD, serial_bytes=1))]) == Counts(added=1)
        assert len(history.records("zlib")) == 2


def test_age_counts_builds(path: Path) -> None:
    """The newest build has age 0, whatever else it built, and its samples come first."""
    with opened(path) as history:
        for build in ("b1", "b2", "b3"):
            history.add([run(1, build)])
        history.add([run(1, "b4", "bash")])
        assert [(s.record.build, s.age_builds) for s in history.records("zlib")] == [("b3", 1), ("b2", 2), ("b1", 3)]


def test_a_clock_that_is_set_back_reorders_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that starts later is newer although its clock says otherwise."""
    with opened(path) as history:
        for build, now_s in (("b1", 2e9), ("b2", 1e9), ("b3", 1.5e9)):
            monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
            history.add([run(1, build)])
        assert [sample.record.build for sample in history.records("zlib")] == ["b3", "b2", "b1"]


def test_imported_builds_keep_their_place(path: Path) -> None:
    """A build whose beginning is known is put there, in whatever order they come."""
    with opened(path) as history:
        history.add([run(1, "now")])
        history.add([run(1, "2001")], recorded_s=1e9)
        history.import_samples([format_sample(run(1, "1985"), 5e8), format_sample(run(2, "2001"), 9e8)])
        assert [s.record.build for s in history.records("zlib")] == ["now", "2001", "2001", "1985"]


def test_the_latest_of_many_recipes(path: Path) -> None:
    """One call gives the newest samples of each task of all recipes that are asked for, more than SQLite's limits."""
    recipes = [f"r{number}" for number in range(1200)]
    with opened(path) as history:
        for build in ("b1", "b2", "b3"):
            history.add(run(1, build, recipe) for recipe in recipes)
        latest = history.latest([*recipes[:-1], "other"], limit_per_task=2)
        assert set(latest) == {(recipe, "do_compile") for recipe in recipes[:-1]}
        assert {tuple(s.record.build for s in samples) for samples in latest.values()} == {("b3", "b2")}
        assert history.latest([]) == {}


def test_an_odd_name_is_unknown(path: Path) -> None:
    """Who asks for what cannot be in the file learns nothing, and the file stays."""
    with opened(path) as history:
        history.add([RECORD])
        assert history.records("\udcff") == history.records("zlib", "\udcff") == history.records("a\0b") == []
        assert set(history.latest(["\udcff", "zlib"])) == {("zlib", "do_compile")}


def test_asking_creates_nothing(path: Path) -> None:
    """Who only reads leaves no file where there was none."""
    with opened(path) as history:
        assert history.records("zlib") == list(history.export()) == []
        assert history.latest(["zlib"]) == {}
        assert history.prune(0) == 0
    assert not path.exists()


# -- samples from elsewhere --------------------------------------------------------------------------------------------


def test_the_example_is_a_sample() -> None:
    """What messages show as good is good, and needs its first ten names only."""
    record, recorded_s = parse_sample(EXAMPLE)
    assert format_sample(record, recorded_s) == EXAMPLE
    needed = dict(list(EXAMPLE.items())[:10])
    assert list(needed) == [
        *("build", "pn", "pv", "task", "jobs", "peak_bytes", "largest_process_bytes", "duration_s", "cpu_s", "outcome")
    ]
    assert parse_sample(needed) == (replace(record, machine="", per_job_bytes=None, serial_bytes=None), None)


@pytest.mark.parametrize("key", list(EXAMPLE)[:10])
def test_a_name_that_is_missing_is_named(key: str) -> None:
    """The sentence has the name and a good value."""
    with pytest.raises(BadSample) as caught:
        parse_sample({name: value for name, value in EXAMPLE.items() if name != key})
    assert str(caught.value) == f'"{key}" is missing, as in {{"{key}": {json.dumps(EXAMPLE[key])}}}'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, value) for key in ("build", "pn", "task") for value in ("", None, 5, "a\nb", "\ud800", "x" * 501)],
        *[(key, value) for key in ("pv", "machine") for value in (None, 5, "a\0b")],
        *[("jobs", value) for value in (0, -1, 8.0, "8", True, 1 << 64)],
        *[
            (key, value)
            for key in ("peak_bytes", "serial_bytes", "per_job_bytes")
            for value in (-1, 1.5, "1G", 1 << 63)
        ],
        *[("largest_process_bytes", value) for value in (None, -1, False)],
        *[
            (key, value)
            for key in ("duration_s", "cpu_s")
            for value in (None, -0.1, float("nan"), float("inf"), "1", [])
        ],
        *[("recorded_s", value) for value in ("now", -1, 10**400)],
        *[("outcome", value) for value in ("OK", None, 1, ["ok"])],
    ],
)
def test_a_value_that_is_wrong_is_shown(key: str, value: Any) -> None:
    """The sentence has the name, what is wrong, and a good value, in a line that can be printed."""
    with pytest.raises(BadSample) as caught:
        parse_sample({**EXAMPLE, key: value})
    text = str(caught.value)
    assert text.startswith(f'"{key}" is ')
    assert text.endswith(f', as in {{"{key}": {json.dumps(EXAMPLE[key])}}}')
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("sample", [None, 5, "x" * 10_000, [], [EXAMPLE]])
def test_what_is_no_object_is_no_sample(sample: Any) -> None:
    """The sentence shows a whole sample."""
    with pytest.raises(BadSample, match="a sample is an object"):
        parse_sample(sample)


def test_a_bad_sample_stops_an_import(path: Path) -> None:
    """Without another word the first bad one is raised with its number; the good ones before it are kept."""
    with opened(path) as history:
        with pytest.raises(BadSample, match=r'^sample 2: "jobs" is 0, not a whole number'):
            history.import_samples([format_sample(run(1)), {**EXAMPLE, "jobs": 0}, format_sample(run(2))])
        assert [sample.record for sample in history.records("zlib")] == [run(1)]


def test_bad_samples_can_be_passed_over(path: Path) -> None:
    """Each is told, and all others are kept, over more than one transaction."""
    told: list[str] = []
    samples = [format_sample(run(number)) if number % 500 else {} for number in range(2500)]
    with opened(path) as history:
        counts = history.import_samples(samples, lambda bad: told.append(str(bad)))
    assert counts == Counts(added=2495, known=0, bad=5)
    assert [text.partition(":")[0] for text in told] == [f"sample {n}" for n in (1, 501, 1001, 1501, 2001)]


def test_a_bad_record_spoils_no_other(path: Path) -> None:
    """A record that is none costs one warning, and those beside it are kept."""
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        history.add([run(1), replace(RECORD, recipe="\udcff"), replace(RECORD, wall_s=float("nan")), run(2)])
    assert seconds(path) == [1.0, 2.0]
    (warning,) = warnings
    assert "'\\udcff' 'do_compile' is not kept" in warning


@pytest.mark.parametrize("kind", ["missing", "text", "directory", "newer"])
def test_a_merge_with_what_is_no_history_is_refused(kind: str, path: Path, tmp_path: Path) -> None:
    """The other file is named and not touched."""
    other = tmp_path / "other"
    if kind == "text":
        other.write_text("not a database" * 100)
    elif kind == "directory":
        other.mkdir()
    elif kind == "newer":
        make_newer(other)
    before = other.read_bytes() if other.is_file() else None
    with opened(path) as history, pytest.raises(UnusableHistory, match=str(other)):
        history.merge(other)
    assert (other.read_bytes() if other.is_file() else None) == before
    assert {found.name for found in tmp_path.iterdir()} <= {"other", "history.db"}


def test_a_history_that_is_being_written_can_be_merged(path: Path, tmp_path: Path) -> None:
    """What the other build has committed comes along."""
    with opened(tmp_path / "other") as other, opened(path) as history:
        other.add([run(1), run(2)])
        assert history.merge(tmp_path / "other") == Counts(added=2)


# -- the bound ---------------------------------------------------------------------------------------------------------


def fill(history: History, builds: int, tasks: dict[str, int]) -> None:
    """Let `builds` builds have so many runs of each of the recipes."""
    for build in range(builds):
        history.add(
            run(build * 1000 + number, f"b{build:04}", recipe)
            for recipe, count in tasks.items()
            for number in range(count)
        )


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


def size(path: Path) -> int:
    """The bytes that a history takes on disk."""
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*") if not found.name.endswith("-shm"))


def test_lives_come_back(path: Path) -> None:
    """The bytes that were remembered last of a task, in another process's connection, too; of others none."""
    with opened(path) as history:
        assert history.lives("zlib", "do_compile") == b""
        history.remember_lives("zlib", "do_compile", b"first")
        history.remember_lives("zlib", "do_compile", b"\0second")
        history.remember_lives("zlib", "do_install", b"other")
        for reader in (history, History(path, warn=pytest.fail, is_read_only=True)):
            assert reader.lives("zlib", "do_compile") == b"\0second"
            assert reader.lives("zlib", "do_package") == reader.lives("zl\0ib", "do_compile") == b""
            reader.close()
    with opened(path, is_read_only=True) as history:
        history.remember_lives("zlib", "do_compile", b"third")
        assert history.lives("zlib", "do_compile") == b"\0second"
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


def test_a_history_of_the_first_version_learns_lives(path: Path) -> None:
    """A file without lives is read as it is, also where nothing may be written, and takes them when it is written."""
    with opened(path) as history:
        history.add([RECORD])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE lives")
        connection.execute("PRAGMA user_version = 1")
    with opened(path, is_read_only=True) as history:
        assert [sample.record for sample in history.records("zlib")] == [RECORD]
        assert history.lives("zlib", "do_compile") == b""
    with opened(path) as history:
        assert history.prune(0) == 0
        history.remember_lives("zlib", "do_compile", b"lives")
        assert history.lives("zlib", "do_compile") == b"lives"
        assert [sample.record for sample in history.records("zlib")] == [RECORD]


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


# -- several processes -------------------------------------------------------------------------------------------------

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


def test_a_file_that_is_held_costs_one_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written waits for the next call, and once a build's patience is used up it waits no more."""
    monkeypatch.setattr(history_module, "PATIENCE_S", 0.3)
    warnings = Warnings()
    with opened(path) as history:
        history.add([run(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with contextlib.closing(History(path, warn=warnings)) as history:
        for number in range(2, 52):
            history.add([run(number)])
        assert history._connection is not None
        assert history._connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
        assert [text for text in warnings if "is held by another process" in text] == warnings != []
        assert len(history.records("zlib")) == 1
        other.execute("ROLLBACK")
    other.close()
    assert len(warnings) == 1
    assert seconds(path) == [float(number) for number in range(1, 52)]


def test_a_reader_that_was_held_reads_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rollback journal a writer holds readers: that costs one warning, and the next reading succeeds."""
    monkeypatch.setattr(history_module, "is_local", lambda path: False)
    monkeypatch.setattr(history_module, "PATIENCE_S", 0.3)
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
        monkeypatch.setattr(history_module, "is_local", lambda path, answer=answer: answer)
        with opened(path) as history:
            history.add([run(1, recipe=str(answer) + str(journal))])
        assert path.read_bytes()[18:20] == journal  # "File format version numbers" in SQLite's description
    assert len(seconds(path)) == 2
    check(path)


@pytest.mark.parametrize(
    ("place", "local"),
    [
        ("/srv/h", True),
        ("/srv/nfs/h", False),
        ("/srv/nfs2/h", True),
        ("/srv/nfs/scratch/h", True),
        ("/srv/a b/h", False),
        ("/hidden/h", False),
        ("/fuse/h", False),
    ],
)
def test_network_file_systems_are_known(place: str, local: bool) -> None:
    """The deepest mount over the file decides, and of two on one point the later."""
    mounts = [
        ("/", "ext4"),
        ("/srv", "xfs"),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/scratch", "tmpfs"),
        ("/srv/a\\040b", "cifs"),
        ("/hidden", "ext4"),
        ("/hidden", "9p"),
        ("/fuse", "fuse.sshfs"),
    ]
    lines = [f"1 0 0:1 / {point} rw shared:1 - {kind} source rw" for point, kind in mounts]
    assert is_local(Path(place), "\n".join([*lines, "", "odd - line"])) is local
    assert not is_local(Path(place), "")


# -- what may be wrong with the file -----------------------------------------------------------------------------------


def make_newer(path: Path) -> None:
    """A history that a later version of memguard wrote."""
    with opened(path) as history:
        history.add([RECORD])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE samples ADD COLUMN colour TEXT")
        connection.execute("PRAGMA user_version = 99")


def make_foreign(path: Path) -> None:
    """A database that another program wrote."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")


@pytest.mark.parametrize(("make", "reason"), [(make_newer, "newer memguard"), (make_foreign, "another program")])
def test_what_is_not_ours_stays_as_it_is(make: Any, reason: str, path: Path) -> None:
    """A database of a newer version or of another program costs one warning and is not changed."""
    make(path)
    before = path.read_bytes()
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        assert history.records("zlib") == []
        history.add([RECORD])
        assert history.latest(["zlib"]) == {}
        assert history.failure is not None
    (warning,) = warnings
    assert reason in warning
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


GARBAGE = [b"not a database " * 100, b"\0" * 8192, b"xx", b"SQLite format 3\0" + b"\xff" * 5000]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("first", ["read", "write"])
def test_a_corrupt_file_is_moved_aside(garbage: bytes, first: str, path: Path) -> None:
    """It is kept whole under another name with its log, a new history is begun, and one warning says so."""
    for _ in range(2):  # within one second, for one name
        path.write_bytes(garbage)
        Path(f"{path}-wal").write_bytes(b"log")
        warnings = Warnings()
        with contextlib.closing(History(path, warn=warnings)) as history:
            if first == "read":
                assert history.records("zlib") == []
            history.add([RECORD])
            assert [sample.record for sample in history.records("zlib")] == [RECORD]
        (warning,) = warnings
        assert "a new one is begun" in warning
        check(path)
    aside = [found for found in path.parent.iterdir() if ".corrupt-" in found.name and found.name[-4:] != "-wal"]
    assert [found.read_bytes() for found in aside] == [garbage, garbage]


def test_damage_in_the_middle_is_found(path: Path) -> None:
    """A page that was overwritten is noticed when it is read, also by a process that had the file open."""
    with opened(path) as history:
        fill(history, 5, {"zlib": 400})
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        history.records("bash")
        with open(path, "r+b") as file:
            file.seek(4096 * 5)
            file.write(b"\xaa" * (path.stat().st_size - 4096 * 5))
        history.close()
        assert history.records("zlib") == []
        history.add([RECORD])
        assert len(history.records("zlib")) == 1
    assert len(warnings) == 1
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_reaches_the_build(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes change or are lost, there is no exception, at most one warning, and no sample of another shape."""
    shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
    (tmp_path / "damaged").mkdir()
    sound, path = tmp_path / "sound", tmp_path / "damaged" / "history.db"
    if not sound.exists():
        with opened(sound) as history:
            fill(history, 4, {"zlib": 40, "bash": 20})
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 4] = data.draw(st.binary(max_size=4)) if data.draw(st.booleans()) else b"\xff" * 4
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), 4096, 8192, 5000]))])
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        for sample in [*history.records("zlib"), *history.latest(["bash"]).get(("bash", "do_compile"), [])]:
            assert type(sample.record.peak_bytes) is int
            assert type(sample.record.wall_s) is float
        history.add([RECORD])
        list(history.export())
        history.prune(0)
    assert len(warnings) <= 1


def test_a_file_that_is_taken_away_is_begun_again(path: Path) -> None:
    """Who removes the history while a build writes it finds a new one with what came after."""
    with opened(path) as history:
        history.add([run(1)])
        for found in path.parent.iterdir():
            found.unlink()
        history.add([run(2)])
    assert seconds(path) == [2.0]


def test_a_file_that_another_build_moved_aside_stays_there(path: Path) -> None:
    """Of two builds that meet a corrupt file, the second takes the new one of the first and moves nothing."""
    path.write_bytes(b"not a database " * 100)
    with (
        contextlib.closing(History(path, warn=Warnings())) as first,
        contextlib.closing(History(path, warn=Warnings())) as second,
    ):
        second._file = path.stat()
        first.add([run(1)])
        error = sqlite3.DatabaseError("file is not a database")
        assert second._can_go_on(error, may_try_again=True, for_writing=True)
        second.add([run(2)])
    assert seconds(path) == [1.0, 2.0]
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1


@pytest.mark.parametrize("kind", ["directory", "pipe", "circle", "dangling", "below a file", "null"])
def test_what_is_no_file_is_refused(kind: str, path: Path) -> None:
    """One warning, nothing blocks, nothing is moved or made."""
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere/history.db")
    elif kind == "below a file":
        path.touch()
        path = path / "history.db"
    else:
        path = path.with_name("a\0b")
    before = sorted(found.name for found in path.parent.iterdir()) if path.parent.is_dir() else []
    warnings = Warnings()
    with contextlib.closing(History(path, warn=warnings)) as history:
        assert history.records("zlib") == []
        history.add([RECORD])
        assert history.records("zlib") == list(history.export()) == []
    assert len(warnings) == 1
    assert (sorted(found.name for found in path.parent.iterdir()) if path.parent.is_dir() else []) == before


@pytest.mark.parametrize(
    "name", ["a b", "a?mode=memory", "a%20b", "a#b", "a&b", "ä", "'; DROP TABLE samples", os.fsdecode(b"a\xff")]
)
def test_every_name_is_a_name(name: str, tmp_path: Path) -> None:
    """The file has the name that was asked for, and its directory is made."""
    path = tmp_path / "not yet?" / name
    with opened(path) as history:
        history.add([RECORD])
    assert [found.name for found in path.parent.iterdir()] == [name]
    assert seconds(path) == [12.5]


def test_a_warning_can_be_printed(tmp_path: Path) -> None:
    """Whatever bytes the name of the file has, the warning is one line of text."""
    path = tmp_path / os.fsdecode(b"a\xff\nb")
    path.mkdir()
    warnings = Warnings()
    History(path, warn=warnings).add([RECORD])
    (warning,) = warnings
    assert f"{tmp_path}/a??b is a directory" in warning


def test_an_empty_file_is_an_empty_history(path: Path) -> None:
    """A file that somebody touched is read as nothing and then written."""
    path.touch()
    with opened(path) as history:
        assert history.records("zlib") == []
        history.add([RECORD])
    assert seconds(path) == [12.5]


def test_a_link_is_followed(path: Path) -> None:
    """A link to a place that outlives the pod works before there is a file, too."""
    (path.parent / "kept").mkdir()
    path.symlink_to("kept/history.db")
    with opened(path) as history:
        history.add([RECORD])
    assert seconds(path.parent / "kept" / "history.db") == [12.5]
    assert path.is_symlink()


@contextlib.contextmanager
def mounted(directory: Path, *options: str) -> Iterator[None]:
    """A tmpfs on `directory`; skips where that is not allowed."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(directory)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_read_only_history_still_predicts(was_killed: bool, tmp_path: Path) -> None:
    """What cannot be written is read all the same, also with the log of a killed build; one warning for the writing."""
    directory = tmp_path / "mount"
    path = directory / "history.db"
    with mounted(directory):
        if was_killed:
            writer = start_writer(path, "b1", 0, 1)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
            writer.communicate()
            with opened(path) as history:
                history.add([run(1)])
                for found in list(directory.iterdir()):
                    shutil.copy(found, f"{found}.copy")
            for copy in list(directory.glob("*.copy")):
                copy.rename(str(copy)[: -len(".copy")])
        else:
            with opened(path) as history:
                history.add([run(0), run(1)])
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        warnings = Warnings()
        with contextlib.closing(History(path, warn=warnings)) as history:
            read = len(history.records("zlib"))
            assert warnings == []
            history.add([run(2)])
            assert len(history.records("zlib")) == len(history.latest(["zlib"])["zlib", "do_compile"]) == read >= 1
        (warning,) = warnings
        assert "cannot be written" in warning


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_read(path: Path) -> None:
    """A user who may only read gets what is there."""
    with opened(path) as history:
        history.add([RECORD])
    path.chmod(0o444)
    path.parent.chmod(0o555)
    warnings = Warnings()
    try:
        with contextlib.closing(History(path, warn=warnings)) as history:
            assert len(history.records("zlib")) == 1
            history.add([run(1)])
            assert len(history.records("zlib")) == 1
    finally:
        path.parent.chmod(0o755)
    assert len(warnings) == 1


def test_a_full_disk_costs_one_warning(tmp_path: Path) -> None:
    """What was there is still read, and sound when there is room again."""
    directory = tmp_path / "mount"
    path = directory / "history.db"
    with mounted(directory, "-o", "size=600k"):
        warnings = Warnings()
        with contextlib.closing(History(path, warn=warnings)) as history:
            history.add([run(0)])
            for build in range(20):
                history.add(run(number, f"b{build}") for number in range(1, 300))
            assert len(history.records("zlib")) >= 1
        (warning,) = warnings
        assert "cannot be written" in warning
        with open(path, "rb"):
            check(path)


def test_a_file_that_may_not_grow_costs_one_warning(path: Path) -> None:
    """The same with a limit on the size of files, from the first byte and from a later one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 10_000, 100_000):
        warnings = Warnings()
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with contextlib.closing(History(path.with_name(str(room)), warn=warnings)) as history:
                for build in range(5):
                    history.add(run(number, f"b{build}") for number in range(1000))
                history.records("zlib")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(warnings) == 1
        check(path.with_name(str(room)))


def test_the_last_run_that_ended_well_tells_how_long_a_task_takes(tmp_path: Path) -> None:
    """Of each task the newest good run counts; failed ones and those of memory kills do not."""
    history = History(tmp_path / "h.db", warn=pytest.fail)
    template = RECORD
    for build, wall_s, outcome in (
        ("1", 10.0, "ok"),
        ("2", 20.0, "ok"),
        ("3", 1.0, "failed"),
        ("4", 2.0, "memory-kill"),
    ):
        history.add([replace(template, build=build, wall_s=wall_s, cpu_s=2 * wall_s, outcome=Outcome(outcome))])
    history.add([replace(template, build="1", recipe="other", jobs=None, wall_s=5.0, cpu_s=4.0)])
    assert history.last_runs() == {
        (template.recipe, template.task): PastRun(template.jobs, 20.0, 40.0),
        ("other", template.task): PastRun(None, 5.0, 4.0),
    }
    history.close()
    assert History(tmp_path / "none.db", warn=pytest.fail, is_read_only=True).last_runs() == {}
