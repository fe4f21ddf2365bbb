# SPDX-License-Identifier: MIT
"""A history: what it gives back, and what it takes from elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Outcome, PastRun, Record
from memguard.record.history.samples import EXAMPLE, BadSample, format_sample, parse_sample
from memguard.record.history.schema import UnusableHistory
from memguard.record.history.store import Counts, History
from testbed.histories import (
    RECORD,
    RECORDS,
    Warnings,
    check,
    make_newer,
    opened,
    run,
    seconds,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a history may lie."""
    return tmp_path / "history.db"


LIB = Path(__file__).parents[2] / "meta-memguard" / "lib"


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


def test_a_bad_sample_stops_an_import(path: Path) -> None:
    """Without another word the first bad one is raised with its number; the good ones before it are kept."""
    with opened(path) as history:
        with pytest.raises(BadSample, match=r'^sample 2: "jobs" is 0, not a whole number'):
            history.import_samples([format_sample(run(1)), {**EXAMPLE, "jobs": 0}, format_sample(run(2))])
        assert [sample.record for sample in history.records("zlib")] == [run(1)]


def test_bad_samples_can_be_passed_over(path: Path) -> None:
    """Each is named, and all others are kept, over more than one transaction."""
    named: list[str] = []
    samples = [format_sample(run(number)) if number % 500 else {} for number in range(2500)]
    with opened(path) as history:
        counts = history.import_samples(samples, lambda bad: named.append(str(bad)))
    assert counts == Counts(added=2495, known=0, bad=5)
    assert [text.partition(":")[0] for text in named] == [f"sample {n}" for n in (1, 501, 1001, 1501, 2001)]


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


def test_the_fastest_of_the_runs_like_the_last_tells_how_long_a_task_takes(tmp_path: Path) -> None:
    """Of each task those good runs count that did as much as the newest with as many jobs."""
    history = History(tmp_path / "h.db", warn=pytest.fail)
    template = replace(RECORD, jobs=4)
    for build, jobs, wall_s, cpu_s, outcome in (
        ("1", 4, 10.0, 20.0, "ok"),  # did less
        ("2", 4, 20.0, 42.0, "ok"),
        ("3", 8, 12.0, 40.0, "ok"),  # had more jobs
        ("4", 4, 90.0, 40.0, "ok"),  # waited for CPUs
        ("5", 4, 1.0, 40.0, "failed"),
        ("6", 4, 2.0, 40.0, "memory-kill"),
    ):
        record = replace(template, build=build, jobs=jobs, wall_s=wall_s, cpu_s=cpu_s, outcome=Outcome(outcome))
        history.add([record])
    history.add([replace(template, build="1", recipe="other", jobs=None, wall_s=5.0, cpu_s=4.0)])
    assert history.fastest_runs() == {
        (template.recipe, template.task): PastRun(4, 20.0, 42.0, template.peak_bytes),
        ("other", template.task): PastRun(None, 5.0, 4.0, template.peak_bytes),
    }
    history.close()
    assert History(tmp_path / "none.db", warn=pytest.fail, is_read_only=True).fastest_runs() == {}
