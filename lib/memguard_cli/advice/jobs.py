# SPDX-License-Identifier: MIT
"""What there is to say of the job counts of a build directory: findings -> warnings.

Runs in: outside BitBake; pure.
Covers: counts above CPUs, memory or threads; no limit, mistakes, and what only BitBake can work out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memguard.model import Mode
from memguard.units import MIB, format_bytes
from memguard_cli.advice.facts import Findings
from memguard_cli.advice.warnings import Warning
from memguard_cli.builds.job_counts import JOBS, REMOTE_JOBS, THREADS, JobCount, Kind

# What planners of several distributions (RPM, Fedora) take for one C++ compiler.
_COMPILER_BYTES = 512 * MIB
# Processes of one job: make, a shell, the compiler's driver, the compiler and the assembler.
_PROCESSES_A_JOB = 5
# BitBake's own, with threads of its Python, and what else runs in a build container.
_PROCESSES_BESIDE = 200
_LONGEST_WRITTEN = 80
# Names that people write for a variable that sets job counts; none of them is one.
_MISSPELT = {
    THREADS: re.compile(r"(?!BB_NUMBER_THREADS$)BB_NUM(?:BERS?|S)?(?:_OF)?_(?:THREADS?|TASKS?|CPUS?|CORES?)"),
    JOBS: re.compile(r"PARALLEL_(?:MAKES|JOBS|MAKE_JOBS|BUILDS?)|BB_PARALLEL_MAKE"),
}


def refused(findings: Findings) -> Iterator[Warning]:
    """Lines that BitBake stops at."""
    for fault in findings.build.faults if findings.build else ():
        yield Warning("configuration-refused", f"{fault}. A build stops there before it begins.")


def unclear(findings: Findings) -> Iterator[Warning]:
    """Counts of which no number is known."""
    for count in findings.counts:
        name = count.variable
        if count.kind is Kind.UNKNOWN:
            yield Warning(
                "job-count-unknown",
                f'{name} = "{_shortened(count.written)}" cannot be worked out here: {count.why}. Nothing is known of '
                f"how many jobs a build would start. To ask BitBake: bitbake-getvar --value {name}, after sourcing "
                "oe-init-build-env; run doctor there, and it asks for you.",
            )
        elif count.kind is Kind.MISTAKE:
            yield Warning(
                "job-count-mistake",
                f'{name} = "{_shortened(count.written)}" does not work: {count.why}. A good line is {_example(count)}.',
            )
        elif count.kind is Kind.UNLIMITED:
            yield Warning(
                "jobs-unlimited",
                f'{name} = "{_shortened(count.written)}" sets no limit: make starts at once all that can be started. '
                f"A good line is {_example(count)}.",
            )


def misspelt(findings: Findings) -> Iterator[Warning]:
    """Variables that were written for one that sets a count, and set nothing."""
    origins = findings.build.store.origins if findings.build else {}
    for count in findings.counts:
        names = _MISSPELT.get(count.variable)
        for name in sorted(filter(names.fullmatch, origins)) if names and count.is_default else ():
            yield Warning(
                "job-count-misspelt",
                f"{name} ({origins[name]}) sets nothing: the variable that BitBake reads is {count.variable}. A good "
                f"line is {_example(count)}.",
            )


def above_cpus(findings: Findings) -> Iterator[Warning]:
    """Counts far above the CPUs, and defaults that do not see a quota."""
    cpus = findings.cpus
    for count in findings.counts:
        if count.count is None or count.count <= 2 * cpus.count or count.variable == REMOTE_JOBS:
            continue
        enough = max(1, round(cpus.count))
        if count.is_default:
            text = (
                f"{count.variable} is {count.count} by default: BitBake counts the CPUs it may run on and does not see "
                f"that {cpus.count:g} may be used ({cpus.source}). Set {_line(count, enough)}: it is as fast and takes "
                "less memory."
            )
        else:
            text = (
                f"{count.variable} asks for {count.count} where {cpus.count:g} CPUs may be used ({cpus.source}). "
                f"{enough} is as fast and takes less memory."
            )
        yield Warning("jobs-above-cpus", text)


def above_memory(findings: Findings) -> Iterator[Warning]:
    """Counts that could want more memory than there is."""
    build, reading, together = findings.build, findings.reading, _together(findings)
    if build is None or reading is None or together is None or together * _COMPILER_BYTES <= reading.bound_bytes:
        return
    is_guarded = build.inherits_memguard and findings.policy.mode is Mode.ENFORCE
    threads, jobs = findings.counts
    if is_guarded and threads.is_default and jobs.is_default:
        return
    yield Warning(
        "jobs-above-memory",
        f"{threads.count} tasks of {jobs.count} compilers at {format_bytes(_COMPILER_BYTES)} each may want "
        f"{format_bytes(together * _COMPILER_BYTES)} at once, of {format_bytes(reading.bound_bytes)}. "
        + ("memguard holds and shrinks tasks so that they fit." if is_guarded else 'INHERIT += "memguard" fixes that.'),
    )


def above_processes(findings: Findings) -> Iterator[Warning]:
    """A limit of processes and threads that the jobs would reach."""
    limits, together = findings.kernel, _together(findings)
    if limits.processes is None:
        return
    left = limits.processes - limits.processes_used
    wanted = _PROCESSES_BESIDE + _PROCESSES_A_JOB * (together or int(findings.cpus.count**2))
    if left < wanted:
        yield Warning(
            "pids-limit",
            f"{limits.processes_source} allows {limits.processes} processes and threads, {limits.processes_used} of "
            f'them in use; a build may want some {wanted}. At the limit fork fails with "Resource temporarily '
            'unavailable", which looks like memory and is not. Raise it (docker --pids-limit, kubelet podPidsLimit, '
            "TasksMax=).",
        )


def _together(findings: Findings) -> int | None:
    """The jobs of all tasks at once; None where a count is not known, or they run elsewhere."""
    if not findings.counts or any(count.variable == REMOTE_JOBS for count in findings.counts):
        return None
    threads, jobs = (count.count for count in findings.counts)
    return threads * jobs if threads and jobs else None


def _line(count: JobCount, number: int) -> str:
    value = str(number) if count.variable == THREADS else f"-j {number}"
    return f'{count.variable} = "{value}"'


def _example(count: JobCount) -> str:
    option = "" if count.variable == THREADS else "-j "
    return f'{count.variable} = "{option}${{@oe.utils.cpu_count(at_most=8)}}"'


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_WRITTEN else f"{text[: _LONGEST_WRITTEN - 3]}..."


JOB_RULES = (refused, unclear, misspelt, above_cpus, above_memory, above_processes)
