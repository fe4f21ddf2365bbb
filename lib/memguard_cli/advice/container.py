# SPDX-License-Identifier: MIT
"""What there is to say of a container, and what to do about it: findings -> warnings.

Runs in: outside BitBake; pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from memguard.model import Mode
from memguard.predict.kinds import KINDS
from memguard.units import format_bytes
from memguard_cli.advice.facts import Findings
from memguard_cli.advice.jobs import JOB_RULES
from memguard_cli.advice.warnings import Warning

# What kernels have allowed by default since Linux 2.6.
_USUAL_MAPS = 65530


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
    if findings.kubernetes:
        fact += " (the kubelet's singleProcessOOMKill: true, from Kubernetes 1.32 on, makes it one process)"
    if findings.policy.mode is Mode.OFF:
        yield Warning("oom-group", f'{fact}, and memguard is off. Set MEMGUARD_MODE = "enforce".', is_deadly=True)
    elif findings.build and not findings.build.inherits_memguard:
        yield Warning("oom-group", f'{fact}. Switch memguard on with INHERIT += "memguard", or leave more room.')
    elif findings.policy.mode is Mode.OBSERVE:
        yield Warning("oom-group", f'{fact}, and memguard only observes. Set MEMGUARD_MODE = "enforce".')
    else:
        keeps = f"{fact}. memguard keeps a build below it; do not switch it off here."
        yield Warning("oom-group", f"{keeps} {_task_cgroup(findings)}")


def _task_cgroup(findings: Findings) -> str:
    """What MEMGUARD_CGROUPS does about such a kill here."""
    why = findings.delegation.obstacle if findings.delegation else "no memory cgroup was found"
    if why:
        return f"Tasks cannot have a cgroup of their own here, with which such a kill would cost one process: {why}."
    if findings.policy.has_cgroup:
        return "Tasks get a cgroup of their own, so such a kill costs one process."
    return 'With MEMGUARD_CGROUPS = "auto" such a kill costs one process.'


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
        level = next((level for level in findings.levels if level.limit_source == reading.limit_source), None)
        hard = (
            f", below memory.max of {format_bytes(level.hard_limit_bytes)}" if level and level.hard_limit_bytes else ""
        )
        yield Warning(
            "memory-high",
            f"{reading.limit_source} of {format_bytes(reading.bound_bytes)} is the limit that counts{hard}. At it the "
            "kernel does not kill, it slows every process down, for minutes without swap. Raise it to memory.max where "
            "you can.",
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
            f"swap is on {', '.join(findings.swap.in_memory)}, which is memory itself. memguard parks stopped jobs "
            "there, and does not count it as room otherwise.",
        )
    if findings.build_in_memory and findings.build:
        yield Warning(
            "tmpdir-in-memory",
            f"{findings.build.tmpdir} is on a tmpfs ({findings.build_in_memory}): what the build writes there counts "
            "as used and is never given back. Point TMPDIR to a disk, or inherit rm_work.",
        )


def _room(findings: Findings) -> Iterator[Warning]:
    """Too little memory for what builds ordinarily hold."""
    reading = findings.reading
    if reading is None or findings.reserve_bytes >= reading.bound_bytes:
        return
    room_bytes = reading.bound_bytes - findings.reserve_bytes
    sizes = {kind.name: kind.footprint.peak_bytes(1) for kind in KINDS}
    large = sorted((name for name, size in sizes.items() if size > room_bytes), key=lambda name: -sizes[name])
    if large:
        shown = ", ".join(f"{name} {format_bytes(sizes[name])}" for name in large[:3])
        more = f" and {len(large) - 3} more kinds" if len(large) > 3 else ""
        yield Warning(
            "limit-too-small",
            f"Tasks may use {format_bytes(room_bytes)} ({format_bytes(reading.bound_bytes)} less the reserve): not "
            f"one job fits of {shown}{more}. Give the container more, or leave such recipes to another machine.",
        )
    elif findings.headroom_bytes is not None and findings.headroom_bytes <= 0:
        yield Warning(
            "nothing-left",
            f"{format_bytes(reading.used_bytes)} are in use, and {format_bytes(findings.reserve_bytes)} are kept free: "
            f"of {format_bytes(reading.bound_bytes)} nothing is left, so tasks would run one at a time. Stop "
            "whatever else runs here, or set a smaller MEMGUARD_RESERVE.",
        )


def _kernel(findings: Findings) -> Iterator[Warning]:
    """Limits besides memory at which an allocation fails."""
    kernel = findings.kernel
    if kernel.maps is not None and kernel.maps < _USUAL_MAPS:
        yield Warning(
            "map-count",
            f'vm.max_map_count is {kernel.maps}, below the usual {_USUAL_MAPS}: large links and Java fail with "Cannot '
            f'allocate memory" while memory is free. Set it on the host: sysctl vm.max_map_count={_USUAL_MAPS}.',
        )
    if kernel.is_strict:
        yield Warning(
            "strict-overcommit",
            "vm.overcommit_memory is 2: the kernel refuses memory that is only reserved, so compilers and Java fail "
            'with "Cannot allocate memory" while memory is free. Set it to 0 or 1 on the host.',
        )


def _faults(findings: Findings) -> Iterator[Warning]:
    for path, what in findings.faults.items():
        yield Warning("unreadable", f"{path} {what}; it was skipped.")
    if findings.reading is None:
        yield Warning("no-memory-numbers", "neither a limit nor /proc/meminfo can be read: memguard would step aside.")


_RULES = (_reserve, _oom_group, _limit, _room, _place, _kills, _swap, _kernel, *JOB_RULES, _faults)
