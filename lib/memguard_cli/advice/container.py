# SPDX-License-Identifier: MIT
"""What there is to say of a container, and what to do about it: findings -> warnings.

Runs in: outside BitBake; pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memguard.model import Mode
from memguard.units import MIB, format_bytes
from memguard_cli.advice.facts import Findings

# What planners of several distributions (RPM, Fedora) take for one C++ compiler.
_COMPILER_BYTES = 512 * MIB


@dataclass(frozen=True)
class Warning:
    """One thing found and what to do. is_deadly: a build here would lose its life over it."""

    code: str
    text: str
    is_deadly: bool = False


def advise(findings: Findings) -> list[Warning]:
    """All there is to say, deadly things first."""
    said = [warning for rule in _RULES for warning in rule(findings)]
    return sorted(said, key=lambda warning: not warning.is_deadly)


def _reserve(findings: Findings) -> Iterator[Warning]:
    reading = findings.reading
    if reading and findings.reserve_bytes >= reading.bound_bytes:
        yield Warning(
            "reserve-above-limit",
            f"MEMGUARD_RESERVE keeps {format_bytes(findings.reserve_bytes)} free of a limit of "
            f"{format_bytes(reading.bound_bytes)}, which leaves nothing to build with. A good value is "
            'MEMGUARD_RESERVE = "10%".',
            is_deadly=True,
        )


def _oom_group(findings: Findings) -> Iterator[Warning]:
    grouped = next((level for level in findings.levels if level.oom_group), None)
    if grouped is None:
        return
    fact = f"{grouped.path}/memory.oom.group is set: the kernel's first OOM kill takes every process of the container"
    if findings.policy.mode is Mode.OFF:
        yield Warning("oom-group", f'{fact}, and memguard is off. Set MEMGUARD_MODE = "enforce".', is_deadly=True)
    elif findings.build and not findings.build.inherits_memguard:
        yield Warning("oom-group", f'{fact}. Switch memguard on with INHERIT += "memguard", or leave more room.')
    elif findings.policy.mode is Mode.OBSERVE:
        yield Warning("oom-group", f'{fact}, and memguard only observes. Set MEMGUARD_MODE = "enforce".')
    else:
        yield Warning("oom-group", f"{fact}. memguard keeps a build below it; do not switch it off here.")


def _limit(findings: Findings) -> Iterator[Warning]:
    reading = findings.reading
    if reading is None:
        return
    own = findings.own
    if reading.limit_bytes is None and findings.hides_levels:
        yield Warning(
            "limit-not-visible",
            "this container has no limit that shows from inside. Where one is set outside, on the pod alone for "
            'instance, the build is killed all the same: set MEMGUARD_LIMIT = "12G" to what it is.',
        )
    if reading.limit_bytes is None and own is None and not findings.has_lxcfs:
        yield Warning(
            "limit-not-visible",
            "no memory cgroup is mounted here, so a limit would not show. Where there is one, the build is killed all "
            'the same: set MEMGUARD_LIMIT = "12G" to what it is.',
        )
    if own and reading.limit_source == "MemTotal" and any(level.limit_bytes for level in findings.levels):
        least = min(level.limit_bytes for level in findings.levels if level.limit_bytes)
        yield Warning(
            "limit-above-machine",
            f"the container's limit of {format_bytes(least)} is above the machine's memory of "
            f"{format_bytes(reading.bound_bytes)}, which counts: neighbours may take it first.",
        )
    if reading.limit_source.endswith("/memory.high"):
        yield Warning(
            "memory-high",
            f"{reading.limit_source} is the limit that counts. At it the kernel does not kill, it slows every process "
            "down, for minutes without swap. Raise it to memory.max where you can.",
        )


def _place(findings: Findings) -> Iterator[Warning]:
    if not findings.is_own_cgroup_found:
        yield Warning(
            "cgroup-not-found",
            "the cgroup of this process is not below any mount that shows here; the numbers are those of the nearest "
            'one that is. Check them, or set MEMGUARD_LIMIT = "12G" to what the container has.',
        )
    if findings.has_lxcfs:
        yield Warning(
            "lxcfs",
            "/proc/meminfo is lxcfs's: MemTotal is the container's limit, and page cache is counted as free here, "
            "whatever its MemAvailable says.",
        )


def _kills(findings: Findings) -> Iterator[Warning]:
    own = findings.own
    if own and own.events.get("oom_kill"):
        yield Warning(
            "oom-kills",
            f"the kernel has killed {own.events['oom_kill']} processes of {own.path} for memory since it was made.",
        )
    waiting = next((level for level in findings.levels if level.events.get("oom_kill_disable")), None)
    if waiting:
        yield Warning(
            "oom-killer-off",
            f"{waiting.path}/memory.oom_control has the OOM killer off: at the limit every process waits for ever. "
            "Write 0 to it.",
        )


def _swap(findings: Findings) -> Iterator[Warning]:
    if findings.swap.in_memory and findings.swap.limit_bytes != 0:
        yield Warning(
            "swap-in-memory",
            f"swap is on {', '.join(findings.swap.in_memory)}, which is memory itself: it gives no room to plan with. "
            "memguard does not count swap as room.",
        )
    if findings.build_in_memory and findings.build:
        yield Warning(
            "tmpdir-in-memory",
            f"{findings.build.tmpdir} lies on a tmpfs ({findings.build_in_memory}): what the build writes there counts "
            "as used and is never given back. Point TMPDIR to a disk, or inherit rm_work.",
        )


def _jobs(findings: Findings) -> Iterator[Warning]:
    build, reading = findings.build, findings.reading
    if build is None:
        return
    threads, jobs, cpus = build.threads, build.jobs, findings.cpus.count
    for name, count in (("BB_NUMBER_THREADS", threads), ("PARALLEL_MAKE", jobs)):
        if count is not None and count > 2 * cpus:
            yield Warning(
                "jobs-above-cpus",
                f"{name} asks for {count} where {cpus:g} CPUs may be used ({findings.cpus.source}). "
                f"{max(1, round(cpus))} is as fast and takes less memory.",
            )
    if threads and jobs and reading and threads * jobs * _COMPILER_BYTES > reading.bound_bytes:
        yield Warning(
            "jobs-above-memory",
            f"{threads} tasks of {jobs} compilers at {format_bytes(_COMPILER_BYTES)} each may want "
            f"{format_bytes(threads * jobs * _COMPILER_BYTES)} at once, of {format_bytes(reading.bound_bytes)}. "
            + (
                "memguard holds and shrinks tasks so that they fit."
                if build.inherits_memguard and findings.policy.mode is Mode.ENFORCE
                else 'INHERIT += "memguard" makes them fit.'
            ),
        )


def _faults(findings: Findings) -> Iterator[Warning]:
    for path, what in findings.faults.items():
        yield Warning("unreadable", f"{path} {what}; it was passed over.")
    if findings.reading is None:
        yield Warning("no-memory-numbers", "neither a limit nor /proc/meminfo can be read: memguard would step aside.")


_RULES = (_reserve, _oom_group, _limit, _place, _kills, _swap, _jobs, _faults)
