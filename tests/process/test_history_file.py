# SPDX-License-Identifier: MIT
"""Everything that can be wrong with the file of a history."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.record.history.store import History
from memguard.units import MIB
from testbed.histories import (
    RECORD,
    Warnings,
    check,
    fill,
    make_endless,
    make_foreign,
    make_newer,
    opened,
    run,
    seconds,
    start_writer,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a history may lie."""
    return tmp_path / "history.db"


def test_a_history_of_the_first_version_learns_lives(path: Path) -> None:
    """A file without lives is read as it is, also where nothing may be written, and takes them when it is written."""
    with opened(path) as history:
        history.add([RECORD])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE lives")
        connection.execute("ALTER TABLE tasks DROP COLUMN kind")
        connection.execute("PRAGMA user_version = 1")
    with opened(path, is_read_only=True) as history:
        assert [sample.record for sample in history.records("zlib")] == [RECORD]
        assert history.latest(["zlib"])["zlib", "do_compile"][0].record == RECORD
        assert history.fastest_runs()["zlib", "do_compile"].kind == ""
        assert history.lives("zlib", "do_compile") == b""
        assert history.all_lives() == []
    with opened(path) as history:
        assert history.prune(0) == 0
        history.remember_lives("zlib", "do_compile", b"lives")
        assert history.lives("zlib", "do_compile") == b"lives"
        history.add([replace(RECORD, build="another", kind="an autotools build")])
        assert history.fastest_runs()["zlib", "do_compile"].kind == "an autotools build"
        # The kind is the task's, whichever of its runs said it.
        assert [sample.record.kind for sample in history.records("zlib")] == ["an autotools build"] * 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [(make_newer, "newer memguard"), (make_foreign, "another program"), (make_endless, "views or triggers")],
)
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


@pytest.mark.parametrize("column", ["wall_s", "cpu_s"])
@pytest.mark.parametrize("value", [9e999, -1.0])
def test_a_time_that_is_none_is_damage(column: str, value: float, path: Path) -> None:
    """What runs for ever, or less than nothing, was not written by memguard; nothing is worked out from it."""
    with opened(path) as history:
        history.add([RECORD])
    for read in (lambda history: history.records("zlib"), lambda history: history.fastest_runs()):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE samples SET {column} = ?", [value])
        with contextlib.closing(History(path, warn=lambda text: None, is_read_only=True)) as history:
            assert not read(history)
            assert history.failure is not None


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("tasks", "recipe"),
        ("tasks", "name"),
        ("builds", "name"),
        ("builds", "first_s"),
        ("samples", "version"),
        ("samples", "peak_bytes"),
        ("lives", "units"),
    ],
)
@pytest.mark.parametrize("value", ["x" * 501, "x" * (3 * MIB), b"x" * (3 * MIB)], ids=["501", "text", "bytes"])
def test_a_value_without_end_is_damage(table: str, column: str, value: Any, path: Path) -> None:
    """What is longer than memguard writes costs the history, not memory."""
    with opened(path) as history:
        history.add([RECORD, *(run(number) for number in range(3))])
        history.remember_lives("zlib", "do_compile", b"lives")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column} = ?", [value])
    with contextlib.closing(History(path, warn=lambda text: None, is_read_only=True)) as history:
        history.fastest_runs()
        read = history.lives("zlib", "do_compile") if table == "lives" else list(history.export())
        assert not read
        assert history.failure is not None


def test_rows_without_end_are_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that name each other in turn have more rows than anybody could read; they are given up soon."""
    monkeypatch.setattr("memguard.record.history.connection._MOST_STEPS", 1_000_000)
    with opened(path) as history:
        history.add(replace(run(number), machine="m" * 400) for number in range(3000))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'samples'").fetchone()
    name_each_other(path, root)
    with contextlib.closing(History(path, warn=lambda text: None, is_read_only=True)) as history:
        assert list(history.export()) == []
        assert "rows without end" in (history.failure or "")


def name_each_other(path: Path, root: int) -> None:
    """Let every child of a table's root be one page, all children of that another one, and so on.

    The format of pages: https://www.sqlite.org/fileformat2.html#b_tree_pages.
    """
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")

    def places(page: int) -> list[int]:
        """Where in the file the numbers of the children of a page stand; of none that is a leaf."""
        begin = (page - 1) * size
        if content[begin] != 2:
            return []
        cells = int.from_bytes(content[begin + 3 : begin + 5], "big")
        pointers = range(begin + 12, begin + 12 + 2 * cells, 2)
        return [begin + 8, *(begin + int.from_bytes(content[at : at + 2], "big") for at in pointers)]

    inner = [int.from_bytes(content[at : at + 4], "big") for at in places(root)]
    inner = [page for page in inner if places(page)]
    assert len(inner) >= 4
    for page, child in zip([root, *inner], inner):
        for at in places(page):
            content[at : at + 4] = child.to_bytes(4, "big")
    path.write_bytes(content)


def test_a_full_history_is_read_a_piece_at_a_time(path: Path) -> None:
    """All samples of a history take a fraction of what they would as objects."""
    with opened(path) as history:
        history.add(run(number, f"b{number // 500}", f"recipe-{number % 500}") for number in range(10_000))
        tracemalloc.start()
        try:
            assert sum(1 for _ in history.export()) == 10_000
            _, most_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most_bytes < 4 * MIB


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
        second._file._opened = path.stat()
        first.add([run(1)])
        error = sqlite3.DatabaseError("file is not a database")
        assert second._file._can_go_on(error, may_try_again=True, for_writing=True)
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
