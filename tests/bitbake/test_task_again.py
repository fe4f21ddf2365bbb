# SPDX-License-Identifier: MIT
"""Inside real BitBake: a task whose compiler was killed for memory runs again, and no other task does."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from memguard.decide import run_again
from memguard.sense.container import Sensor
from testbed import builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST, Result
from testbed.container import NoContainer, container
from testbed.sentinels import sentinels

TESTS = Path(__file__).resolve().parents[1]
META_AGAIN = TESTS / "bitbake" / "meta-again"
META_MEMGUARD = TESTS.parent / "meta-memguard"

ON = 'INHERIT += "memguard"\n'
NUMBERS = ON + 'MEMGUARD_JOBSERVER = "off"\n'
OBJECTS = [f"{name}.o" for name in "abcdefgh"]


def build(
    bitbake: BitBake,
    directory: Path,
    conf: str,
    plan: dict[str, dict[str, str]],
    *arguments: str,
    prefix: Sequence[str] = (),
) -> Result:
    """Build with recipes whose compilers meet what `plan` says: by recipe and output, the fates one after the other."""
    for recipe, fates in plan.items():
        (directory / "plan" / recipe).mkdir(parents=True)
        for output, fate in fates.items():
            (directory / "plan" / recipe / output).write_text("".join(f"{word}\n" for word in fate.split()))
    builddir.make(directory, [META_TEST, META_AGAIN, META_MEMGUARD], conf)
    result = builddir.run(bitbake, directory, *arguments, prefix=prefix)
    assert result.leftover == ()
    assert not list(directory.glob("memguard/kills/*"))
    for left in directory.glob("plan/*/*"):
        assert left.read_text() == "", f"{left} was not reached"
    return result


def log_of(directory: Path, recipe: str) -> list[str]:
    """What a recipe's tasks and compilers said, in order."""
    lines = (directory / "again.log").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{recipe} ")]


def jobs_of(directory: Path, recipe: str) -> list[str]:
    """The runs of a recipe's tasks, in order, with the jobs that each was told."""
    return [line for line in log_of(directory, recipe) if line.startswith(("compile ", "install "))]


def task_log(directory: Path, recipe: str, task: str) -> str:
    """BitBake's log of a task."""
    return (directory / "tmp" / "work" / recipe / "1.0" / "temp" / f"log.{task}").read_text()


def warnings_of(result: Result) -> list[str]:
    """The warnings that the build showed, but that about its last line."""
    return re.findall(r"^WARNING: (.*)$", result.output, re.MULTILINE)


def jobs_after(jobs: int, retries: int = 2) -> list[int]:
    """The jobs of the runs that follow one with `jobs`, on this machine's CPUs."""
    return [attempt.jobs for attempt in run_again.plan(jobs, retries, int(Sensor().cpus().count))]


@pytest.mark.parametrize("has_pools", [False, True], ids=["numbers", "pools"])
def test_tasks_whose_compilers_were_killed_succeed_with_fewer_jobs(
    bitbake: BitBake, tmp_path: Path, has_pools: bool
) -> None:
    """Each task runs again with half as many jobs on top of what is there; one warning each, no error, exit status 0.

    Of the objects only those are made anew that were not finished; half ones are removed; the log tells all of it.
    """
    plan = {
        "again-make": {"c.o": "sentinel"},
        "again-killed": {"d.o": "kill kill", "program": "link"},
        "again-python": {"e.o": "sentinel"},
        "again-install": {"f.o": "sentinel"},
        "again-ignored": {"g.o": "sentinel"},
    }
    result = build(bitbake, tmp_path, ON if has_pools else NUMBERS, plan, *plan)
    assert result.returncode == 0, result.output
    assert "ERROR" not in result.output
    told = Counter(re.match(r"(?:\S+ do_\w+: )?memguard: (\S+) ", line)[1] for line in warnings_of(result))
    assert told == {"again-make": 1, "again-killed": 3, "again-python": 1, "again-install": 1, "again-ignored": 1}
    second, third, last = jobs_after(4)
    assert (
        "memguard: again-make do_compile: cc1plus was killed for memory at 3.8 GiB of 4.0 GiB; "
        f"runs again with {second} of 4 jobs (1 of 3)"
    ) in result.output
    for recipe in plan:
        made = Counter(line for line in log_of(tmp_path, recipe) if line in (*OBJECTS, "program"))
        # Whoever was in flight with the one that was killed had its object, and it stays.
        (killed,) = (name for name in plan[recipe] if name != "program")
        assert made.pop(killed) == (3 if recipe == "again-killed" else 2)
        program = made.pop("program")
        assert program == (2 if recipe == "again-killed" else 1)
        assert made == {name: 1 for name in OBJECTS if name != killed}
    jobs = {recipe: jobs_of(tmp_path, recipe) for recipe in plan}
    if has_pools:
        runs = {recipe: [line.split()[0] for line in lines] for recipe, lines in jobs.items()}
        assert runs["again-make"] == ["compile"] * 2 + ["install"]
        assert runs["again-killed"] == ["compile"] * 4 + ["install"]
        assert "jobs come from a pool" in task_log(tmp_path, "again-make", "do_compile")
        return
    compiles = [f"compile -j {jobs}" for jobs in (4, second, third, last)]
    assert jobs["again-make"] == [*compiles[:2], "install -j 4"]
    assert jobs["again-killed"] == [*compiles, "install -j 4"]
    assert jobs["again-python"] == [*compiles[:2], "install -j 4"]
    assert jobs["again-install"] == ["compile -j 4", "install -j 4 0", f"install -j {second} 0"]
    assert jobs["again-ignored"] == compiles[:2]
    assert [line for line in log_of(tmp_path, "kept")] == ["0", "1"]
    log = task_log(tmp_path, "again-make", "do_compile")
    assert log.index("Killed signal terminated program cc1") < log.index("c.o, which was not finished")
    begins, again = f"memguard: run 2 of 4 begins, with {second} of 4 jobs", f"runs again with {second} of 4 jobs"
    assert log.index(begins) > log.index(again)
    assert "ERROR: make failed in Python" in task_log(tmp_path, "again-python", "do_compile")


FAILING = {
    "again-make": {"c.o": "error"},
    "again-killed": {"d.o": "segfault"},
    "again-error": {"e.o": "error"},
    "again-python": {"f.o": "words"},
    "again-install": {"g.o": "words"},
}


def stripped(result: Result, directory: Path) -> dict[str, list[str]]:
    """What a build showed of each recipe, in order, without what differs between two runs of the same build."""
    shown: dict[str, list[str]] = {recipe: [] for recipe in FAILING}
    text = result.output.replace(str(directory), "BUILD")
    for line in text.splitlines():
        if "memguard: " in line:
            continue
        found = re.search(r"again-\w+", line)
        if found and found[0] in shown and not re.search(r"Running (?:noexec )?task|: Started$|: Succeeded$", line):
            shown[found[0]].append(re.sub(r"\b\d+\b", "N", line))
    return shown


def test_failures_that_are_not_about_memory_are_shown_as_in_stock(bitbake: BitBake, tmp_path: Path) -> None:
    """A failing source, a crash of a compiler, a program that prints "Killed": no second run, and every word of stock.

    Records come in the order in which they were logged.
    """
    conf = 'BB_NUMBER_THREADS = "1"\nPARALLEL_MAKE = "-j 1"\n'
    stock = build(bitbake, tmp_path / "stock", conf, FAILING, "-k", *FAILING)
    guarded = build(bitbake, tmp_path / "guarded", ON + conf, FAILING, "-k", *FAILING)
    assert stock.returncode == guarded.returncode == 1
    for recipe, shown in stripped(stock, tmp_path / "stock").items():
        assert shown == stripped(guarded, tmp_path / "guarded")[recipe]
        assert len([line for line in shown if line.startswith("ERROR")]) >= 2
        assert log_of(tmp_path / "stock", recipe) == log_of(tmp_path / "guarded", recipe)
    own = "\n".join(stripped(guarded, tmp_path / "guarded")["again-error"])
    records = re.findall(
        r"^(?:ERROR|WARNING): .*: (first|a warning|second|make failed)|^(plain words)", own, re.MULTILINE
    )
    assert [a or b for a, b in records] == ["first", "a warning", "plain words", "second", "make failed"]
    assert "runs again" not in guarded.output
    counted = [re.findall(r"Summary: There (?:was|were) .*", result.output) for result in (stock, guarded)]
    assert counted[0] == counted[1]
    assert counted[0]


def test_what_cannot_be_helped_fails_with_an_explanation(bitbake: BitBake, tmp_path: Path) -> None:
    """After the last run, and where there is to be none, the task fails as in stock, and a warning says why."""
    plan = {
        "again-make": {"c.o": "sentinel sentinel sentinel sentinel"},
        "again-killed": {"d.o": "sentinel"},
        "again-install": {"f.o": "kill"},
        "again-ignored": {"g.o": "sentinel sentinel sentinel"},
        "again-python": {"e.o": "kill error"},
    }
    conf = """\
PARALLEL_MAKE = "-j 2"
MEMGUARD_RETRIES:pn-again-killed = "0"
MEMGUARD_RETRY_TASKS:pn-again-install = "do_compile"
MEMGUARD_RETRIES:pn-again-ignored = "1"
"""
    result = build(bitbake, tmp_path, NUMBERS + conf, plan, "-k", *plan)
    assert result.returncode == 1
    jobs = {recipe: jobs_of(tmp_path, recipe) for recipe in plan}
    assert jobs["again-make"] == ["compile -j 2", *(f"compile -j {jobs}" for jobs in jobs_after(2))]
    assert jobs["again-killed"] == ["compile -j 2"]
    assert jobs["again-install"] == ["compile -j 2", "install -j 2 0"]
    assert jobs["again-ignored"] == ["compile -j 2", *(f"compile -j {jobs}" for jobs in jobs_after(2, retries=1))]
    assert jobs["again-python"] == ["compile -j 2", f"compile -j {jobs_after(2)[0]}"]
    failed = set(re.findall(r"^ERROR: Task \(\S*/(\S+)\) failed with exit code '1'", result.output, re.MULTILINE))
    assert failed == {
        "again-make_1.0.bb:do_compile",
        "again-killed_1.0.bb:do_compile",
        "again-install_1.0.bb:do_install",
        "again-python_1.0.bb:do_compile",
    }
    told = "\n".join(warnings_of(result))
    assert re.search(r"again-make do_compile: cc1plus was killed .*, in the last of 4 runs", told)
    assert re.search(r"again-killed do_compile: cc1plus was killed .*\. It is not run again", told)
    assert re.search(r"again-install do_install: cc1 .*\. It is not run again", told)
    assert re.search(r"again-ignored do_compile: .* succeeded all the same", told)
    assert told.count("again-python do_compile") == 1


@pytest.mark.parametrize("conf", ['MEMGUARD_MODE = "observe"\n', 'BB_SCHEDULER = "basic"\n'])
def test_who_only_observes_repeats_nothing(bitbake: BitBake, tmp_path: Path, conf: str) -> None:
    """In observe mode, and under a scheduler of the user's own, a killed compiler fails its task as in stock."""
    result = build(bitbake, tmp_path, ON + conf, {"again-make": {"c.o": "kill"}}, "again-make")
    assert result.returncode == 1
    assert "ERROR: again-make-1.0-r0 do_compile: " in result.output
    assert jobs_of(tmp_path, "again-make") == ["compile -j 4"]
    assert not [line for line in warnings_of(result) if "do_compile" in line]


def test_a_bad_line_of_a_recipe_costs_a_warning(bitbake: BitBake, tmp_path: Path) -> None:
    """A recipe's own value that cannot be used is named with a good one, its tasks run as they are, and succeed."""
    conf = NUMBERS + 'MEMGUARD_RETRIES:pn-again-make = "two"\n'
    result = build(bitbake, tmp_path, conf, {"again-make": {}}, "again-make")
    assert result.returncode == 0, result.output
    assert jobs_of(tmp_path, "again-make") == ["compile -j 4", "install -j 4"]
    told = sorted(line.partition("memguard: ")[2] for line in warnings_of(result))
    why = 'MEMGUARD_RETRIES = "two": not a number from 0 to 9. A good value is: MEMGUARD_RETRIES = "2"'
    assert told == [f"again-make {task} is only watched: {why}" for task in ("do_compile", "do_install")]


@pytest.mark.memcg
def test_a_task_survives_kills_by_the_kernel(bitbake: BitBake, tmp_path: Path) -> None:
    """Compilers that the kernel kills at a real limit cost their task jobs, not its life: with one job all of it fits.

    What was predicted is far too little, and a sentinel that is stopped prevents nothing and gives no turns. No object
    that was finished is made again.
    """
    conf = NUMBERS + 'MEMGUARD_FOOTPRINT:pn-again-kernel = "do_compile:base=16M,per_job=16M"\n'
    # Nor is it replaced, however long that takes.
    conf += 'INHERIT += "sentinel_patience"\nSENTINEL_HUNG_S = "600"\n'
    has_ended = threading.Event()

    def stop_sentinel() -> None:
        stopped: list[psutil.Process] = []
        while not has_ended.wait(0.05):
            log = (tmp_path / "again.log").read_text() if (tmp_path / "again.log").exists() else ""
            if "compile" in log and not stopped:
                stopped = sentinels(tmp_path)
                for process in stopped:
                    process.suspend()
                    (tmp_path / "go").touch()
            if "install" in log:
                break
        for process in stopped:
            process.resume()

    stopper = threading.Thread(target=stop_sentinel)
    stopper.start()
    try:
        with container(1 << 30, "memguard-rerun") as box:
            result = build(bitbake, tmp_path, conf, {}, "again-kernel", prefix=box.prefix)
            kills = box.oom_kills
    except NoContainer as missing:
        pytest.skip(str(missing))
    finally:
        has_ended.set()
        stopper.join()
    assert kills >= 1
    assert result.returncode == 0, result.output
    assert "ERROR" not in result.output
    told = [line for line in warnings_of(result) if "do_compile" in line]
    assert told
    assert all("cc1 was killed by the kernel for memory; runs again with" in line for line in told)
    lines = log_of(tmp_path, "again-kernel")
    assert len([line for line in lines if line.startswith("compile")]) == 1 + len(told)
    # Each kill cost one object, which was then made again.
    assert len([line for line in lines if line.endswith(".o")]) == 3 + kills
