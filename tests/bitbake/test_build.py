# SPDX-License-Identifier: MIT
"""memguard inside real BitBake: what it holds, what it lowers, and what it leaves alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from memguard.channels.state import StateFile
from memguard.model import Outcome, Record
from memguard.predict.remembered_lives import Lives
from memguard.record.history.store import History
from memguard.sense.compilers import unit_of
from testbed import builddir, compilers
from testbed.bitbake import BitBake, environment
from testbed.builddir import META_TEST, Result
from testbed.container import NoContainer, container
from testbed.events import read_events
from testbed.sentinels import sentinels

REPOSITORY = Path(__file__).resolve().parents[2]
META_MEMGUARD = REPOSITORY / "meta-memguard"
GIB = 1024**3

ON = 'INHERIT += "memguard"\n'


def watchful(configured: int = 1, held: int = 0) -> str:
    """A compile that notices when another one runs at the same time, and says with how many jobs it was asked to run.

    It lasts until so many recipes are configured and so many compiles held, and a second more, in which another one
    would begin if it might.
    """
    return f"""\
TINY_COMMAND = "mkdir ${{TOPDIR}}/alone || touch ${{TOPDIR}}/met; tiny_await {configured} configure ${{TINY_LOG}}; \\
    tiny_await {held} 'hold.*do_compile' ${{TOPDIR}}/memguard/events/*.jsonl; sleep 1; rmdir ${{TOPDIR}}/alone; \\
    echo '${{PN}} ${{PARALLEL_MAKE}}' >> ${{TOPDIR}}/jobs"
"""


@dataclass(frozen=True)
class Built:
    """A build directory after a build, what BitBake printed, and memguard's events."""

    directory: Path
    result: Result
    events: list[dict[str, Any]]

    def of(self, event: str, recipe: str | None = None, task: str | None = None) -> list[dict[str, Any]]:
        """The events of one type, of one recipe, of one task."""
        return [
            found
            for found in self.events
            if found["event"] == event and recipe in (None, found.get("recipe")) and task in (None, found.get("task"))
        ]

    def order(self) -> list[str]:
        """The tasks in the order in which BitBake started them."""
        return re.findall(r"Running (?:noexec )?task \d+ of \d+ \(\S*/(\S+)\)", self.result.output)

    def lines(self, name: str) -> list[str]:
        """The lines of a file that tasks wrote."""
        path = self.directory / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def build(
    bitbake: BitBake, directory: Path, conf: str, *arguments: str, prefix: Sequence[str] = (), **make: Any
) -> Built:
    """Run one build with memguard's layer; asserts that it leaves no process and no grant behind."""
    builddir.make(directory, [META_TEST, META_MEMGUARD], conf, **make)
    result = builddir.run(bitbake, directory, *arguments, prefix=prefix)
    assert result.leftover == ()
    assert not {"grants", "pools", "tasks", "tools", "state.json"} & {
        path.name for path in directory.glob("memguard/*")
    }
    return Built(directory, result, read_events(directory))


@pytest.fixture
def inside() -> Iterator[tuple[str, ...]]:
    """Words that put a command into a real memory cgroup of 2 GiB."""
    try:
        with container(2 * GIB, "memguard-test") as box:
            yield box.prefix
    except NoContainer as missing:
        pytest.skip(str(missing))


@pytest.mark.memcg
def test_tasks_that_become_ready_together_do_not_start_together(
    bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]
) -> None:
    """Of three tasks that fit one by one and become ready in one tick, no two run at the same time."""
    conf = "".join(f'MEMGUARD_FOOTPRINT:pn-tiny-{pn} = "do_compile:base=1G"\n' for pn in ("01", "02", "07"))
    conf += 'BB_NUMBER_THREADS = "8"\n'
    built = build(bitbake, tmp_path, ON + watchful(3, held=2) + conf, "tiny-01", "tiny-02", "tiny-07", prefix=inside)
    assert built.result.returncode == 0, built.result.output
    assert len(built.lines("jobs")) == 3
    assert not (tmp_path / "met").exists()
    assert "limit 2.0 GiB (/sys/fs/cgroup/" in built.result.output
    held = {event["recipe"] for event in built.of("hold", task="do_compile")}
    assert len(held) == 2
    for recipe in held:
        (hold,) = built.of("hold", recipe, "do_compile")
        (release,) = built.of("release", recipe, "do_compile")
        (grant,) = built.of("grant", recipe, "do_compile")
        (start,) = built.of("start", recipe, "do_compile")
        (end,) = built.of("end", recipe, "do_compile")
        assert re.fullmatch(r"needs 1\.0 GiB, \S+ MiB will be free", hold["reason"])
        assert hold["time"] < release["time"] <= grant["time"] <= start["time"] < end["time"]
        assert release["held_s"] > 0.5
        assert grant["bytes"] == GIB
        assert end["outcome"] == "ok"
    (end,) = built.of("build_end")
    assert end["held"] == len(built.of("hold"))
    assert end["oom_kills"] == 0
    assert f"held {end['held']} task" in built.result.output


@pytest.mark.memcg
def test_a_failed_task_no_longer_counts(bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]) -> None:
    """With -k a heavy task that failed gives its memory back: the next one starts while a light one still runs."""
    conf = """\
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=1G"
MEMGUARD_FOOTPRINT:pn-tiny-02 = "do_compile:base=1G"
MEMGUARD_FOOTPRINT:pn-tiny-07 = "do_compile:base=16M"
TINY_COMMAND = "tiny_await 3 configure ${TINY_LOG}; sleep 1; false"
TINY_COMMAND:pn-tiny-07 = "tiny_await 3 compile ${TINY_LOG}"
"""
    built = build(bitbake, tmp_path, ON + conf, "-k", "tiny-01", "tiny-02", "tiny-07", prefix=inside)
    assert built.result.returncode == 1
    ends = {event["recipe"]: event for event in built.of("end", task="do_compile")}
    assert {recipe: event["outcome"] for recipe, event in ends.items()} == {
        "tiny-01": "failed",
        "tiny-02": "failed",
        "tiny-07": "ok",
    }
    heavy = [event for event in built.of("grant", task="do_compile") if event["recipe"] != "tiny-07"]
    first, second = sorted(heavy, key=lambda grant: grant["time"])
    assert second["reason"] == "it fits"
    assert ends[first["recipe"]]["time"] <= second["time"] < ends["tiny-07"]["time"]


@pytest.mark.memcg
def test_every_knob_is_lowered_to_the_grant(bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]) -> None:
    """A task that gets fewer jobs sees it in each variable it may use, in shell and environment; none is raised.

    The compiles run one after the other.
    """
    conf = """\
PARALLEL_MAKE = "-j 8 -l 20"
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=64M,per_job=450M"
MEMGUARD_FOOTPRINT:pn-tiny-02 = "do_compile:base=64M,per_job=450M"
PARALLEL_MAKE:pn-tiny-02 = "-j 1"
PARALLEL_MAKE:task-compile:pn-tiny-07 = "-j 2"
MEMGUARD_FOOTPRINT:pn-tiny-07 = "do_compile:base=64M,per_job=450M"
DEPENDS:pn-tiny-02 = "tiny-01"
DEPENDS:pn-tiny-07 = "tiny-02"
PARALLEL_MAKEINST = "-j8"
BB_NUMBER_THREADS = "4"
XZ_THREADS = "8"
ZSTD_THREADS = "2"
BAZEL_JOBS = "--jobs=8"
export CARGO_BUILD_JOBS = "8"
GOMAXPROCS = "1"
GO_PARALLEL = "-p 8"
NINJAFLAGS = "-v -j8"
CMAKE_BUILD_PARALLEL_LEVEL = "8"
MAX_JOBS = "0"
TINY_COMMAND = "echo '${PN}|${PARALLEL_MAKE}|${PARALLEL_MAKEINST}|${BB_NUMBER_THREADS}|${XZ_THREADS}|${ZSTD_THREADS}|\\
${BAZEL_JOBS}|${CARGO_BUILD_JOBS}|${GOMAXPROCS}|${GO_PARALLEL}|${NINJAFLAGS}|${CMAKE_BUILD_PARALLEL_LEVEL}|${MAX_JOBS}|'\\
$CARGO_BUILD_JOBS >> ${TOPDIR}/knobs"
"""
    built = build(bitbake, tmp_path, ON + conf, "-c", "compile", "tiny-07", prefix=inside)
    assert built.result.returncode == 0, built.result.output
    first, single, last = (built.of("grant", recipe, "do_compile")[0] for recipe in ("tiny-01", "tiny-02", "tiny-07"))
    assert (single["jobs"], single["wanted_jobs"]) == (1, 1)
    # How many depends on the CPUs of this machine.
    assert all(1 < grant["jobs"] < grant["wanted_jobs"] == 8 for grant in (first, last))
    assert built.of("build_end")[0]["shrunk"] >= 2

    def lowered(jobs: int) -> str:
        return f"-j{jobs}|{min(4, jobs)}|{jobs}|2|--jobs={jobs}|{jobs}|1|-p {jobs}|-v -j{jobs}|{jobs}|{jobs}|{jobs}"

    assert built.lines("knobs") == [
        f"tiny-01|-j {first['jobs']} -l 20|{lowered(first['jobs'])}",
        "tiny-02|-j 1|-j8|4|8|2|--jobs=8|8|1|-p 8|-v -j8|8|0|8",
        f"tiny-07|-j 2|{lowered(last['jobs'])}",
    ]


@pytest.mark.memcg
def test_multiconfigs_share_one_memory(bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]) -> None:
    """The same heavy recipe of two multiconfigs is held and shrunk like any two tasks.

    Of the 1.7 GiB that are free, sixteen jobs never fit, and beside one of the tasks even one job of the other does
    not, whatever light tasks that have just started are charged with meanwhile.
    """
    conf = 'MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=900M,per_job=225M"\nTINY_LOG = "${TOPDIR}/tiny.log"\n'
    conf += 'PARALLEL_MAKE = "-j 16"\n'
    configs = {name: f'TMPDIR = "${{TOPDIR}}/tmp-{name}"' for name in ("one", "two")}
    targets = ("mc:one:tiny-01", "mc:two:tiny-01")
    built = build(bitbake, tmp_path, ON + watchful(2, held=1) + conf, *targets, prefix=inside, multiconfigs=configs)
    assert built.result.returncode == 0, built.result.output
    assert not (tmp_path / "met").exists()
    assert len(built.lines("jobs")) == 2
    assert set(built.lines("jobs")) <= {f"tiny-01 -j {jobs}" for jobs in range(1, 16)}
    assert {event["mc"] for event in built.of("grant", "tiny-01", "do_compile")} == {"one", "two"}
    assert {event["mc"] for event in built.of("hold", "tiny-01")} <= {"one", "two"}
    assert built.of("hold", "tiny-01")


@pytest.mark.memcg
def test_sstate_covers_what_would_never_fit(bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]) -> None:
    """A covered task is neither held nor run, however heavy; real tasks run beside setscene tasks.

    In a second build all is up to date: nothing is held or granted, and nothing is said of any task.
    """
    conf = """\
INHERIT += "fake_sstate"
FAKE_SSTATE = "tiny-01"
TINY_SECONDS:pn-tiny-01 = "2"
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=64G do_install:base=64G"
MEMGUARD_FOOTPRINT:pn-tiny-03 = "do_compile:base=1G"
MEMGUARD_FOOTPRINT:pn-tiny-07 = "do_compile:base=1G"
"""
    built = build(bitbake, tmp_path, ON + watchful(2) + conf, "tiny-03", "tiny-07", prefix=inside)
    assert built.result.returncode == 0, built.result.output
    ran = built.lines("tmp/tiny.log")
    assert "tiny-01 setscene" in ran
    assert not {"tiny-01 configure", "tiny-01 compile", "tiny-01 install"} & set(ran)
    assert {"tiny-03 compile", "tiny-07 compile"} <= set(ran)
    assert not built.of("hold", "tiny-01")
    assert not built.of("grant", "tiny-01")
    again = build(bitbake, tmp_path, ON + watchful(2) + conf, "tiny-03", "tiny-07", prefix=inside)
    assert again.result.returncode == 0, again.result.output
    assert [event["event"] for event in again.events] == ["build_start", "build_end"]


@pytest.mark.memcg
def test_a_storm_of_setscene_tasks_stays_below_the_limit(bitbake: BitBake, tmp_path: Path) -> None:
    """Of 64 results in sstate, for as many threads, as many are unpacked at once as fit into 1 GiB, and all are."""
    names = [f"storm-{number:02}" for number in range(64)]
    layer = tmp_path / "meta-storm"
    (layer / "conf").mkdir(parents=True)
    (layer / "conf" / "layer.conf").write_text(
        'BBFILES += "${LAYERDIR}/*.bb"\nBBFILE_COLLECTIONS += "storm"\nBBFILE_PATTERN_storm = "^${LAYERDIR}/"\n'
        'LAYERSERIES_COMPAT_storm = "scarthgap whinlatter wrynose blacksail"\n'
    )
    for name in (*names, "storm-end"):
        (layer / f"{name}_1.0.bb").write_text("require recipes-tiny/tiny/tiny.inc\n")
    conf = f"""\
INHERIT += "fake_sstate"
BB_NUMBER_THREADS = "64"
FAKE_SSTATE = "{" ".join(names)}"
FAKE_SSTATE_MIB = "50"
TINY_SECONDS = "2"
DEPENDS:pn-storm-end = "{" ".join(names)}"
"""
    try:
        with container(GIB, "memguard-test") as box:
            builddir.make(tmp_path, [META_TEST, META_MEMGUARD, layer], ON + conf)
            result = builddir.run(bitbake, tmp_path, "storm-end", prefix=box.prefix)
            kills = box.oom_kills
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 0, result.output
    built = Built(tmp_path, result, read_events(tmp_path))
    assert kills == 0
    assert {f"{name} setscene" for name in names} <= set(built.lines("tmp/tiny.log"))
    assert not built.of("grant", "storm-00")
    assert re.search(r"memguard: \d+ setscene tasks wait for memory: one is expected", result.output)
    (end,) = built.of("build_end")
    # For each that ends one may begin before anybody has looked: the kill mark is never touched, and none is lost.
    (start,) = built.of("build_start")
    assert end["peak_bytes"] < GIB - start["reserve_bytes"] // 4
    assert not re.search(r"memguard: .*killed \d+ job", result.output)


def test_what_never_fits_runs_alone(bitbake: BitBake, tmp_path: Path) -> None:
    """Tasks larger than any limit run one by one with one job: nothing is active, so something must start."""
    conf = "".join(
        f'MEMGUARD_FOOTPRINT:pn-tiny-{pn} = "do_compile:base=100T,per_job=1T do_install:base=100T"\n'
        for pn in ("01", "02", "07")
    )
    built = build(bitbake, tmp_path, ON + watchful(3) + conf, "tiny-01", "tiny-02", "tiny-07")
    assert built.result.returncode == 0, built.result.output
    assert sorted(built.lines("jobs")) == ["tiny-01 -j 1", "tiny-02 -j 1", "tiny-07 -j 1"]
    assert not (tmp_path / "met").exists()
    assert "never ran" not in built.result.output
    assert re.search(r"WARNING: memguard: tiny-0\d do_compile is expected to need 103424\.0 GiB", built.result.output)
    assert built.of("build_end")[0]["forced"] == 6


ALL_TINY = [f"tiny-{number:02}" for number in range(1, 11)]
# Some that depend on each other, and some that nobody needs.
SIX_TINY = [*ALL_TINY[:5], "tiny-07"]
SAY_JOBS = "TINY_COMMAND = \"echo '${PN} ${PARALLEL_MAKE} ${BB_NUMBER_THREADS}' >> ${TOPDIR}/jobs\"\n"
# Nobody ends before the other one has begun.
TOGETHER = 'TINY_COMMAND:prepend = "tiny_await 2 compile ${TINY_LOG}; "\n'


def test_without_pressure_everything_is_as_in_stock(bitbake: BitBake, tmp_path: Path) -> None:
    """Far below the limit, BitBake starts the same tasks in the same order with the same jobs as without memguard."""
    one_by_one = SAY_JOBS + 'BB_NUMBER_THREADS = "1"\nPARALLEL_MAKE:pn-tiny-04 = "-j1"\nPARALLEL_MAKE:pn-tiny-05 = ""\n'
    stock = build(bitbake, tmp_path / "stock", one_by_one, *SIX_TINY)
    guarded = build(bitbake, tmp_path / "guarded", ON + one_by_one, *SIX_TINY)
    assert stock.result.returncode == guarded.result.returncode == 0
    assert len(stock.order()) == 36
    assert guarded.order() == stock.order()
    assert guarded.lines("jobs") == stock.lines("jobs")
    assert not guarded.of("hold")
    assert len(guarded.of("grant")) == 30
    assert stock.events == []
    assert not (stock.directory / "memguard").exists()


def test_rm_work_keeps_its_order(bitbake: BitBake, tmp_path: Path) -> None:
    """With rm_work inherited, recipes are completed in the same order as without memguard, which is not speed's."""
    rm_work = 'INHERIT += "rm_work"\nBB_NUMBER_THREADS = "1"\n'
    stock = build(bitbake, tmp_path / "stock", rm_work, *SIX_TINY)
    guarded = build(bitbake, tmp_path / "guarded", ON + rm_work, *SIX_TINY)
    speed = build(bitbake, tmp_path / "speed", rm_work + 'BB_SCHEDULER = "memguard"\n' + ON, *SIX_TINY)
    assert stock.result.returncode == guarded.result.returncode == speed.result.returncode == 0
    assert guarded.order() == stock.order()
    assert speed.order() != stock.order()
    assert "observes" not in guarded.result.output
    assert len(guarded.of("grant")) == 36


def test_bitbakes_own_brakes_are_kept(bitbake: BitBake, tmp_path: Path) -> None:
    """BB_LOADFACTOR_MAX still holds tasks back, and BB_TASK_NICE_LEVEL still lowers them."""
    lower = os.nice(0) + 3
    brakes = f'BB_LOADFACTOR_MAX = "0.000001"\nBB_TASK_NICE_LEVEL = "{lower}"\nBB_NUMBER_THREADS = "4"\n'
    say_nice = watchful().replace("'${PN} ${PARALLEL_MAKE}'", "$(nice)")
    built = build(bitbake, tmp_path, ON + brakes + say_nice, *ALL_TINY[:3])
    assert built.result.returncode == 0, built.result.output
    assert built.lines("jobs") == [str(lower)] * 3
    assert not (tmp_path / "met").exists()


def test_signatures_are_the_same_with_and_without(bitbake: BitBake, tmp_path: Path) -> None:
    """Signature dumps and stamps are identical without the layer, with the layer, and with memguard switched on."""
    heavy = 'MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=64M,per_job=100T"\n'
    found = {}
    for name, layers, conf in (
        ("without", [META_TEST], ""),
        ("layer", [META_TEST, META_MEMGUARD], ""),
        ("on", [META_TEST, META_MEMGUARD], ON + heavy),
    ):
        directory = builddir.make(tmp_path / name, layers, conf)
        dump = builddir.run(bitbake, directory, "-S", "none", *SIX_TINY)
        assert dump.returncode == 0, dump.output
        found[name] = _stamps(directory)
        assert len(found[name]) >= 30
        if name != "layer":
            assert builddir.run(bitbake, directory, *SIX_TINY).returncode == 0
            found[f"{name}, built"] = _stamps(directory)
    assert found["layer"] == found["without"]
    assert found["on"] == found["without"]
    assert found["on, built"] == found["without, built"]
    assert found["on, built"] != found["on"]


def _stamps(directory: Path) -> set[str]:
    """Stamps and signature files of a build directory; their names end in the task's hash."""
    stamps = directory / "tmp" / "stamps"
    return {str(path.relative_to(stamps)) for path in stamps.rglob("*") if path.is_file()}


def test_observe_says_what_it_would_do_and_does_nothing(bitbake: BitBake, tmp_path: Path) -> None:
    """In observe mode two tasks that do not fit start together with all their jobs, and both verdicts are recorded."""
    conf = 'MEMGUARD_MODE = "observe"\nBB_NUMBER_THREADS = "4"\n' + SAY_JOBS + TOGETHER
    conf += "".join(f'MEMGUARD_FOOTPRINT:pn-tiny-{pn} = "do_compile:base=1G,per_job=100T"\n' for pn in ("01", "02"))
    built = build(bitbake, tmp_path, ON + conf, "tiny-01", "tiny-02")
    assert built.result.returncode == 0, built.result.output
    assert sorted(built.lines("jobs")) == ["tiny-01 -j 4 4", "tiny-02 -j 4 4"]
    starts = [event["time"] for event in built.of("start", task="do_compile")]
    ends = [event["time"] for event in built.of("end", task="do_compile")]
    assert max(starts) < min(ends)
    assert {event["observed"] for event in built.of("hold", task="do_compile")} == {True}
    assert not built.of("release")
    assert "memguard: would hold tiny-0" in built.result.output
    assert "would have held" in built.result.output


def test_off_leaves_no_trace(bitbake: BitBake, tmp_path: Path) -> None:
    """With mode off nothing is written, said or held."""
    built = build(bitbake, tmp_path, ON + 'MEMGUARD_MODE = "off"\n', "tiny-01")
    assert built.result.returncode == 0, built.result.output
    # The paths of recipes that BitBake prints may have the word in them.
    assert "memguard" not in built.result.output.replace(str(REPOSITORY), "").replace(str(tmp_path), "")
    assert not (tmp_path / "memguard").exists()


def test_a_scheduler_of_the_users_own_stands(bitbake: BitBake, tmp_path: Path) -> None:
    """With a BB_SCHEDULER set by the user memguard warns, holds nothing, and still records starts and ends."""
    conf = 'BB_SCHEDULER = "speed"\nMEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=100T"\n'
    built = build(bitbake, tmp_path, ON + conf, "tiny-01", "tiny-02")
    assert built.result.returncode == 0, built.result.output
    assert 'WARNING: memguard: BB_SCHEDULER = "speed" is set, so memguard only observes' in built.result.output
    assert len(built.of("start")) == len(built.of("end")) == 10
    assert not built.of("hold")
    assert not built.of("grant")


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ('MEMGUARD_LIMIT = "12 potatoes"', ['MEMGUARD_LIMIT = "12 potatoes"', 'MEMGUARD_LIMIT = "12G"']),
        ('MEMGUARD_RESERVE = "-1G"', ['MEMGUARD_RESERVE = "-1G"', 'MEMGUARD_RESERVE = "1G"']),
        ('MEMGUARD_RESERVE = "900T"', ['MEMGUARD_RESERVE = "900T"', "the limit is", 'MEMGUARD_RESERVE = "10%"']),
        ('MEMGUARD_MODE = "maybe"', ['MEMGUARD_MODE = "maybe"', "enforce, observe, off", '"observe"']),
        ('MEMGUARD_FOOTPRINT:pn-x = "lots"', ['MEMGUARD_FOOTPRINT:pn-x = "lots"', "do_compile:base=200M"]),
    ],
)
def test_wrong_configuration_is_one_error_at_parse(
    bitbake: BitBake, tmp_path: Path, conf: str, words: list[str]
) -> None:
    """A variable that cannot be used ends BitBake with one sentence: variable, value and a good example."""
    built = build(bitbake, tmp_path, ON + conf + "\n", "-p")
    assert built.result.returncode != 0
    errors = [line for line in built.result.output.splitlines() if line.startswith("ERROR: memguard: ")]
    assert len(errors) == 1, built.result.output
    for word in words:
        assert word in errors[0]
    assert "Traceback" not in built.result.output


def test_a_fault_inside_memguard_costs_one_warning(bitbake: BitBake, tmp_path: Path) -> None:
    """A bug in memguard's decisions: one warning, the traceback in a file, and the build ends as stock would."""
    conf = 'INHERIT += "break_memguard"\nMEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=64M,per_job=100T"\n'
    built = build(bitbake, tmp_path, ON + SAY_JOBS + conf, *SIX_TINY)
    assert built.result.returncode == 0, built.result.output
    warnings = [line for line in built.result.output.splitlines() if line.startswith("WARNING:")]
    assert len(warnings) == 1
    assert "memguard: internal error, the build goes on as stock" in warnings[0]
    (fault,) = (tmp_path / "memguard").glob("fault-*.txt")
    assert str(fault) in warnings[0]
    assert "RuntimeError: a planted fault" in fault.read_text(encoding="utf-8")
    assert "tiny-01 -j 4 4" in built.lines("jobs")


def test_changed_settings_need_no_new_parse(bitbake: BitBake, tmp_path: Path) -> None:
    """Changing memguard's variables leaves BitBake's cache of parsed recipes valid."""
    for conf in (
        'MEMGUARD_RESERVE = "1G"\n',
        'MEMGUARD_RESERVE = "2G"\nMEMGUARD_FOOTPRINT:pn-a = "do_compile:base=1G"\n',
    ):
        built = build(bitbake, tmp_path, ON + conf, "-p")
        assert built.result.returncode == 0, built.result.output
        parsed = re.search(r"(\d+) parsed", built.result.output)
    assert "Loaded 10 entries from dependency cache" in built.result.output
    assert parsed is None


def test_two_builds_of_one_server_are_told_apart(bitbake: BitBake, tmp_path: Path) -> None:
    """A server that stays for the next build gives it a log and a ledger of its own, and ends when told.

    No build leaves it with the files of the kernel that were read.
    """
    conf = ON + 'MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=100T"\n'
    builddir.make(tmp_path, [META_TEST, META_MEMGUARD], conf)
    env = environment(bitbake, tmp_path, BB_SERVER_TIMEOUT="60")
    for recipe in ("tiny-01", "tiny-02"):
        command = [sys.executable, str(bitbake.tree / "bin" / "bitbake"), recipe]
        subprocess.run(command, cwd=tmp_path, env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert len(list((tmp_path / "memguard" / "events").glob("*.jsonl"))) == 2
    server = psutil.Process(int((tmp_path / "bitbake.lock").read_text().split()[0]))
    assert [file.path for file in server.open_files() if file.path.startswith(("/sys/", "/proc/"))] == []
    ended = builddir.run(bitbake, tmp_path, "-m")
    assert ended.leftover == ()
    built = Built(tmp_path, ended, read_events(tmp_path))
    assert {event["recipe"] for event in built.of("grant")} == {"tiny-02"}
    assert built.of("build_end")[0]["forced"] == 0


# Long enough to be looked at, also where looks are late.
HOLDS = """\
TINY_COMMAND = "python3 -c 'import time; held = bytes(1) * (300 << 20); time.sleep(2.5)'"
PARALLEL_MAKE:pn-tiny-02 = "-j 3"
"""


def remembered(directory: Path, task: str = "do_compile") -> dict[str, list[Record]]:
    """The records of one task in the history of a build directory, by recipe, newest first."""
    history = History(directory / "memguard" / "history.db", warn=pytest.fail, is_read_only=True)
    samples = history.latest([f"tiny-{number:02}" for number in range(1, 11)])
    history.close()
    return {recipe: [sample.record for sample in found] for (recipe, name), found in samples.items() if name == task}


@pytest.mark.memcg
def test_a_build_learns_what_its_tasks_took(bitbake: BitBake, tmp_path: Path, inside: tuple[str, ...]) -> None:
    """The first build goes by the kind of recipe, the second by what the first has seen, and both are remembered.

    A recipe whose task grows with the version is known by its version, and the summary names the heaviest task.
    """
    conf = ON + HOLDS + 'PACKAGE_ARCH = "core2-64"\n'
    first = build(bitbake, tmp_path, conf, "tiny-02", prefix=inside)
    assert first.result.returncode == 0, first.result.output
    assert re.search(r"memguard: heaviest: tiny-02 do_compile 3\d\d MiB", first.result.output)
    (grant,) = first.of("grant", "tiny-02", "do_compile")
    assert grant["origin"] != "history"
    ((record,),) = [remembered(tmp_path)["tiny-02"]]
    assert (record.version, record.machine, record.jobs, record.outcome) == ("1.0", "core2-64", 3, Outcome.OK)
    assert record.peak_bytes is not None
    assert 300 << 20 < record.peak_bytes < 400 << 20
    assert 300 << 20 < record.largest_process_bytes <= record.peak_bytes
    assert record.wall_s > 1
    assert record.cpu_s > 0
    shutil.rmtree(tmp_path / "tmp")
    second = build(bitbake, tmp_path, conf, "tiny-02", prefix=inside)
    assert second.result.returncode == 0, second.result.output
    (grant,) = second.of("grant", "tiny-02", "do_compile")
    assert grant["origin"] == "history"
    assert record.peak_bytes < grant["bytes"] < 2 * record.peak_bytes
    assert len({record.build for record in remembered(tmp_path)["tiny-02"]}) == 2


def test_a_build_learns_what_single_jobs_took(bitbake: BitBake, tmp_path: Path) -> None:
    """Of a task with a pool each compiler is remembered by what it builds, the same one in the next build, too."""
    programs = compilers.build(tmp_path)
    units = {f"unit{number}.o": 20 + 20 * number for number in range(4)}
    rules = [f"{name}:\n\t{programs}/cc1plus -o $@ -p 0.3:{mib},2.0:{mib}" for name, mib in units.items()]
    (tmp_path / "units.mk").write_text("\n".join([f"all: {' '.join(units)}", *rules, ""]), encoding="ascii")
    conf = ON + 'TINY_COMMAND = "make -f ${TOPDIR}/units.mk ${PARALLEL_MAKE}"\nPARALLEL_MAKE = "-j 4"\n'
    for _ in range(2):
        built = build(bitbake, tmp_path, conf, "tiny-02")
        assert built.result.returncode == 0, built.result.output
        log = tmp_path / "tmp" / "work" / "tiny-02" / "1.0" / "temp" / "log.do_compile"
        assert "jobs come from a pool" in log.read_text(encoding="utf-8")
        history = History(tmp_path / "memguard" / "history.db", warn=pytest.fail, is_read_only=True)
        lives = Lives(history.lives("tiny-02", "do_compile"))
        history.close()
        shutil.rmtree(tmp_path / "tmp")
        assert len(lives) == 4
        for name, mib in units.items():
            words = ["cc1plus", "-o", name, "-p", f"0.3:{mib},2.0:{mib}", ""]
            life = lives.of(unit_of("\0".join(words).encode()))
            assert life is not None
            assert mib << 20 <= life.peak_bytes < (mib + 8) << 20
            # It is never shorter; on a busy machine it, or the look that misses it, comes late.
            assert 1.5 < life.wall_s < 60


@pytest.mark.parametrize("victim", ["sentinel", "server", "sentinel-stopped"])
def test_a_kill_of_sentinel_or_server_leaves_nothing(bitbake: BitBake, tmp_path: Path, victim: str) -> None:
    """Without its sentinel, or with one that hangs, a build goes on with another, with one warning.

    Without its server the sentinel ends.
    Both can go on; after a server that was killed the next build says so, once.
    """
    conf = ON + 'INHERIT += "sentinel_patience"\nSENTINEL_HUNG_S = "6"\n'
    conf += 'TINY_COMMAND:pn-tiny-01 = "tiny_await 1 go ${TOPDIR}/go"\n'
    killed = threading.Event()

    def kill() -> None:
        until(lambda: watched(tmp_path, "tiny-01 do_compile"))
        (sentinel,) = sentinels(tmp_path)
        if victim == "server":
            server = sentinel.parent()
            assert server is not None
            server.kill()
            until(lambda: not sentinels(tmp_path))
            # BitBake's command asks its server only after half a minute.
            (client,) = (child for child in psutil.Process().children() if "bitbake" in " ".join(child.cmdline()))
            client.kill()
        else:
            sentinel.suspend() if victim == "sentinel-stopped" else sentinel.kill()
            until(lambda: any(other.pid != sentinel.pid for other in sentinels(tmp_path)))
        killed.set()

    def kill_and_go_on() -> None:
        try:
            kill()
        finally:
            (tmp_path / "go").write_text("go\n", encoding="ascii")

    killer = threading.Thread(target=kill_and_go_on)
    killer.start()
    builddir.make(tmp_path, [META_TEST, META_MEMGUARD], conf)
    ended = builddir.run(bitbake, tmp_path, "tiny-01")
    killer.join()
    assert killed.is_set(), ended.output
    assert sentinels(tmp_path) == []
    assert ended.leftover == ()
    if victim != "server":
        assert ended.returncode == 0, ended.output
        assert ended.output.count("WARNING: memguard: the sentinel failed") == 1
    again = build(bitbake, tmp_path, conf, "tiny-02")
    assert again.result.returncode == 0, again.result.output
    warnings = [line for line in again.result.output.splitlines() if "WARNING: memguard" in line]
    if victim == "server":
        assert len(warnings) == 1
        assert "the last build here was killed" in warnings[0]
        assert "tiny-01 do_compile" in warnings[0]
    else:
        assert warnings == []
    assert "tiny-02" in remembered(tmp_path)


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, for as long as a busy machine may take."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def watched(directory: Path, name: str) -> bool:
    """Whether the sentinel of a build says that it watches a task."""
    state = StateFile(directory / "memguard").left()
    return state is not None and any(task.name == name for task in state.tasks.values())


def test_a_history_that_is_none_costs_a_warning(bitbake: BitBake, tmp_path: Path) -> None:
    """A corrupt database is moved aside with one warning and the build is remembered; no history is no file."""
    (tmp_path / "memguard").mkdir()
    (tmp_path / "memguard" / "history.db").write_bytes(b"SQLite format 3\0" + b"junk" * 4000)
    built = build(bitbake, tmp_path, ON, "tiny-01")
    assert built.result.returncode == 0, built.result.output
    warnings = [line for line in built.result.output.splitlines() if "WARNING: memguard" in line]
    assert len(warnings) == 1
    assert "history.db" in warnings[0]
    assert list((tmp_path / "memguard").glob("history.db.corrupt-*"))
    assert "tiny-01" in remembered(tmp_path)
    without = build(bitbake, tmp_path / "without", ON + 'MEMGUARD_HISTORY = ""\n', "tiny-01")
    assert without.result.returncode == 0, without.result.output
    assert "remembered" not in without.result.output
    assert sorted(path.name for path in (tmp_path / "without" / "memguard").iterdir()) == ["events", "readings"]
