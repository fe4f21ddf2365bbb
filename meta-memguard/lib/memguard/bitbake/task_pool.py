# SPDX-License-Identifier: MIT
"""BitBake adapter inside a task: makes the task's pool of tokens, and lets make, ninja and cargo find it.

Runs in: the task's own child process, before its prefuncs and function (join_pool) and after them (leave_pool);
imports bb.
Covers: a task's facts out of its datastore, variables and environment of this one task, descriptors for its processes.
Does not cover: which tasks can have one, and in which form (decide/pool_form.py); the FIFO itself (act/token_pool.py);
who gets how many tokens (decide/regulate.py, in the sentinel).

No task signature sees any of it: all is set when the task runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bb
import bb.codeparser
import bb.process

from memguard.act.job_variables import jobs_in
from memguard.act.token_pool import make_pool
from memguard.channels.build_directory import BuildDirectory
from memguard.decide.pool_form import (
    EMPTIED,
    TASKS,
    UNSET,
    Choice,
    Facts,
    Form,
    choose,
    flags,
    object_at_sight,
    object_by_script,
    without_jobs,
)
from memguard.model import TaskPolicy
from memguard.sense.proc_files import find_process
from memguard.sense.tool_versions import Tools

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

_log = logging.getLogger("BitBake.memguard")
# Where the descriptors of a pipe lie: above those that scripts use for their own redirections, or in the upper half of
# those that there may be (ulimit -n).
_LEAST_DESCRIPTOR = 100


@dataclass
class _Joined:
    """What was changed for a pool, to be undone: values before, None for what was not there."""

    path: str
    variables: dict[str, str | None] = field(default_factory=dict)
    environment: dict[str, str | None] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)
    pass_fds: Any = None


_joined: _Joined | None = None


def join_pool(event: Any, d: DataSmart, policy: TaskPolicy, jobs: int | None) -> str | None:
    """Give the task that starts a pool, where it can have one; the FIFO's path, None where it keeps its number of jobs.

    The pool has no tokens before the sentinel puts them in.

    jobs: what the task asks for, however few its grant lets it begin with; None for what its variables say now.

    Raises OSError where the FIFO cannot be made.
    """
    global _joined
    if not event.task.startswith(TASKS):
        return None
    leader = find_process(os.getpid())
    if leader is None:
        return None
    leave_pool(d)
    directory = BuildDirectory(Path(policy.directory))
    facts = _read_facts(event.task, d, policy, Tools(directory.tools), jobs)
    choice = choose(facts)
    if choice.form is Form.NONE:
        bb.debug(1, f"memguard: {event.task} has no pool of jobs: {choice.reason}")
        return None
    path = str(directory.pools / leader.mark)
    make_pool(path)
    _joined = _Joined(path)
    try:
        can_be_found = _publish(_joined, choice, facts.jobs or 1, d)
    except BaseException:
        leave_pool(d)
        raise
    if not can_be_found:
        leave_pool(d)
        bb.debug(1, f"memguard: {event.task} has no pool of jobs: MAKEFLAGS cannot hold its path {path}")
        return None
    bb.note(f"memguard: jobs come from a pool ({choice.form.value}: {choice.reason})")
    return path


def leave_pool(d: DataSmart) -> None:
    """Undo what join_pool has done in this process; the task has the number of jobs again that it had before."""
    global _joined
    joined, _joined = _joined, None
    if joined is None:
        return
    for name, value in joined.variables.items():
        if name in UNSET:
            d.delVarFlag(name, "unexport")
        else:
            d.setVar(name, value)
    for name, value in joined.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if joined.pass_fds is not None:
        bb.process.Popen.defaults["pass_fds"] = joined.pass_fds
    with contextlib.suppress(OSError):
        Path(joined.path).unlink()
    for descriptor in joined.descriptors:
        os.close(descriptor)


def _read_facts(task: str, d: DataSmart, policy: TaskPolicy, tools: Tools, jobs: int | None) -> Facts:
    """What is known of a task, which asks for `jobs` where its variables have been lowered meanwhile.

    Its shell functions are read without the numbers of jobs that a pool replaces.
    """
    own = ("PARALLEL_MAKEINST", "PARALLEL_MAKE") if task.startswith("do_install") else ("PARALLEL_MAKE",)
    wish = next((value for name in own if (value := d.getVar(name)) is not None), "")
    sight = Facts(
        is_off=not policy.uses_pool,
        is_shell=not bb.utils.to_boolean(d.getVarFlag(task, "python", False)),
        is_fakeroot=bb.utils.to_boolean(d.getVarFlag(task, "fakeroot", False)),
        jobs=jobs_in(wish) and (jobs or jobs_in(wish)),
    )
    if object_at_sight(sight):
        return sight
    probe = d.createCopy()
    for name in EMPTIED:
        if probe.getVar(name):
            probe.setVar(name, without_jobs(probe.getVar(name)))
    commands, text = _read_functions(task, probe)
    facts = replace(
        sight,
        commands=frozenset(commands),
        text="\n".join([text, probe.getVar("EXTRA_OEMAKE") or "", "MAKEFLAGS" if probe.getVar("MAKEFLAGS") else ""]),
        classes=frozenset(Path(path).stem for path in d.getVar("__inherit_cache", False) or ()),
        generator=d.getVar("OECMAKE_GENERATOR") or "",
        depends=frozenset(name for name in ("ninja", "cargo") if _depends_on(name, d)),
    )
    if object_by_script(facts):
        return facts
    search = d.getVar("PATH") or ""
    return replace(
        facts,
        make=tools.oldest(("make", "gmake"), search),
        ninja=tools.oldest(("ninja", "ninja-build"), search),
        cargo=tools.oldest(("cargo",), search),
    )


def _read_functions(task: str, d: DataSmart) -> tuple[set[str], str]:
    """What a task's shell function and those that it calls call, and their text. As bb.data.emit_func follows them."""
    commands, texts = set(), []
    waiting, seen = [task], set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        text = d.getVar(function) or ""
        texts.append(text)
        called = bb.codeparser.ShellParser(function, _log).parse_shell(text)
        called |= set((d.getVarFlag(function, "vardeps") or "").split())
        for name in called:
            if not d.getVarFlag(name, "func", False):
                commands.add(name.rpartition("/")[2])
            elif name not in seen and not bb.utils.to_boolean(d.getVarFlag(name, "python", False)):
                waiting.append(name)
    return commands, "\n".join(texts)


def _depends_on(tool: str, d: DataSmart) -> bool:
    """Whether the recipe has ninja or cargo built for it."""
    native = d.getVar("STAGING_BINDIR_NATIVE")
    return f"{tool}-native" in (d.getVar("DEPENDS") or "").split() or bool(native and Path(native, tool).exists())


def _publish(joined: _Joined, choice: Choice, jobs: int, d: DataSmart) -> bool:
    """Set what the task's tools look at; False where that cannot be done."""
    # Kept open for as long as the task runs: a FIFO that nobody has open has no tokens.
    keeper = os.open(joined.path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    joined.descriptors.append(keeper)
    pair = None
    if choice.form is Form.PIPE:
        pair = _open_pair(joined, keeper)
        joined.pass_fds = bb.process.Popen.defaults.get("pass_fds", ())
        bb.process.Popen.defaults["pass_fds"] = (*joined.pass_fds, *pair)
    value = flags(choice, jobs, joined.path, pair)
    if value is None:
        return False
    for name in EMPTIED:
        number = d.getVar(name)
        if number:
            joined.variables[name] = number
            d.setVar(name, without_jobs(number))
            _set_environment(joined, name, without_jobs(number) if name in os.environ else None)
    for name in UNSET:
        joined.variables[name] = None
        d.setVarFlag(name, "unexport", "1")
        _set_environment(joined, name, None)
    _set_environment(joined, choice.variable, value)
    return True


def _open_pair(joined: _Joined, keeper: int) -> tuple[int, int]:
    """The two ends of the pool, for the task's processes to inherit; blocking, as make's own are.

    keeper: the pool, open.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = _LEAST_DESCRIPTOR if most == resource.RLIM_INFINITY else min(_LEAST_DESCRIPTOR, most // 2)
    ends = []
    for mode in (os.O_RDONLY, os.O_WRONLY):
        # By the file that is open: its name may stand for something else by now.
        opened = os.open(f"/proc/self/fd/{keeper}", mode | os.O_CLOEXEC)
        try:
            ends.append(fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, least))
        finally:
            os.close(opened)
        joined.descriptors.append(ends[-1])
    return ends[0], ends[1]


def _set_environment(joined: _Joined, name: str, value: str | None) -> None:
    joined.environment[name] = os.environ.get(name)
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
