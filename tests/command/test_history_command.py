# SPDX-License-Identifier: MIT
"""`memguard history` and `memguard predict`, as one types them: what they tell, take, refuse and survive."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memguard.model import Outcome, Record
from memguard.predict.fit import learn
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.job_lives import Life
from memguard.predict.kinds import by_kind
from memguard.predict.remembered_lives import Lives
from memguard.record.history.samples import TaskLives, format_sample
from memguard.record.history.store import History
from memguard.units import KIB, MIB
from memguard_cli.builds import configuration
from memguard_cli.builds.lives_lines import take_lives
from memguard_cli.screens.history import summarise
from testbed.command import COMMAND, environment, memguard, refused
from testbed.records import RUN

REPOSITORY = Path(__file__).resolve().parents[2]
BUILDSTATS = REPOSITORY / "tests" / "fixtures" / "buildstats"


def tell(*words: str, cwd: Path, **env: str) -> Any:
    """What the command prints as JSON."""
    done = memguard(*words, cwd=cwd, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty directory, whose history would be memguard/history.db."""
    return tmp_path


def remember(place: Path, *records: Record, name: str = "memguard/history.db") -> Path:
    """Write a history with these records."""
    path = place / name
    with contextlib.closing(History(path, warn=pytest.fail)) as history:
        history.add(records)
    return path


def lines(*records: Record) -> str:
    """Records as lines of JSON."""
    return "".join(json.dumps(format_sample(record)) + "\n" for record in records)


def series(count: int, **changes: Any) -> list[Record]:
    """Runs of one task in builds b0, b1 ..., with growing peaks."""
    first = replace(RUN, **changes)
    peak = first.peak_bytes or 0
    return [replace(first, build=f"b{number}", peak_bytes=peak + number * MIB) for number in range(count)]


def test_the_command_has_both(place: Path) -> None:
    """As a process of its own, too, it shows a history and predicts from it."""
    remember(place, *series(3))
    for words, start in ((["history"], "task "), (["predict", "zlib"], "zlib do_compile, version 1.3.1")):
        done = subprocess.run(
            [*COMMAND, *words], cwd=place, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(start)


# -- history show ------------------------------------------------------------------------------------------------------


def test_runs_are_summed_up_by_task() -> None:
    """Counts, newest version, jobs, median and most of the peaks, the largest process and how runs ended."""
    runs = [
        replace(RUN, build="b1", version="1.2", jobs=8, peak_bytes=100),
        replace(RUN, build="b1", version="1.2", jobs=None, peak_bytes=None, largest_process_bytes=999 * MIB),
        replace(RUN, build="b2", jobs=2, peak_bytes=300, outcome=Outcome.MEMORY_KILL),
        replace(RUN, recipe="tiny", peak_bytes=None, largest_process_bytes=1),
    ]
    zlib, tiny = summarise(format_sample(run) for run in runs)
    assert (zlib.recipe, zlib.task, zlib.version, zlib.runs, zlib.builds) == ("zlib", "do_compile", "1.3.1", 3, 2)
    assert (zlib.jobs, zlib.peak_median_bytes, zlib.peak_max_bytes) == ((2, 8), 200, 300)
    assert (zlib.largest_process_bytes, zlib.outcomes) == (999 * MIB, {"ok": 2, "memory-kill": 1})
    assert zlib.medians == ((2, 1, 300), (8, 1, 100))
    assert (tiny.peak_median_bytes, tiny.peak_max_bytes, tiny.largest_process_bytes) == (None, None, 1)


@pytest.mark.parametrize("words", [("history",), ("history", "show"), ("history", "show", "*")])
def test_the_screen_tells_what_tasks_took(words: tuple[str, ...], place: Path) -> None:
    """Each task is a row within 80 columns, the heaviest first; the last line tells of the file."""
    remember(
        place,
        *series(3),
        replace(RUN, recipe="llvm-native", peak_bytes=3000 * MIB, jobs=16, outcome=Outcome.MEMORY_KILL),
    )
    done = memguard(*words, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    head, llvm, ended, zlib, last = (line.split() for line in done.stdout.splitlines())
    assert head == ["task", "version", "runs", "builds", "jobs", "median", "most", "process"]
    assert llvm[:6] == ["llvm-native", "do_compile", "1.3.1", "1", "1", "16"]
    assert ended == ["1", "memory-kill"]
    assert zlib == ["zlib", "do_compile", "1.3.1", "3", "3", "4", "401", "MiB", "402", "MiB", "90", "MiB"]
    assert " ".join(last).endswith("4 samples of 3 builds")
    assert last[0].startswith(str(place))
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80


def test_recipes_are_picked_by_pattern(place: Path) -> None:
    """Shell patterns pick recipes for show and export; the counts of the file stay those of all."""
    remember(place, *series(2), *series(2, recipe="llvm"), replace(RUN, recipe="llvm-native"))
    found = tell("history", "show", "llvm*", "--json", cwd=place)
    assert {task["pn"] for task in found["tasks"]} == {"llvm", "llvm-native"}
    assert (found["samples"], found["builds"]) == (5, 2)
    exported = memguard("history", "export", "[!l]*", cwd=place).stdout.splitlines()
    assert [json.loads(line)["pn"] for line in exported] == ["zlib", "zlib"]
    assert "no recipe here is called gcc*" in memguard("history", "show", "gcc*", cwd=place).stdout


def test_machines_get_one_object(place: Path) -> None:
    """--json tells the same before and after the word show."""
    path = remember(place, *series(3))
    found = tell("history", "--json", cwd=place)
    assert found == tell("history", "show", "--json", cwd=place) == tell("history", "--json", "show", cwd=place)
    assert (found["file"], found["samples"], found["builds"]) == (str(path), 3, 3)
    assert found["size_bytes"] >= path.stat().st_size
    (task,) = found["tasks"]
    assert (task["pn"], task["task"], task["pv"], task["runs"], task["jobs"]) == ("zlib", "do_compile", "1.3.1", 3, [4])
    assert (task["peak_median_bytes"], task["peak_max_bytes"]) == (401 * MIB, 402 * MIB)


def test_a_long_history_fits_a_screen(place: Path) -> None:
    """Of ten thousand recipes the screen shows the heaviest, --json all."""
    runs = [
        replace(RUN, recipe=f"r{number}", peak_bytes=number * KIB, largest_process_bytes=1) for number in range(10_000)
    ]
    remember(place, *runs)
    shown = memguard("history", cwd=place).stdout.splitlines()
    assert shown[1].split()[0] == "r9999"
    assert "and 9,960 lighter tasks" in shown[-2]
    assert len(shown) == 43
    assert len(tell("history", "--json", cwd=place)["tasks"]) == 10_000


def test_numbers_beyond_any_machine_are_told(place: Path) -> None:
    """The largest numbers that a history takes break neither screen nor JSON."""
    most = (1 << 63) - 1
    huge = replace(RUN, jobs=most, peak_bytes=most, largest_process_bytes=most, per_job_bytes=most, serial_bytes=most)
    remember(place, huge, replace(huge, build="b1", outcome=Outcome.MEMORY_KILL))
    assert tell("history", "--json", cwd=place)["tasks"][0]["peak_max_bytes"] == most
    assert tell("predict", "zlib", "--json", cwd=place)["samples"] == 2
    for words in (("history",), ("predict", "zlib"), ("predict", "zlib", "--all-tasks")):
        done = memguard(*words, cwd=place)
        assert (done.returncode, done.stderr) == (0, "")
        assert "zlib" in done.stdout


def test_nothing_in_a_name_moves_the_terminal(place: Path) -> None:
    """Markup, emoji names, control and direction characters, and lines in names are shown as what they are."""
    path = remember(place, RUN, replace(RUN, recipe="[red]markup[/red]", task="do_x"), replace(RUN, recipe=":smile:"))
    hostile = "a\x1b[2J\x07\nb\u202ec"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tasks SET recipe = ?, name = ? WHERE recipe = 'zlib'", (hostile, hostile))
        connection.execute("UPDATE samples SET version = ?", ["\x9b1m\r"])
    for words in (("history",), ("predict", "[red]markup[/red]:do_x"), ("predict", ":smile:")):
        done = memguard(*words, cwd=place, FORCE_COLOR="1", TERM="xterm")
        visible = done.stdout + done.stderr
        assert not set(visible) & set("\x07\r\x9b\u202e"), words
        assert "\x1b[2J" not in visible
    shown = memguard("history", cwd=place).stdout
    assert "[red]markup[/red] do_x" in shown
    assert ":smile:" in shown
    assert "a?[2J??b?c" in shown
    assert hostile in {task["pn"] for task in tell("history", "--json", cwd=place)["tasks"]}


def test_a_merge_passes_over_what_is_no_sample(place: Path, tmp_path: Path) -> None:
    """A name that no recipe has is named on standard error; the other samples are taken."""
    other = tmp_path / "other"
    other.mkdir()
    path = remember(other, RUN, replace(RUN, recipe="bash"))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tasks SET recipe = ? WHERE recipe = 'bash'", ["evil\x1b]0;x\x07"])
    done = memguard("history", "merge", str(path), "--history", str(tmp_path / "new.db"), cwd=place)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "1 added, 0 known, 1 bad")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f'memguard: {path}: sample 1: "pn" is ')
    assert "\x1b" not in sentence


def test_an_import_of_nothing_but_garbage_is_an_error(place: Path, tmp_path: Path) -> None:
    """Status 2, with what would do; the lines are named, and a history that was there stays as it was."""
    (tmp_path / "garbage").write_text("garbage\n{}\n", encoding="utf-8")
    done = memguard("history", "import", str(tmp_path / "garbage"), "--history", str(tmp_path / "new.db"), cwd=place)
    assert (done.returncode, done.stdout) == (2, "0 added, 0 known, 2 bad\n")
    assert done.stderr.splitlines()[-1].endswith(
        "garbage: no line is a sample; samples are in tmp/buildstats, or in a file of `export`"
    )


# -- export and import -------------------------------------------------------------------------------------------------


def test_what_is_exported_can_be_imported(place: Path) -> None:
    """Through a file, through a pipe, and twice: the second time all is known, and the export is the same."""
    remember(place, *series(5), replace(RUN, jobs=None, peak_bytes=None, outcome=Outcome.FAILED))
    whole = memguard("history", "export", cwd=place).stdout
    assert memguard("history", "export", "-o", "out.jsonl", cwd=place).stdout == ""
    assert (place / "out.jsonl").read_text() == whole
    assert len(whole.splitlines()) == 6
    first = memguard("history", "import", "out.jsonl", "--history", "second.db", cwd=place)
    assert first.stdout.startswith("6 added, 0 known, 0 bad\n"), first.stderr
    again = memguard("history", "--history", "second.db", "import", "-", cwd=place, stdin=whole)
    assert again.stdout.startswith("0 added, 6 known, 0 bad\n")
    assert memguard("history", "export", "--history", "second.db", cwd=place).stdout == whole
    assert sorted(path.name for path in place.iterdir()) == ["memguard", "out.jsonl", "second.db"]


def test_kinds_and_lives_travel_with_the_samples(place: Path) -> None:
    """By export and import, by merge, and again: what kind a task is of, and what its single jobs took."""
    remember(place, replace(RUN, kind="an autotools build", per_job_bytes=30 * MIB, serial_bytes=90 * MIB))
    lives = Lives()
    lives.add(1, Life(50 * MIB, 2.0, 1.0))
    with contextlib.closing(History(place / "memguard/history.db", warn=pytest.fail)) as history:
        history.remember_lives("zlib", "do_compile", lives.packed())
    whole = memguard("history", "export", cwd=place).stdout
    assert [set(json.loads(line)) >= {"pn", "task", "lives"} for line in whole.splitlines()] == [False, True]
    taken = memguard("history", "--history", "second.db", "import", "-", cwd=place, stdin=whole)
    assert taken.stdout.startswith("1 added, 0 known, 0 bad, what single jobs of 1 task took\n"), taken.stderr
    again = memguard("history", "--history", "second.db", "import", "-", cwd=place, stdin=whole)
    assert again.stdout.startswith("0 added, 1 known, 0 bad\n")
    known = whole.splitlines()[1] + "\ngarbage\n"
    mixed = memguard("history", "--history", "second.db", "import", "-", cwd=place, stdin=known)
    assert (mixed.returncode, mixed.stdout.splitlines()[0]) == (0, "0 added, 0 known, 1 bad")
    assert mixed.stderr == "memguard: standard input:2: is not JSON\n"
    merged = memguard("history", "--history", "third.db", "merge", "second.db", cwd=place)
    assert merged.stdout.startswith("1 added, 0 known, what single jobs of 1 task took\n"), merged.stderr
    assert memguard("history", "--history", "third.db", "export", cwd=place).stdout == whole
    assert memguard("history", "export", "nothing*", cwd=place).stdout == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lives": base64.b64encode(b"lives2\n\0").decode()}, "were written by a newer memguard"),
        ({"lives": base64.b64encode(b"lives1\n\0too short").decode()}, "not a table of lives"),
        ({"lives": "?"}, "a table of lives in base64"),
        ({"lives": 7}, "a table of lives in base64"),
        ({"written_s": "now"}, "seconds since the epoch"),
        ({"written_s": 1 << 53}, "seconds since the epoch"),
        ({"pn": "x" * 501}, "a name of printable characters"),
        ({"pn": "\x1b[2J"}, "a name of printable characters"),
        ({"task": None}, "a name of printable characters"),
    ],
)
def test_lives_that_are_none_are_named(change: dict[str, Any], words: str, place: Path) -> None:
    """One sentence with the line, and status 2 where there is nothing else; a later version is refused as such."""
    good = {"pn": "zlib", "task": "do_compile", "written_s": 1.0, "lives": base64.b64encode(b"lives1\n\0").decode()}
    assert memguard("history", "import", "-", cwd=place, stdin=json.dumps(good)).returncode == 0
    done = memguard("history", "import", "-", cwd=place, stdin=json.dumps({**good, **change}))
    assert done.returncode == 2
    assert done.stderr.startswith("memguard: standard input:1: ")
    assert words in done.stderr


def test_a_first_table_of_lives_is_cut_as_later_ones_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest units are kept, also where the task had no lives before."""
    lives = Lives()
    for unit in range(1, 6):
        lives.add(unit, Life(unit * MIB, 2.0, 1.0))
    packed = lives.packed()
    monkeypatch.setattr("memguard.predict.remembered_lives.MOST_UNITS", 3)
    with contextlib.closing(History(place / "h.db", warn=pytest.fail)) as history:
        assert take_lives(history, [TaskLives("zlib", "do_compile", 1.0, packed)]) == 1
        kept = Lives(history.lives("zlib", "do_compile"))
    assert [kept.of(unit) is not None for unit in range(1, 6)] == [False, False, True, True, True]


def test_buildstats_are_imported(place: Path) -> None:
    """A directory of builds is taken in once; a damaged file is named in one line, and the rest taken."""
    stats = Path(shutil.copytree(BUILDSTATS, place / "buildstats"))
    damaged = next(stats.glob("*/db-native*")) / "do_install"
    damaged.write_text("")
    done = memguard("history", "import", str(stats), cwd=place)
    assert done.returncode == 0
    assert done.stdout.startswith("6 added, 0 known, 1 bad\n")
    (complaint,) = done.stderr.splitlines()
    assert str(damaged) in complaint
    assert memguard("history", "import", "buildstats", cwd=place).stdout.startswith("0 added, 6 known, 1 bad\n")
    names = {task["pn"] for task in tell("history", "--json", cwd=place)["tasks"]}
    assert "db-native" in names


def perf_note(**changes: Any) -> dict[str, Any]:
    """A buildstats.json as oe-build-perf-test writes it: one build, one recipe, one task."""
    task = {
        "start_time": 1712928495.59,
        "status": "PASSED",
        "elapsed_time": 12.5,
        "rusage": {"ru_utime": 30.0, "ru_stime": 10.25, "ru_maxrss": 600 * 1024, "ru_minflt": 1},
        "iostat": {"rchar": 1},
    }
    recipe = {"name": "zlib", "epoch": None, "version": "1.3.1", "revision": "r0"}
    return {"test1.build": [{**recipe, "tasks": {"do_compile": {**task, **changes}}}]}


@pytest.mark.parametrize("indent", [None, 1])
def test_notes_of_yocto_buildstats_are_imported(indent: int | None, place: Path) -> None:
    """Durations, and a floor of memory: only the sum of the task's own process and its largest child is there."""
    text = json.dumps(perf_note(), indent=indent)
    done = memguard("history", "import", "-", cwd=place, stdin=text)
    assert done.stdout.startswith("1 added, 0 known, 0 bad\n"), done.stderr
    assert memguard("history", "import", "-", cwd=place, stdin=text).stdout.startswith("0 added, 1 known")
    (sample,) = map(json.loads, memguard("history", "export", cwd=place).stdout.splitlines())
    assert sample == {
        **{"build": "20240412132815-test1.build", "pn": "zlib", "pv": "1.3.1", "task": "do_compile", "machine": ""},
        **{"jobs": None, "peak_bytes": None, "largest_process_bytes": 520 * MIB, "duration_s": 12.5, "cpu_s": 40.25},
        **{"outcome": "ok", "per_job_bytes": None, "serial_bytes": None, "recorded_s": 1712928495.59},
    }


def test_each_kind_of_note_gives_its_floor(place: Path) -> None:
    """Where both are there, the larger; of a small sum at least half; a list alone is a build, too."""
    apart = perf_note(child_rusage={"ru_maxrss": 700 * 1024, "ru_utime": 1.0})["test1.build"]
    small = perf_note(rusage={"ru_maxrss": 100 * 1024}, status="FAILED", start_time=None)["test1.build"]
    (place / "a.json").write_text(json.dumps(apart))
    (place / "b.json").write_text(json.dumps(small))
    assert memguard("history", "import", "a.json", "b.json", cwd=place).stdout.startswith("2 added, 0 known, 0 bad\n")
    samples = list(map(json.loads, memguard("history", "export", cwd=place).stdout.splitlines()))
    assert sorted((one["largest_process_bytes"] // MIB, one["outcome"], one["build"]) for one in samples) == [
        (50, "failed", "build"),
        (700, "ok", "20240412132815-build"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"elapsed_time": None},
        {"elapsed_time": -1.0},
        {"elapsed_time": float("nan")},
        {"rusage": None},
        {"rusage": {}},
        {"rusage": {"ru_maxrss": "much"}},
        {"rusage": {"ru_maxrss": 1 << 90}},
        {"child_rusage": {"ru_maxrss": []}},
    ],
)
def test_a_bad_task_of_a_note_costs_one_sentence(changes: dict[str, Any], place: Path) -> None:
    """The others are taken; a document with nothing else in it is refused."""
    good, bad = perf_note()["test1.build"], perf_note(**changes)["test1.build"]
    done = memguard("history", "import", "-", cwd=place, stdin=json.dumps({"a": bad, "b": good, "c": ["?"]}))
    assert done.stdout.startswith("1 added, 0 known, 2 bad\n"), done.stderr
    assert "standard input: a: zlib do_compile: " in done.stderr
    assert "standard input: c: a recipe without tasks" in done.stderr
    assert memguard("history", "import", "-", cwd=place, stdin=json.dumps(bad)).returncode == 2


@pytest.mark.parametrize("text", ['{"test1.build": [{"name": "zl', '{"a": [1], "b": 2}', "[\n", "{\n}", "[" * 99_999])
def test_a_document_that_is_none_is_one_sentence(text: str, place: Path) -> None:
    """Cut off, of another shape, or nested without end: status 2, with a command that gives a good one."""
    (place / "note").write_text(text)
    done = memguard("history", "import", "note", cwd=place)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("memguard: note")


BAD_LINES = [
    b"not json",
    b"{",
    b"[" * 60_000,
    b'"text"',
    b'{"build": "b1"}',
    b"9" * 5000,
    b"\xff\xfe{}",
    b'{"pn": "\x00"}',
    json.dumps({**format_sample(RUN), "jobs": 0}).encode(),
    json.dumps({**format_sample(RUN), "pn": "\x1b[2J"}).encode(),
    b'{"build": "' + b"x" * 200_000 + b'"}',
]


def test_bad_lines_are_named_and_passed_over(place: Path) -> None:
    """Each line that is no sample costs one sentence with file and line; those around it are taken."""
    good = lines(*series(len(BAD_LINES) + 1)).encode().splitlines()
    mixed = [line for pair in zip(good, BAD_LINES) for line in pair] + [b"", good[-1]]
    (place / "mixed.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(mixed))
    done = memguard("history", "import", "mixed.jsonl", cwd=place)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{len(good)} added, 0 known, {len(BAD_LINES)} bad\n")
    complaints = done.stderr.splitlines()
    assert [line.split(" ")[1] for line in complaints] == [f"mixed.jsonl:{2 * n + 2}:" for n in range(len(BAD_LINES))]
    assert max(map(len, complaints)) < 700
    assert done.stderr.replace("\n", "").isprintable()


def test_one_bad_argument_imports_nothing(place: Path) -> None:
    """A file that is not there is found before anything is taken."""
    (place / "good.jsonl").write_text(lines(RUN))
    done = memguard("history", "import", "good.jsonl", "missing.jsonl", cwd=place)
    assert "missing.jsonl does not exist" in refused(done)
    assert not (place / "memguard").exists()


def test_a_database_is_for_merge(place: Path) -> None:
    """Who imports a database, or merges lines of JSON, is told the other command; the files stay as they are."""
    other = remember(place, *series(3), name="other.db")
    (place / "lines.jsonl").write_text(lines(RUN))
    assert "memguard history merge other.db" in refused(memguard("history", "import", "other.db", cwd=place))
    assert "memguard history import" in refused(memguard("history", "merge", "lines.jsonl", cwd=place))
    assert (place / "lines.jsonl").read_text() == lines(RUN)
    done = memguard("history", "merge", "other.db", cwd=place)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "3 added, 0 known")
    assert memguard("history", "merge", str(other), cwd=place).stdout.startswith("0 added, 3 known\n")


def test_pruning_says_what_it_forgot(place: Path) -> None:
    """The file becomes no larger than --max, and the newest samples stay."""
    records = [replace(run, machine="m" * 400) for run in series(3000)]
    path = remember(place, *records)
    before = path.stat().st_size
    done = memguard("history", "prune", "--max", "512K", cwd=place)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size <= 512 * KIB < before
    left = tell("history", "--json", cwd=place)
    assert done.stdout.startswith(f"{3000 - left['samples']:,} samples forgotten")
    assert left["tasks"][0]["peak_max_bytes"] == records[-1].peak_bytes
    assert memguard("history", "prune", cwd=place, MEMGUARD_HISTORY_MAX="16M").stdout.startswith("0 samples forgotten")


# -- which file --------------------------------------------------------------------------------------------------------


def configure(place: Path, text: str) -> Path:
    """Make `place`/build a build directory with this local.conf."""
    (place / "build" / "conf").mkdir(parents=True)
    (place / "build" / "conf" / "local.conf").write_text(text)
    return place / "build"


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("", "memguard/history.db"),
        ('MEMGUARD_DIR = "${TOPDIR}/../mine"', "../mine/history.db"),
        ('MEMGUARD_HISTORY = "${TOPDIR}/h.db"\nMEMGUARD_DIR = "/nowhere"', "h.db"),
        ('SSTATE_DIR ?= "${TOPDIR}/../cache"\nMEMGUARD_HISTORY = "${SSTATE_DIR}/h.db"', "../cache/h.db"),
        ('MEMGUARD_HISTORY = ""', "memguard/history.db"),
    ],
)
def test_the_build_directory_says_which_file(text: str, file: str, place: Path) -> None:
    """In a build directory, or where BUILDDIR names one, its plain values name the file, as in a build."""
    build = configure(place, text)
    path = remember(build, RUN, name=file)
    for found in (tell("history", "--json", cwd=build), tell("history", "--json", cwd=place, BUILDDIR=str(build))):
        assert os.path.realpath(found["file"]) == os.path.realpath(path)
        assert found["samples"] == 1


def test_an_option_beats_the_environment_beats_the_build(place: Path) -> None:
    """--history is taken first, then MEMGUARD_HISTORY of the environment, then the build directory."""
    build = configure(place, 'MEMGUARD_HISTORY = "${TOPDIR}/three.db"')
    for name, count in (("one.db", 1), ("two.db", 2), ("three.db", 3)):
        remember(build, *series(count), name=name)
    option, env = ("--history", "one.db"), {"MEMGUARD_HISTORY": "two.db"}
    assert tell("history", "show", "--json", *option, cwd=build, **env)["samples"] == 1
    assert tell("history", "show", "--json", cwd=build, **env)["samples"] == 2
    assert tell("history", "show", "--json", cwd=build)["samples"] == 3


@pytest.mark.parametrize("value", ["${DISTRO_CACHE}/h.db", "${@d.getVar('X')}", "${MEMGUARD_HISTORY}"])
def test_a_file_that_only_bitbake_knows_is_asked_for(value: str, place: Path) -> None:
    """A value that BitBake would have to work out is not guessed."""
    build = configure(place, f'MEMGUARD_HISTORY = "{value}"')
    sentence = refused(memguard("history", cwd=build))
    assert "MEMGUARD_HISTORY" in sentence
    assert "--history /cache" in sentence


# -- what it must refuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("show",), ("export",), ("prune",)])
def test_without_a_history_a_good_name_is_shown(words: tuple[str, ...], place: Path) -> None:
    """Where no file is, nothing is made, and the sentence names file and remedy."""
    sentence = refused(memguard("history", *words, cwd=place))
    assert "memguard/history.db does not exist" in sentence
    assert "--history " in sentence
    assert list(place.iterdir()) == []


def make_newer(path: Path) -> None:
    """A history of a version to come."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")


def make_text(path: Path) -> None:
    """A file that is something else."""
    path.write_text("something dear\n" * 1000)


def make_directory(path: Path) -> None:
    """No file at all."""
    path.mkdir()


@pytest.mark.parametrize("words", [("show",), ("export",), ("import", "-"), ("merge", "ok.db"), ("prune",), ()])
@pytest.mark.parametrize("make", [make_newer, make_text, make_directory])
def test_what_is_no_history_is_refused_and_left(make: Any, words: tuple[str, ...], place: Path) -> None:
    """A newer version, another file or a directory under the name of the history: one sentence, and it stays."""
    remember(place, RUN, name="ok.db")
    make(place / "odd.db")
    before = (place / "odd.db").read_bytes() if make is not make_directory else None
    command = ("history", *words) if words else ("predict", "zlib")
    done = memguard(*command, "--history", "odd.db", cwd=place, stdin=lines(RUN))
    assert "odd.db" in refused(done)
    assert "this build" not in done.stderr
    assert (place / "odd.db").is_dir() or (place / "odd.db").read_bytes() == before
    assert sorted(path.name for path in place.iterdir()) == ["odd.db", "ok.db"]


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process is writing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("words", [("import", "-"), ("prune", "--max", "256K")])
def test_a_held_file_is_told(words: tuple[str, ...], place: Path) -> None:
    """Where another process holds the file, the sentence says so; nothing is lost, and later it works."""
    path = remember(place, *(replace(run, machine="m" * 400) for run in series(2000)))
    with held(path):
        done = memguard("history", *words, cwd=place, stdin=lines(replace(RUN, build="new")))
    assert "is held by another process" in refused(done)
    assert done.stdout == ("0 added, 0 known, 0 bad\n" if words[0] == "import" else "")
    assert memguard("history", *words, cwd=place, stdin=lines(replace(RUN, build="new"))).returncode == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="from Python 3.11 on SQLite refuses to read what is too long")
@pytest.mark.parametrize("words", ["show", "export", "predict", "merge", "prune"])
def test_a_name_without_end_takes_no_memory(words: str, place: Path) -> None:
    """A history with a name of 30 MiB is refused, or cut down, within 150 MiB."""
    with contextlib.closing(History(place / "history.db", warn=pytest.fail)) as history:
        history.add(replace(RUN, wall_s=float(number)) for number in range(150))
    with contextlib.closing(sqlite3.connect(place / "history.db")) as connection, connection:
        connection.execute("UPDATE tasks SET name = ?", ["x" * (30 * MIB)])
        connection.execute("UPDATE builds SET name = ?", ["x" * (30 * MIB)])
    arguments = {
        "predict": ["predict", "--history", "history.db", RUN.recipe, "--all-tasks"],
        "merge": ["history", "--history", "other.db", "merge", "history.db"],
        "prune": ["history", "--history", "history.db", "prune", "--max", "300K"],
    }.get(words, ["history", "--history", "history.db", words])
    bounded = (
        "import resource; from memguard_cli import main; resource.setrlimit(resource.RLIMIT_DATA, (150 << 20,) * 2)"
    )
    program = f"import sys; {bounded}; sys.exit(main.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=place, env=environment(), capture_output=True, text=True
    )
    assert done.returncode in ((0, 2) if words == "prune" else (2,)), done.stderr
    assert len(done.stderr.splitlines()) == (done.returncode == 2), done.stderr


def test_a_full_disk_is_told(place: Path) -> None:
    """Where the file cannot grow, the sentence says that it cannot be written, and what was there is still there."""
    remember(place, *series(3))
    (place / "more.jsonl").write_text(lines(*series(5000, recipe="more")))
    limited = f"import resource, os, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n\
resource.setrlimit(resource.RLIMIT_FSIZE, ({64 * KIB}, {64 * KIB}))\nos.execv(sys.executable, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", limited, *COMMAND, "history", "import", "more.jsonl"],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "history.db cannot be written" in refused(done)
    assert [
        json.loads(line)["pn"] for line in memguard("history", "export", "zlib", cwd=place).stdout.splitlines()
    ] == ["zlib"] * 3


@pytest.mark.parametrize(
    "words",
    [
        ("history", "shw"),
        ("history", "show", "--frobnicate"),
        ("history", "--json", "export"),
        ("history", "import"),
        ("history", "import", "missing.jsonl"),
        ("history", "import", "/"),
        ("history", "merge", "missing.db"),
        ("history", "prune", "--max", "potato"),
        ("history", "prune", "--max", "1K"),
        ("history", "show", "--history", ""),
        ("history", "export", "-o", "nowhere/out"),
        ("history", "export", "-o", "memguard/history.db"),
        ("history", "import", "\x1b[2J\nmissing"),
        ("predict",),
        ("predict", ""),
        ("predict", ":do_compile"),
        ("predict", "zlib:"),
        ("predict", "mc:x:zlib"),
        ("predict", "virtual/kernel"),
        ("predict", "zlib", "--jobs", "0"),
        ("predict", "zlib", "--jobs", "many"),
        ("predict", "zlib:do_compile", "--all-tasks"),
    ],
)
def test_a_wrong_argument_is_one_sentence(words: tuple[str, ...], place: Path) -> None:
    """One printable line on stderr, exit status 2, and the history as it was."""
    path = remember(place, RUN)
    before = path.read_bytes()
    done = memguard(*words, cwd=place)
    assert refused(done).isprintable()
    assert done.stdout == ""
    assert path.read_bytes() == before


def run_shell(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $memguard is the command."""
    variables = environment(memguard=" ".join(COMMAND))
    return subprocess.run(
        ["sh", "-c", script], cwd=place, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("words", ["export", "show '*'"])
def test_a_reader_that_leaves_early_is_no_fault(words: str, place: Path) -> None:
    """`memguard history export | true` ends well and says nothing."""
    remember(place, *(replace(RUN, recipe=f"r{number}") for number in range(1000)))
    done = run_shell(f"{{ $memguard history {words}; echo $? >status; }} | true", place)
    assert done.stderr == ""
    assert (place / "status").read_text() == "0\n"


@pytest.mark.parametrize("words", ["history", "history export", "predict zlib --json"])
def test_output_that_finds_no_room_is_told(words: str, place: Path) -> None:
    """On a full disk the sentence says that the output cannot be written."""
    remember(place, RUN)
    done = run_shell(f"$memguard {words} >/dev/full", place)
    assert "the output cannot be written: No space left on device" in refused(done)


def test_an_interrupted_import_says_130(place: Path) -> None:
    """After Ctrl-C the exit status is 130, and the next import takes the rest."""
    process = subprocess.Popen(
        [*COMMAND, "history", "import", "-"],
        cwd=place,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"no sample\n")
    process.stdin.flush()
    assert b"standard input:1" in process.stderr.readline()  # it reads now
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert memguard("history", "import", "-", cwd=place, stdin=lines(RUN)).stdout.startswith("1 added, ")


# -- predict -----------------------------------------------------------------------------------------------------------

PROMISED = {
    *("peak_bytes", "base_bytes", "per_job_bytes", "serial_bytes", "most_bytes"),
    *("samples", "confidence", "source"),
}


def test_without_a_history_the_prior_is_told(place: Path) -> None:
    """The table's row, else the kind of recipe, with no samples and no confidence; no file is made."""
    known = tell("predict", "llvm-native", "--jobs", "4", "--json", cwd=place)
    assert set(known) >= PROMISED
    footprint = Predictor(read_table(), {}).predict("llvm-native", "do_compile", frozenset())
    assert (known["source"], known["samples"], known["confidence"]) == ("known", 0, 0)
    assert (known["peak_bytes"], known["per_job_bytes"]) == (footprint.peak_bytes(4), footprint.per_job_bytes)
    assert (known["prior"]["row"], known["task"]) == ("llvm-native", "do_compile")
    assert known["prior"]["row_measured"] == ["serial"]
    assert "2336 MiB largest process" in known["prior"]["row_source"]
    unknown = tell("predict", "mine", "--class", "cmake", "--class", "classes/systemd.bbclass", "--json", cwd=place)
    assert unknown["source"] == by_kind("do_compile", frozenset({"cmake"})).origin
    assert unknown["classes"] == ["cmake", "systemd"]
    assert "none yet" in memguard("predict", "mine", cwd=place).stdout
    assert list(place.iterdir()) == []


def test_a_kind_is_predicted_by_what_others_of_it_took(place: Path) -> None:
    """As in a build: recipes of any image count, by the kind that they were of."""
    kind = by_kind("do_compile", frozenset({"cmake"}))
    words = ("predict", "mine", "--class", "cmake", "--jobs", "4", "--json")
    before = tell(*words, cwd=place)["peak_bytes"]
    remember(place, *(replace(RUN, recipe=f"r{n}", kind=kind.origin, peak_bytes=80 * MIB) for n in range(8)))
    after = tell(*words, cwd=place)
    assert after["source"] == kind.origin
    assert 80 * MIB < after["peak_bytes"] < before / 4


def test_a_prediction_is_the_builds(place: Path) -> None:
    """Numbers, evidence and source are what learning from the history's samples gives for that version."""
    runs = [
        *series(3, recipe="llvm-native", jobs=2, peak_bytes=900 * MIB),
        *series(3, recipe="llvm-native", jobs=8, peak_bytes=2100 * MIB),
    ]
    path = remember(place, *runs)
    prior = Predictor(read_table(), {}).predict("llvm-native", "do_compile", frozenset())
    with contextlib.closing(History(path, warn=pytest.fail)) as history:
        samples = history.latest(["llvm-native"])["llvm-native", "do_compile"]
    for version in ("1.3.1", "2.0"):
        learned = learn(samples, prior, version)
        found = tell("predict", "llvm-native:compile", "--jobs", "8", "--version", version, "--json", cwd=place)
        assert (found["source"], found["samples"], found["jobs"]) == ("history", 6, 8)
        assert found["peak_bytes"] == learned.footprint.peak_bytes(8) == found["peaks_bytes"]["8"]
        assert found["confidence"] == pytest.approx(learned.confidence, abs=1e-4)
        assert found["is_new_version"] == (version == "2.0")
    assert tell("predict", "llvm-native", "--json", cwd=place)["pv"] == "1.3.1"


def test_where_more_jobs_took_no_more_it_is_told(place: Path) -> None:
    """The most is a number and a word then; else it is null."""
    job, serial = 512 * MIB, 600 * MIB
    runs = [
        replace(RUN, build=f"b{jobs}", jobs=jobs, peak_bytes=peak * MIB, per_job_bytes=job, serial_bytes=serial)
        for jobs, peak in ((2, 1100), (4, 2100), (8, 2100))
    ]
    path = remember(place, *runs[:2])
    assert tell("predict", RUN.recipe, "--json", cwd=place)["most_bytes"] is None
    assert "at most" not in memguard("predict", RUN.recipe, cwd=place).stdout
    assert remember(place, runs[2]) == path
    found = tell("predict", RUN.recipe, "--jobs", "64", "--json", cwd=place)
    assert found["peak_bytes"] == found["most_bytes"] == found["peaks_bytes"]["8"]
    told = " ".join(memguard("predict", RUN.recipe, cwd=place).stdout.split())
    assert "at most more jobs took no more, and did as much work" in told


def test_a_kill_and_buildstats_raise(place: Path) -> None:
    """Runs that can only raise are counted apart, and said in words."""
    remember(
        place,
        replace(RUN, recipe="odd", peak_bytes=5000 * MIB, outcome=Outcome.MEMORY_KILL),
        replace(RUN, recipe="odd", jobs=None, peak_bytes=None, largest_process_bytes=50 * MIB),
    )
    found = tell("predict", "odd", "--jobs", "4", "--json", cwd=place)
    assert found["peak_bytes"] >= 6000 * MIB
    assert (found["samples"], found["samples_fitted"], found["samples_raising"]) == (2, 0, 2)
    assert found["raised"] > 1
    told = " ".join(memguard("predict", "odd", cwd=place).stdout.split())
    assert "1 run killed for memory, 1 run known by the largest process only" in told


def test_the_users_own_line_stands(place: Path) -> None:
    """MEMGUARD_FOOTPRINT of this recipe in conf/local.conf is taken as it is; what runs say is told beside it."""
    build = configure(
        place,
        'MEMGUARD_FOOTPRINT:pn-libstdc++ = "do_compile:base=100M,per_job=200M,serial=1G"\nPARALLEL_MAKE = "-j 6"\n'
        'MEMGUARD_FOOTPRINT:pn-other = "nonsense"\n',
    )
    remember(build, *series(3, recipe="libstdc++", peak_bytes=77 * MIB))
    found = tell("predict", "libstdc++", "--json", cwd=build)
    assert (found["source"], found["confidence"], found["samples"]) == ("MEMGUARD_FOOTPRINT", 0, 3)
    assert (found["jobs"], found["peak_bytes"], found["serial_bytes"]) == (6, 1300 * MIB, 1024 * MIB)
    told = memguard("predict", "libstdc++", cwd=build).stdout
    assert "your own MEMGUARD_FOOTPRINT:pn-libstdc++" in told
    assert "the runs" in told
    assert tell("predict", "libstdc++:do_install", "--json", cwd=build)["source"] == "a light task"
    assert "nonsense" in refused(memguard("predict", "other", cwd=build))


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ('X:pn-a = "1"', "X:pn-a", "1"),
        ('X:pn-libstdc++ = "1"', "X:pn-libstdc++", "1"),
        ('X:pn-gtk+3.0="1"', "X:pn-gtk+3.0", "1"),
        ('X:pn-a:append = " 1"', "X:pn-a", " 1"),
        ('X:pn-a += "1"', "X:pn-a", " 1"),
        ('X:pn-a ??= "1"', "X:pn-a", "1"),
    ],
)
def test_lines_for_one_recipe_are_read(line: str, name: str, value: str, place: Path) -> None:
    """Assignments to :pn-NAME are read under that name, whatever characters it has."""
    found = configuration.read(configure(place, line))
    assert found is not None
    assert found.written(name) == value


def test_a_recipes_tasks_are_told_together(place: Path) -> None:
    """--all-tasks gives a list: do_compile first, then all that the history knows; without it one object."""
    remember(place, replace(RUN, recipe="image", task="do_rootfs"), replace(RUN, recipe="image", task="do_image_wic"))
    found = tell("predict", "image", "--all-tasks", "--json", cwd=place)
    assert [(one["pn"], one["task"]) for one in found] == [
        ("image", "do_compile"),
        ("image", "do_image_wic"),
        ("image", "do_rootfs"),
    ]
    assert tell("predict", "image", "--json", cwd=place) == found[0]
    told = memguard("predict", "image", cwd=place).stdout
    assert "do_image_wic" in told
    assert "do_rootfs" in memguard("predict", "image", "--all-tasks", cwd=place).stdout


def test_the_explanation_fits_a_screen(place: Path) -> None:
    """Every fact is there in words within 80 columns, with the peaks at the usual job counts and the one asked for."""
    remember(place, *series(4, recipe="llvm-native"))
    done = memguard("predict", "llvm-native", "--jobs", "12", cwd=place)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0].startswith("llvm-native do_compile, version 1.3.1")
    assert max(map(len, told)) <= 80
    starts = [line.split(" ")[0] for line in told]
    for word in ("peak", "footprint", "source", "margin", "confidence", "prior", "table", "history"):
        assert word in starts
    assert ["jobs", "1", "2", "4", "8", "12", "16"] in [line.split() for line in told]
