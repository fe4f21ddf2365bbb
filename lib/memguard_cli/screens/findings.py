# SPDX-License-Identifier: MIT
"""A container's findings in words and as data: what `memguard doctor` prints.

Runs in: outside BitBake; pure but for printing.
Does not cover: finding out (advice/facts) and judging (advice/container).
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from memguard.model import Reading
from memguard.sense.level import Use
from memguard.units import format_bytes
from memguard_cli.advice.facts import Findings, LevelFacts
from memguard_cli.advice.warnings import Warning
from memguard_cli.builds.job_counts import JobCount, Kind
from memguard_cli.screens.text import make_console, plain


def as_data(findings: Findings, warnings: list[Warning]) -> dict[str, Any]:
    """The findings for machines: sizes in bytes, null for what is not known."""
    reading, pressure, delegation, own = findings.reading, findings.pressure, findings.delegation, findings.own
    return {
        "limit_bytes": reading.limit_bytes if reading else None,
        "limit_source": reading.limit_source if reading else None,
        "used_bytes": reading.used_bytes if reading else None,
        "shmem_bytes": reading.shmem_bytes if reading else None,
        "charged_bytes": reading.charged_bytes if reading else None,
        "working_set_bytes": reading.working_set_bytes if reading else None,
        "reserve_bytes": findings.reserve_bytes,
        "headroom_bytes": findings.headroom_bytes,
        "host_total_bytes": reading.total_bytes if reading else None,
        "host_available_bytes": reading.host_available_bytes if reading else None,
        "cpus": findings.cpus.count,
        "cpus_source": findings.cpus.source,
        "cgroup_version": findings.version,
        "levels": [_level_data(level) for level in findings.levels],
        "swap_limit_bytes": findings.swap.limit_bytes,
        "swap_used_bytes": findings.swap.used_bytes,
        "swap_host_bytes": findings.swap.host_bytes,
        "swap_left_bytes": reading.swap_left_bytes if reading else None,
        "psi_source": (pressure.source if pressure.is_container else "host") if pressure else None,
        "psi_some_avg10": pressure.some_avg10 if pressure else None,
        "psi_full_avg10": pressure.full_avg10 if pressure else None,
        "oom_kills": own.events.get("oom_kill") if own else None,
        "oom_group": findings.oom_group,
        "delegated": delegation.is_writable if delegation else None,
        "can_freeze": delegation.can_freeze if delegation else None,
        "can_kill": delegation.can_kill if delegation else None,
        "task_cgroup": delegation.task_cgroup if delegation else None,
        "kubernetes": findings.kubernetes is not None,
        "kubernetes_qos": findings.kubernetes.qos if findings.kubernetes else None,
        "neighbours": findings.neighbours,
        "mode": findings.policy.mode.value,
        "build_directory": str(findings.build.directory) if findings.build else None,
        "bb_number_threads": findings.counts[0].count if findings.counts else None,
        "parallel_make": findings.counts[1].count if findings.counts else None,
        "job_counts": [_count_data(count) for count in findings.counts],
        "pids_limit": findings.kernel.processes,
        "pids_used": findings.kernel.processes_used if findings.kernel.processes is not None else None,
        "max_map_count": findings.kernel.maps,
        "tools": {tool.name: {"version": tool.version, "feedback": tool.feedback} for tool in findings.tools},
        "warnings": [{"code": warning.code, "text": warning.text} for warning in warnings],
    }


def _count_data(count: JobCount) -> dict[str, Any]:
    """count is null but for a kind of number; written is the value before anything in it is expanded."""
    return {
        "variable": count.variable,
        "count": count.count,
        "kind": count.kind.value,
        "why": count.why,
        "is_default": count.is_default,
        "written": count.written,
    }


def _level_data(level: LevelFacts) -> dict[str, Any]:
    use = level.use
    return {
        "path": level.path,
        "limit_bytes": level.limit_bytes,
        "limit_source": level.limit_source,
        "used_bytes": use.used_bytes if use else None,
        "anon_bytes": use.anon_bytes if use else None,
        "shmem_bytes": use.shmem_bytes if use else None,
        "kernel_bytes": use.kernel_bytes if use else None,
        "cache_bytes": use.cache_bytes if use else None,
        "charged_bytes": use.charged_bytes if use else None,
        "swap_limit_bytes": level.swap_limit_bytes,
        "oom_group": level.oom_group,
        "events": level.events,
    }


def show(findings: Findings, warnings: list[Warning]) -> None:
    """Print all findings, then what there is to say of them."""
    console = make_console()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(findings):
        facts.add_row(name, plain(text))
    console.print(facts)
    if findings.levels:
        console.print(_levels_table(findings))
    for warning in warnings:
        mark = plain("costs a build ", "bold red") if warning.is_deadly else plain("note ", "yellow")
        line = Text.assemble(mark, plain(warning.code, "bold"), ": ", plain(warning.text))
        console.print(line, soft_wrap=not console.is_terminal)
    if not warnings:
        console.print("Nothing stands in the way of a build here.", style="green")


def _parking(findings: Findings) -> str:
    """Whether what is stopped may go to swap, and how to get some where there is none."""
    if not findings.policy.parks:
        return "off, by MEMGUARD_PARKING"
    left_bytes = findings.reading.swap_left_bytes if findings.reading else 0
    if left_bytes:
        return f"up to {format_bytes(left_bytes)} of what is stopped for memory may go to swap"
    return "not possible without swap; docker --memory-swap, LimitedSwap, MemorySwapMax= or zram adds some"


def _neighbours(findings: Findings) -> str:
    """How many builds under this limit another one would see."""
    if findings.policy.neighbours == "off":
        return "off, by MEMGUARD_NEIGHBOURS"
    if findings.neighbours is None:
        return "builds under this limit do not see each other here"
    return f"{findings.neighbours or 'no'} build{'' if findings.neighbours == 1 else 's'} under this limit now"


def _facts(findings: Findings) -> list[tuple[str, str]]:
    reading, swap, pressure = findings.reading, findings.swap, findings.pressure
    facts: list[tuple[str, str]] = []
    if reading:
        if reading.limit_bytes is None:
            facts.append(("limit", f"none visible; the machine's {format_bytes(reading.bound_bytes)} bound a build"))
        else:
            facts.append(("limit", f"{format_bytes(reading.limit_bytes)}, from {reading.limit_source}"))
        facts.append(("used", _used(reading)))
        facts.append(
            ("headroom", f"{_size(findings.headroom_bytes)}, with {format_bytes(findings.reserve_bytes)} in reserve")
        )
        total, available = _size(reading.total_bytes), _size(reading.host_available_bytes)
        facts.append(("machine", f"{available} available of {total}"))
    facts.append(("CPUs", f"{findings.cpus.count:g}, by {findings.cpus.source}"))
    facts.append(("cgroups", findings.version if findings.levels or findings.version == "none" else "no memory"))
    limit = "no limit" if swap.limit_bytes is None else f"at most {format_bytes(swap.limit_bytes)}"
    facts.append(("swap", f"{limit}, {_size(swap.used_bytes)} used; the machine has {_size(swap.host_bytes)}"))
    facts.append(("parking", _parking(findings)))
    facts.append(("neighbours", _neighbours(findings)))
    if pressure is None:
        facts.append(("pressure", "not visible (PSI)"))
    else:
        whose = pressure.source if pressure.is_container else f"the whole machine's, {pressure.source}"
        facts.append(("pressure", f"some {pressure.some_avg10:g} %, full {pressure.full_avg10:g} % of 10 s ({whose})"))
    group = {True: "takes the whole container", False: "takes one process", None: "takes one process (no oom.group)"}
    facts.append(("OOM kill", group[findings.oom_group]))
    facts.append(("delegated", _delegated(findings)))
    if findings.kubernetes:
        qos = findings.kubernetes
        facts.append(("Kubernetes", f"{qos.qos}, by {qos.source}" if qos.qos else "QoS class not visible"))
    for tool in findings.tools:
        facts.append((tool.name, f"{tool.version}: {tool.feedback}" if tool.version else tool.feedback))
    if findings.build:
        build = findings.build
        mode = f"memguard {findings.policy.mode.value}" if build.inherits_memguard else "no memguard in its conf"
        facts.append(("build", f"{build.directory}, {mode}"))
        facts.append(("jobs", " x ".join(map(_counted, findings.counts))))
    if findings.kernel.processes is not None:
        kernel = findings.kernel
        facts.append(("processes", f"{kernel.processes_used} of {kernel.processes}, by {kernel.processes_source}"))
    return facts


def _counted(count: JobCount) -> str:
    """A job count in a few words."""
    words = {
        Kind.NUMBER: f"{count.count}{' by default' if count.is_default else ''}",
        Kind.UNLIMITED: "without limit",
        Kind.NO_OPTION: "without -j (one job of make, one for each CPU of ninja)",
        Kind.MISTAKE: "not a number (see below)",
        Kind.UNKNOWN: "unknown (see below)",
    }
    return f"{count.variable} {words[count.kind]}"


def _used(reading: Reading) -> str:
    used, charged = format_bytes(reading.used_bytes), reading.charged_bytes
    own = (
        "" if charged is None else f"{format_bytes(charged)} with cache, working set {_size(reading.working_set_bytes)}"
    )
    if reading.limit_bytes is None:
        return f"{used} on the whole machine" + (f"; this cgroup: {own}" if own else "")
    return f"{used} that cannot be reclaimed" + (f"; {own}" if own else "")


def _delegated(findings: Findings) -> str:
    can = findings.delegation
    if can is None:
        return "no: no memory cgroup"
    abilities = [("freeze", can.can_freeze), ("kill", can.can_kill), ("a cgroup for tasks", can.task_cgroup)]
    able = [name for name, is_able in abilities if is_able]
    return (
        f"{'yes, writable' if can.is_writable else 'no, not writable'}{'; allows ' + ', '.join(able) if able else ''}"
    )


def _levels_table(findings: Findings) -> Table:
    table = Table(title="from this process up", title_justify="left", title_style="bold", box=None, padding=(0, 1))
    table.add_column("cgroup", overflow="fold", ratio=1)
    for heading in ("limit", "anon", "shmem", "kernel", "cache", "kills"):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in findings.levels:
        use = level.use or Use(0, 0, 0)
        sizes = (use.anon_bytes, use.shmem_bytes, use.kernel_bytes, use.cache_bytes) if level.use else (None,) * 4
        kills = level.events.get("oom_kill")
        table.add_row(
            plain(level.path),
            "-" if level.limit_bytes is None else format_bytes(level.limit_bytes),
            *("-" if size is None else format_bytes(size) for size in sizes),
            "-" if kills is None else str(kills),
        )
    return table


def _size(size: int | None) -> str:
    return "unknown" if size is None else format_bytes(size)
