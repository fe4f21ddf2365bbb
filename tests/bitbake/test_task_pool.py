# SPDX-License-Identifier: MIT
"""Tasks of real BitBake that take their jobs from a pool, which the test regulates in the sentinel's place."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memguard.act.token_pool import Pool, make_pool
from testbed import builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST
from testbed.jobs import Jobs, NotHere, find_make, find_ninja, write_cmake, write_makefile, write_ninja

META_MEMGUARD = Path(__file__).resolve().parents[2] / "meta-memguard"

CONF = """\
INHERIT += "pool_by_hand"
MEMGUARD_DIR = "${TOPDIR}/memguard"
MEMGUARD_JOBSERVER = "auto"
PATH:prepend = "${TOPDIR}/tools:"
PARALLEL_MAKE = "-j 2"
"""


class Regulator(threading.Thread):
    """Finds the pools of a build, and gives each of them its tokens until the build has ended."""

    def __init__(self, directory: Path, tokens: int) -> None:
        super().__init__(daemon=True)
        self.seen: list[str] = []
        self.held = 0
        self._folder, self._tokens = directory / "memguard" / "pools", tokens
        self._pools: dict[Path, Pool] = {}
        self._is_over = threading.Event()

    def run(self) -> None:
        """Look for new pools, and regulate those there are."""
        while not self._is_over.wait(0.02):
            for path in self._folder.glob("*"):
                if path not in self._pools:
                    self._pools[path] = Pool(str(path))
                    self.seen.append(path.name)
            for pool in self._pools.values():
                pool.set_tokens(self._tokens)
                self.held = max(self.held, pool.held)

    def __enter__(self) -> Regulator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()
        for pool in self._pools.values():
            pool.close()


@dataclass
class Place:
    """A build directory, and the jobs that its tasks run."""

    directory: Path
    jobs: Jobs
    tools: Path
    output: str = field(default="")

    def build(self, bitbake: BitBake, conf: str, tokens: int, *targets: str, prefix: Sequence[str] = ()) -> Regulator:
        """Build with this many tokens for each pool; asserts that all goes well and nothing is left."""
        builddir.make(self.directory, [META_TEST, META_MEMGUARD], CONF + conf)
        with Regulator(self.directory, tokens) as regulator:
            result = builddir.run(bitbake, self.directory, *targets, prefix=prefix)
        self.output = result.output
        assert result.returncode == 0, result.output
        assert result.leftover == ()
        assert not list(self.directory.glob("memguard/pools/*"))
        return regulator

    def said(self, recipe: str, task: str = "do_compile") -> str:
        """The log of a task."""
        return (self.directory / "tmp" / "work" / recipe / "1.0" / "temp" / f"log.{task}").read_text(encoding="utf-8")

    def script(self, recipe: str, task: str = "do_compile") -> str:
        """The script of a task."""
        return (self.directory / "tmp" / "work" / recipe / "1.0" / "temp" / f"run.{task}").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty build directory with jobs, whose `tools` come first in the PATH of its tasks."""
    tools = tmp_path / "tools"
    tools.mkdir()
    return Place(tmp_path, Jobs(tmp_path), tools)


def new_make() -> Path:
    """GNU make 4.4, or skip."""
    try:
        return find_make()
    except NotHere as missing:
        pytest.skip(str(missing))


def make_cmake(folder: Path, generator: str, job: str, count: int, *options: str) -> None:
    """A build directory that CMake has configured."""
    write_cmake(folder, job, count)
    command = ["cmake", "-G", generator, *options, "-S", str(folder), "-B", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_few_descriptors_are_enough(bitbake: BitBake, place: Place) -> None:
    """Under `ulimit -n 64` a make that wants two descriptors gets its pool, too."""
    write_makefile(place.directory / "src", place.jobs.command(100), 8)
    conf = 'TINY_COMMAND:pn-tiny-01 = "make -C ${TOPDIR}/src ${PARALLEL_MAKE}"'
    regulator = place.build(bitbake, conf, 3, "tiny-01", prefix=("sh", "-c", 'ulimit -n 64; exec "$0" "$@"'))
    assert "jobs come from a pool" in place.said("tiny-01")
    assert len(regulator.seen) == 1


def test_make_takes_a_tasks_jobs_from_its_pool(bitbake: BitBake, place: Place) -> None:
    """The system's make, by whichever form it knows, runs more jobs than its recipe asks for; others are as ever.

    The first asks for eight, of which its grant has left one. The others: one that wants one job, one that sets
    MAKEFLAGS, one that is opted out, one whose pool nobody serves, one that may run no more than one, and one whose
    make is called by CMake.
    """
    write_makefile(place.directory / "src", place.jobs.command(200, at_once=6), 24)
    most = {"one": 1, "flags": 2, "off": 2, "refused": 2, "single": 2, "cmake": 6}
    for name, at_once in most.items():
        folder = place.directory / name
        folder.mkdir()
        command = place.jobs.command(100, at_once, folder / "jobs.log")
        if name == "cmake":
            make_cmake(folder, "Unix Makefiles", command, 24)
        else:
            write_makefile(folder, command, 8)
    conf = """
TINY_COMMAND:pn-tiny-01 = "make -C ${TOPDIR}/src ${PARALLEL_MAKE}; env > ${TOPDIR}/env"
PARALLEL_MAKE:pn-tiny-01 = "-j 1"
TINY_COMMAND:pn-tiny-02 = "make -C ${TOPDIR}/one ${PARALLEL_MAKE}"
PARALLEL_MAKE:pn-tiny-02 = ""
TINY_COMMAND:pn-tiny-03 = "MAKEFLAGS= make -C ${TOPDIR}/flags ${PARALLEL_MAKE}"
TINY_COMMAND:pn-tiny-04 = "make -C ${TOPDIR}/off ${PARALLEL_MAKE}"
MEMGUARD_JOBSERVER:pn-tiny-04 = "off"
TINY_COMMAND:pn-tiny-05 = "make -C ${TOPDIR}/refused ${PARALLEL_MAKE}"
POOL_REFUSED:pn-tiny-05 = "1"
TINY_COMMAND:pn-tiny-06 = "make -C ${TOPDIR}/single ${PARALLEL_MAKE}"
POOL_JOBS:pn-tiny-06 = "1"
TINY_COMMAND:pn-tiny-07 = "cmake --build ${TOPDIR}/cmake"
OECMAKE_GENERATOR:pn-tiny-07 = "Unix Makefiles"
export CMAKE_BUILD_PARALLEL_LEVEL = "7"
BB_NUMBER_THREADS = "1"
"""
    recipes = [f"tiny-0{number}" for number in range(1, 8)]
    regulator = place.build(bitbake, conf, 5, *recipes)
    assert regulator.held == 5
    assert place.jobs.most() == 6
    assert "jobs come from a pool" in place.said("tiny-01")
    assert "warning" not in place.said("tiny-01")
    environment = (place.directory / "env").read_text()
    assert "MAKEFLAGS= -j8 --jobserver-auth=" in environment
    assert "CMAKE_BUILD_PARALLEL_LEVEL" not in environment
    for recipe, (name, at_once) in enumerate(most.items(), 2):
        place.jobs.log = place.directory / name / "jobs.log"
        assert place.jobs.most() == at_once, name
        assert ("jobs come from a pool" in place.said(f"tiny-0{recipe}")) == (name in ("refused", "cmake"))
    assert "unset CMAKE_BUILD_PARALLEL_LEVEL" not in place.script("tiny-05")


def test_fifos_serve_all_that_know_them(bitbake: BitBake, place: Place) -> None:
    """With make 4.4 and ninja 1.13, make, ninja, cmake and one that calls the other share their task's pool."""
    try:
        ninja = find_ninja()
    except NotHere as missing:
        pytest.skip(str(missing))
    for name, program in (("make", new_make()), ("gmake", new_make()), ("ninja", ninja)):
        (place.tools / name).symlink_to(program)
    logs = {}
    for name in ("make", "ninja", "cmake", "nested"):
        folder = place.directory / name
        folder.mkdir()
        logs[name] = folder / "jobs.log"
        job = place.jobs.command(200, 5, logs[name])
        if name == "make":
            write_makefile(folder, job, 24)
        elif name == "ninja":
            write_ninja(folder, [job] * 24)
        elif name == "cmake":
            make_cmake(folder, "Ninja", job, 24, f"-DCMAKE_MAKE_PROGRAM={ninja}")
        else:
            for part in ("a", "b"):
                write_makefile(folder / part, job, 12)
            write_ninja(folder, [f"{place.tools}/make -C {folder}/{part}" for part in ("a", "b")])
    conf = """
TINY_COMMAND:pn-tiny-01 = "make -C ${TOPDIR}/make ${PARALLEL_MAKE}"
TINY_COMMAND:pn-tiny-02 = "ninja -C ${TOPDIR}/ninja -v ${PARALLEL_MAKE}"
TINY_COMMAND:pn-tiny-03 = "cmake --build ${TOPDIR}/cmake"
OECMAKE_GENERATOR:pn-tiny-03 = "Ninja"
export CMAKE_BUILD_PARALLEL_LEVEL = "2"
TINY_COMMAND:pn-tiny-04 = "ninja -C ${TOPDIR}/nested ${PARALLEL_MAKE}"
BB_NUMBER_THREADS = "1"
"""
    place.build(bitbake, conf, 4, *(f"tiny-0{number}" for number in range(1, 5)))
    for number, name in enumerate(logs, 1):
        assert "jobs come from a pool (fifo" in place.said(f"tiny-0{number}")
        place.jobs.log = logs[name]
        assert place.jobs.began == 24, name
        assert place.jobs.most() == 5, name


def test_a_build_clears_what_a_killed_one_has_left(bitbake: BitBake, place: Place) -> None:
    """Pools that nobody serves any more are removed, and what was known of tools is forgotten."""
    memguard = place.directory / "memguard"
    make_pool(f"{memguard}/pools/1-1")
    (memguard / "tools").mkdir()
    (memguard / "tools" / "old").touch()
    builddir.make(place.directory, [META_TEST, META_MEMGUARD], 'INHERIT += "memguard"')
    result = builddir.run(bitbake, place.directory, "tiny-01")
    assert result.returncode == 0, result.output
    assert result.leftover == ()
    assert not (memguard / "pools").exists()
    assert not (memguard / "tools").exists()
