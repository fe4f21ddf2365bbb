# SPDX-License-Identifier: MIT
"""When a task runs again, with how many jobs, and what is a memory kill."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.channels.kills import read_kills
from memguard.decide.run_again import SPARED_MOST, Attempt, Cause, Evidence, Runs, find_cause, plan, statuses_of
from memguard.diagnose.verdict import Finding
from memguard.model import Kill
from memguard.task import retry

ALONE = Attempt(1, is_alone=True)
KILL = Kill(7.5, "cc1plus", 700 << 20, 3900 << 20, 4 << 30, ("/b/a.o",))
MEMORY = Finding("memory", "killed", "cc1plus", "Killed signal terminated program cc1plus", 3, is_certain=True)
HINT = Finding("memory", "killed", None, "Killed", 3)
UNCLEAR = Finding("unclear", "a linker crashed", "ld", "ld: crashed", 3)
OTHER = Finding("other", "a compile error")


def test_no_run_but_the_last_leaves_a_cpu_idle() -> None:
    """Jobs are halved down to the CPUs; who has fewer keeps them."""
    assert plan(8, 3, cpus=3) == (Attempt(4), Attempt(3), Attempt(3), ALONE)
    assert plan(2, 2, cpus=4) == (Attempt(2), Attempt(2), ALONE)


@pytest.mark.parametrize(
    ("jobs", "retries", "attempts"),
    [
        (8, 2, (Attempt(4), Attempt(2), ALONE)),
        (3, 2, (Attempt(1), Attempt(1), ALONE)),
        (2, 2, (Attempt(1), Attempt(1), ALONE)),
        (1, 2, (Attempt(1), Attempt(1), ALONE)),
        (1, 1, (Attempt(1), ALONE)),
        (64, 1, (Attempt(32), ALONE)),
        (8, 4, (Attempt(4), Attempt(2), Attempt(1), Attempt(1), ALONE)),
        (8, 0, ()),
    ],
)
def test_each_run_has_half_the_jobs_and_the_last_is_alone(
    jobs: int, retries: int, attempts: tuple[Attempt, ...]
) -> None:
    """Jobs are halved as often as is allowed, down to one; a task that has only one job runs again as often."""
    assert plan(jobs, retries) == attempts


def test_a_kill_for_what_another_took_costs_no_run() -> None:
    """The same run is had again, but not for ever."""
    runs = Runs(plan(8, 1))
    assert [runs.take(is_own=False) for _ in range(SPARED_MOST)] == [Attempt(4)] * SPARED_MOST
    assert [runs.take(is_own=False) for _ in range(3)] == [Attempt(4), ALONE, None]
    assert Runs(()).take(is_own=False) is None


@pytest.mark.parametrize(("beside_bytes", "is_own"), [(0, True), (700 << 20, True), ((700 << 20) + 1, False)])
def test_the_cause_is_who_had_most(beside_bytes: int, is_own: bool) -> None:
    """Who was killed beside a larger job was not the cause."""
    cause = find_cause(Evidence((replace(KILL, beside_bytes=beside_bytes),)))
    assert cause is not None
    assert cause.is_own is is_own


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence((KILL,)), "cc1plus was killed for memory at 3.8 GiB of 4.0 GiB"),
        (Evidence((KILL,), 1, (1,), OTHER), "cc1plus was killed for memory at 3.8 GiB of 4.0 GiB"),
        (Evidence((), 1, (2,), MEMORY), "cc1plus was killed by the kernel for memory"),
        (Evidence((), 1, (2,), HINT), "a process was killed by the kernel for memory"),
        (Evidence((), 1, (137,), OTHER), "a process was killed by the kernel for memory"),
        (Evidence((), 1, (-9,), None), "a process was killed by the kernel for memory"),
        (Evidence((), 1, (2,), OTHER), None),
        (Evidence((), 1, (139,), OTHER), None),
        (Evidence((), 1, (2,), UNCLEAR), "ld was killed by the kernel for memory"),
        (Evidence((), 0, (137,), HINT), None),
        (Evidence((), 0, (2,), UNCLEAR), None),
        (Evidence((), 0, (-9,), OTHER), None),
        (Evidence((), 0, (2,), MEMORY), "cc1plus was killed or ran out of memory (Killed signal terminated program"),
        (Evidence(), None),
    ],
)
def test_a_memory_kill_is_certain_or_none(evidence: Evidence, words: str | None) -> None:
    """The sentinel's word counts, the kernel's where log or status agree, a log's where it names memory."""
    cause = find_cause(evidence)
    assert cause is None if words is None else str(cause).startswith(words)


def test_the_largest_kill_is_named_and_all_outputs_are_taken() -> None:
    """Of several kills in one run the largest is told; the outputs of every one are spoiled."""
    small = Kill(7.0, "ld", 1, 2, None, ("/b/x",))
    cause = find_cause(Evidence((small, KILL)))
    assert cause is not None
    assert (cause.program, cause.bytes, cause.outputs) == ("cc1plus", 700 << 20, ("/b/x", "/b/a.o"))
    assert str(find_cause(Evidence((small,)))) == "ld was killed for memory at 0 KiB"


def test_no_name_out_of_a_log_moves_a_terminal() -> None:
    """What is not printable in a program's name or in a line is not printed."""
    finding = Finding("memory", "", "cc\x1b[2J1", "\x1b]0;x\x07 out of memory", 1, is_certain=True)
    assert str(find_cause(Evidence(finding=finding))).isprintable()
    assert str(find_cause(Evidence((Kill(1, "a\x1b[2J", 1, 1, 1),)))).isprintable()


def test_kills_are_read_from_when_the_run_began() -> None:
    """Kills of an earlier run do not count, and a line that tells no kill costs nothing."""
    told = {"time_s": 7.5, "program": "cc1plus", "bytes": 700 << 20, "used_bytes": 3900 << 20}
    told.update(limit_bytes=4 << 30, outputs=["/b/a.o"], beside_bytes=0)
    changes = ({}, {"time_s": 7.4}, {"bytes": "x"}, {"outputs": 3})
    lines = [json.dumps({**told, **change}).encode() for change in changes]
    assert read_kills([*lines, b"", b"{", b"[]", b"[" * 100_000], 7.5) == (KILL,)
    assert read_kills([json.dumps({**told, "limit_bytes": None}).encode()], 0)[0].limit_bytes is None


@given(st.lists(st.binary()))
def test_any_bytes_are_kills_or_none(lines: list[bytes]) -> None:
    """No content of the file raises."""
    assert read_kills(lines, 0.0) == ()


def test_statuses_are_found_behind_other_exceptions() -> None:
    """An exit status counts where another exception was made from the one that tells it; a circle ends."""
    error = subprocess.CalledProcessError(-9, "x")
    try:
        raise RuntimeError(error) from ValueError()
    except RuntimeError as made:
        wrapped = made
    error.__cause__ = wrapped
    assert statuses_of(wrapped) == (-9,)
    assert statuses_of(ValueError("137", 137)) == ()
    assert statuses_of(SystemExit(137)) == ()


@dataclass
class Stage:
    """A scene that writes down what is asked of it; `causes` are what ended its runs, one after the other."""

    causes: list[Cause | None]
    broken: str = ""
    told: list[str] = field(default_factory=list)

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what == self.broken:
            raise OSError(what)

    def begin(self) -> None:
        self._note("begin")

    def look(self, error: Exception | None) -> Cause | None:
        self._note("look")
        return self.causes.pop(0)

    def clear(self, cause: Cause, attempt: Attempt, number: int, of: int) -> bool:
        self._note("clear")
        self.told[-1] += f" {attempt.jobs} {number} of {of}"
        return True

    def let_through(self) -> None:
        self._note("let through")

    def explain(self, cause: Cause, runs: int) -> None:
        self._note("explain")

    def excuse(self, fault: Exception) -> None:
        self.told.append(f"excuse {fault}")


CAUSE = Cause("cc1plus", "was killed")


def run(stage: Stage, *ends: type[BaseException] | None) -> int:
    """Run a function whose runs end as told, with three more runs allowed; how often it ran."""
    runs = 0

    def function() -> None:
        nonlocal runs
        runs += 1
        end = ends[runs - 1]
        if end is not None:
            raise end(f"run {runs}")

    try:
        retry.run(function, plan(8, 2), stage)
    finally:
        stage.told.append(f"{runs} runs")
    return runs


def test_a_task_that_ends_well_runs_once() -> None:
    """Without a kill there is one run, and whatever it has logged is shown."""
    stage = Stage([None])
    assert run(stage, None) == 1
    assert stage.told == ["begin", "look", "let through", "1 runs"]


def test_a_task_runs_again_until_it_ends_well() -> None:
    """After two memory kills the third run decides."""
    stage = Stage([CAUSE, CAUSE, None])
    assert run(stage, RuntimeError, RuntimeError, None) == 3
    assert stage.told[2] == "clear 4 1 of 3"
    assert stage.told[5] == "clear 2 2 of 3"
    assert stage.told[6:] == ["begin", "look", "let through", "3 runs"]


def test_a_run_that_another_spoiled_is_not_counted() -> None:
    """It is had again with as many jobs, and as many more may follow."""
    stage = Stage([replace(CAUSE, is_own=False), CAUSE, CAUSE, None])
    assert run(stage, RuntimeError, RuntimeError, RuntimeError, None) == 4
    assert [told for told in stage.told if told.startswith("clear")] == [
        "clear 4 1 of 4",
        "clear 4 2 of 4",
        "clear 2 3 of 4",
    ]


def test_another_failure_ends_it_at_once() -> None:
    """What is no memory kill is raised as it came, in the first run and in a later one."""
    with pytest.raises(RuntimeError, match="run 1"):
        run(stage := Stage([None]), RuntimeError)
    assert stage.told[-2:] == ["let through", "1 runs"]
    with pytest.raises(KeyError, match="run 2"):
        run(stage := Stage([CAUSE, None]), RuntimeError, KeyError)
    assert stage.told[-2:] == ["let through", "2 runs"]


def test_after_the_last_run_the_failure_is_real() -> None:
    """When all runs were killed the last failure is raised, and explained after what it has logged."""
    with pytest.raises(RuntimeError, match="run 4"):
        run(stage := Stage([CAUSE] * 4), *[RuntimeError] * 4)
    assert stage.told[-3:] == ["let through", "explain", "4 runs"]


def test_a_kill_that_nobody_minded_is_repeated_too() -> None:
    """A run that ends well without one of its compilers is not trusted; after the last it is."""
    assert run(Stage([CAUSE, None]), None, None) == 2
    stage = Stage([CAUSE] * 4)
    assert run(stage, *[None] * 4) == 4
    assert stage.told[-3:] == ["let through", "explain", "4 runs"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_end_from_outside_ends_it_at_once(end: type[BaseException]) -> None:
    """After an interrupt nothing is looked at and nothing runs again, even if something was killed."""
    with pytest.raises(end):
        run(stage := Stage([CAUSE]), end)
    assert stage.told == ["begin", "let through", "1 runs"]


@pytest.mark.parametrize("broken", ["begin", "look", "clear", "let through", "explain"])
def test_a_fault_of_memguards_shows_the_tasks_own_error(broken: str) -> None:
    """Whatever step of ours fails, the task fails with its own error and nothing it has logged is lost."""
    causes = [None] if broken == "begin" else [CAUSE] * 4
    with pytest.raises(RuntimeError, match="run"):
        run(stage := Stage(causes, broken), *[RuntimeError] * 4)
    assert f"excuse {broken}" in stage.told
    assert "let through" in stage.told
