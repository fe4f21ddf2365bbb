# SPDX-License-Identifier: MIT
"""Buildstats as records: real ones, those of other releases, and files that are damaged in every way."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Outcome, Record
from memguard.record.history.store import Counts, History
from memguard_cli.builds.buildstats import NoBuildstats, import_buildstats, read_builds, split_name

FIXTURES = Path(__file__).parents[1] / "fixtures" / "buildstats"
BUILD = FIXTURES / "20240412132813"
DO_COMPILE = BUILD / "db-native-1_5.3.28-r0" / "do_compile"
COMPLETE = DO_COMPILE.read_text(encoding="utf-8")


def refuse(text: str) -> None:
    """Fail where nothing is to be complained about."""
    pytest.fail(text)


def read(directory: Path) -> tuple[list[Record], list[str]]:
    """All records below a directory, and the complaints."""
    complaints: list[str] = []
    return [record for build in read_builds(directory, complaints.append) for record in build.records], complaints


def one_file(tmp_path: Path, text: str) -> Path:
    """A file of a task as buildstats lays it."""
    path = tmp_path / "20240101000000" / "zlib-1.3.1-r0" / "do_compile"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_real_build_is_read() -> None:
    """Each file of a task is a record, and what lies beside them is none."""
    (build,) = read_builds(BUILD, refuse)
    assert (build.name, build.started_s) == ("20240412132813", 1712928560.6)
    by_task = {(record.recipe, record.task): record for record in build.records}
    assert set(by_task) == {
        ("core-image-minimal", "do_rootfs"),
        ("db-native", "do_compile"),
        ("gcc-source-13.2.0", "do_recipe_qa_setscene"),
        ("libedit", "do_package_write_deb"),
        ("libedit-native", "do_recipe_qa_setscene"),
        ("openssl", "do_package_write_deb"),
    }
    assert by_task["db-native", "do_compile"] == Record(
        build="20240412132813",
        recipe="db-native",
        version="5.3.28",
        task="do_compile",
        machine="",
        jobs=None,
        peak_bytes=None,
        largest_process_bytes=88856 * 1024,
        wall_s=59.39,
        cpu_s=pytest.approx(0.395801 + 0.039979 + 138.751105 + 22.994723),
        outcome=Outcome.OK,
    )


def test_the_task_itself_may_be_the_largest() -> None:
    """Where a task's children are smaller than its own Python process, that one counts."""
    records, _ = read(BUILD)
    (libedit,) = [record for record in records if record.recipe == "libedit"]
    assert libedit.largest_process_bytes == 55072 * 1024


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_builds_are_found_below(levels: int, tmp_path: Path) -> None:
    """A build is read alone, among others, and below the target as in old releases."""
    top = tmp_path / "buildstats"
    for name in ("2", "1") if levels else ("1",):
        shutil.copytree(BUILD, top.joinpath(*["core-image-minimal-qemux86"][: levels - 1], name) if levels else top)
    names = [build.name for build in read_builds(top, refuse)]
    assert names == (["1", "2"] if levels else ["buildstats"])


def test_every_name_of_a_build_is_split() -> None:
    """Recipe and version are right for all recipes of a real build."""
    with open(FIXTURES / "names.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 244
    assert [row for row in rows if split_name(row["directory"]) != (row["recipe"], row["version"])] == []


@pytest.mark.parametrize(
    ("name", "recipe", "version"),
    [
        ("zlib-1.3.1-r0", "zlib", "1.3.1"),
        ("zlib-1.3.1-r0.4", "zlib", "1.3.1"),
        ("gcc-cross-x86_64-13.2.0-r0", "gcc-cross-x86_64", "13.2.0"),
        ("gcc-cross-canadian-x86-64-13.2.0-r0", "gcc-cross-canadian-x86-64", "13.2.0"),
        ("gcc-source-13.2.0-13.2.0-r0", "gcc-source-13.2.0", "13.2.0"),
        ("glib-2.0-1_2.78.4-r0", "glib-2.0", "2.78.4"),
        ("glib-2.0-2.88.3-r0", "glib-2.0", "2.88.3"),
        ("libsoup-2.4-2.74.3-r0", "libsoup-2.4", "2.74.3"),
        ("matchbox-panel-2-2.12-r0", "matchbox-panel-2", "2.12"),
        ("gtk+3-3.24.41-r0", "gtk+3", "3.24.41"),
        ("linux-yocto-6.6.23+git-r0", "linux-yocto", "6.6.23+git"),
        ("cargo-c-0.10.24+cargo-0.98.0-r0", "cargo-c", "0.10.24+cargo-0.98.0"),
        ("libedit-20230828-3.1-r0", "libedit", "20230828-3.1"),
        ("imagemagick-7.1.1-26-r0", "imagemagick", "7.1.1-26"),
        ("icu-74-2-r0", "icu", "74-2"),
        ("syslinux-6.04-pre2-r3", "syslinux", "6.04-pre2"),
        ("nativesdk-libtool-2.5.4-r0", "nativesdk-libtool", "2.5.4"),
        ("foo-git-r0", "foo", "git"),
        ("foo", "foo", ""),
        ("-r0", "", ""),
    ],
)
def test_names_are_split(name: str, recipe: str, version: str) -> None:
    """Hyphens in names and in versions, epochs, and revisions with a dot."""
    assert split_name(name) == (recipe, version)


def test_a_task_that_ran_twice_is_two_records(tmp_path: Path) -> None:
    """A file to which a second run was appended tells of both."""
    one_file(tmp_path, COMPLETE.replace("PASSED", "FAILED") + COMPLETE)
    records, complaints = read(tmp_path)
    assert [record.outcome for record in records] == [Outcome.FAILED, Outcome.OK]
    assert complaints == []


def test_the_first_releases_with_memory_are_read(tmp_path: Path) -> None:
    """Up to sumo the time stood in the line that names the task."""
    one_file(tmp_path, COMPLETE.replace("do_compile\nElapsed", "do_compile: Elapsed").replace("seconds", "seconds "))
    ((record,), complaints) = read(tmp_path)
    assert (record.wall_s, record.largest_process_bytes, complaints) == (59.39, 88856 * 1024, [])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        (COMPLETE[: COMPLETE.index("Status")], "has no end"),
        ("Event: TaskStarted \nStarted: 1712928684.98 \n", "has no end"),
        ("Status: FAILED \nEnded: 1712928684.98 \n", "does not say how long"),
        ("\n".join(line for line in COMPLETE.splitlines() if "rusage" not in line), "does not say how much memory"),
        (COMPLETE.replace("ru_maxrss: 88856", "ru_maxrss: much"), "'much' where a number should be"),
        (COMPLETE.replace("ru_maxrss: 88856", "ru_maxrss: -1"), "'-1' where a number should be"),
        (COMPLETE.replace("ru_maxrss: 88856", f"ru_maxrss: {'9' * 5000}"), "where a number should be"),
        (COMPLETE.replace("59.39 seconds", "nan seconds"), "'nan' where a number should be"),
        (COMPLETE.replace("Started: 17", "Started: x17"), "where a number should be"),
        ("\0" * 1000, "has no end"),
        ("x" * 2_000_000, "is too large"),
    ],
)
def test_a_malformed_file_is_named(text: str, fault: str, tmp_path: Path) -> None:
    """One sentence names the file and what is wrong with it, and the others are read."""
    shutil.copytree(BUILD, tmp_path / "other")
    path = one_file(tmp_path, text)
    records, (complaint,) = read(tmp_path)
    assert len(records) == 6
    assert complaint.startswith(f"{path}: ")
    assert fault in complaint


def test_odd_files_are_named(tmp_path: Path) -> None:
    """A pipe and a link to nowhere do not stop the import."""
    path = one_file(tmp_path, COMPLETE)
    os.mkfifo(path.parent / "do_pipe")
    (path.parent / "do_link").symlink_to("nowhere")
    records, complaints = read(tmp_path)
    assert len(records) == 1
    assert sorted(Path(text.partition(":")[0]).name for text in complaints) == ["do_link", "do_pipe"]


def test_a_circle_of_links_is_not_followed(tmp_path: Path) -> None:
    """A link to the directory above leads nowhere."""
    path = one_file(tmp_path, COMPLETE)
    (path.parent / "loop").symlink_to(tmp_path)
    assert len(read(tmp_path)[0]) == 1


def test_hostile_names_are_named(tmp_path: Path) -> None:
    """A recipe whose name is no text is reported in words that can be printed, and the rest is imported."""
    path = one_file(tmp_path, COMPLETE)
    for name in (b"z\xfflib-1-r0", b"new\nline-1-r0"):
        odd = Path(os.fsdecode(os.fsencode(tmp_path / "20240101000000") + b"/" + name))
        odd.mkdir()
        shutil.copy(path, odd)
        (odd / "do_empty").touch()
    complaints: list[str] = []
    history = History(tmp_path / "history.db", warn=refuse)
    assert import_buildstats(history, tmp_path, complaints.append) == Counts(added=1, known=0, bad=2)
    history.close()
    assert len(complaints) == 4
    assert all(text.encode() for text in complaints)


@pytest.mark.parametrize("place", ["empty", "missing", "file"])
def test_a_place_without_buildstats_is_refused(place: str, tmp_path: Path) -> None:
    """Who names the wrong directory is told what a right one looks like."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NoBuildstats, match=r"has no buildstats \(BUILD/RECIPE-VERSION-REVISION/do_TASK\)"):
        list(read_builds(tmp_path / place, refuse))


def test_an_import_can_be_repeated(tmp_path: Path) -> None:
    """The second import finds all there, and the records come back as they were read."""
    history = History(tmp_path / "history.db", warn=refuse)
    assert import_buildstats(history, FIXTURES, refuse) == Counts(added=6, known=0, bad=0)
    assert import_buildstats(history, BUILD, refuse) == Counts(added=0, known=6, bad=0)
    (sample,) = history.records("db-native")
    assert sample.record in read(BUILD)[0]
    assert {line["recorded_s"] for line in history.export()} == {1712928560.6}
    history.close()


@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_stops_the_reader(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is cut out of a file, or put in its place, it is read or named."""
    start = data.draw(st.integers(0, len(COMPLETE)))
    end = data.draw(st.integers(start, len(COMPLETE)))
    text = COMPLETE[:start] + data.draw(st.text(max_size=20)) + COMPLETE[end:]
    one_file(tmp_path, text.encode(errors="replace").decode())
    records, complaints = read(tmp_path)
    assert records or complaints
