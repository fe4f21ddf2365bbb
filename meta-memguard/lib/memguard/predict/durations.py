# SPDX-License-Identifier: MIT
"""How long a task takes: what earlier builds saw, else its kind.

Runs in: the BitBake server and every simulation; pure.
Covers: seconds as a function of jobs, from a run with any number of them.
Does not cover: where runs are kept (record/history), what follows for the order of tasks (decide/order).
"""

from __future__ import annotations

import fnmatch
import functools
from dataclasses import dataclass

from memguard.model import Duration, PastRun
from memguard.units import MIB


@dataclass(frozen=True)
class _Kind:
    """Seconds of the tasks whose name matches: what runs alone, and what jobs share."""

    task: str
    serial_s: float
    parallel_s: float = 0.0


# First match wins. They say which of two unknown tasks is the longer, no more.
# evidence: medians of two public captures, rounded: buildstats of core-image-minimal (nanbield, 2024), and the order of
# events of a kirkstone build of 8,195 tasks
_KINDS = (
    _Kind("do_compile*", 3, 40),
    _Kind("do_configure*", 16),
    _Kind("do_rootfs", 48),
    _Kind("do_populate_sdk*", 60),
    _Kind("do_image*", 4),
    _Kind("do_package_write_*", 10),
    _Kind("do_package", 10),
    _Kind("do_package_qa", 4),
    _Kind("do_install*", 2),
    _Kind("do_populate_sysroot", 2),
    _Kind("do_packagedata", 2),
    _Kind("do_prepare_recipe_sysroot", 2),
    _Kind("do_rm_work", 2),
    _Kind("do_patch", 1),
    _Kind("do_unpack", 1),
    _Kind("do_fetch", 1),
    _Kind("*", 0.5),
)


# What one job of an unremarkable C build takes; a job that takes more memory has more to do.
# evidence: on real recipes compiles of C++ took 180 to 760 MiB a job and 4 to 225 CPU seconds, those of C 14 to 90 MiB
# and 0.3 to 38 s, with one exception
_USUAL_JOB_BYTES = 160 * MIB


@functools.lru_cache(maxsize=1024)
def by_kind(task: str, job_bytes: int = 0) -> Duration:
    """The duration of a task nobody knows, by its name, and by what one job of it takes as far as that is known."""
    for kind in _KINDS:
        if fnmatch.fnmatchcase(task, kind.task):
            return Duration(kind.serial_s, kind.parallel_s * max(1.0, job_bytes / _USUAL_JOB_BYTES))
    raise AssertionError("the last kind matches every task")


def learn_duration(run: PastRun) -> Duration:
    """What one run says of the next, with any number of jobs.

    Amdahl's law: wall = serial + parallel / jobs, CPU = serial + parallel. Where CPUs were crowded the run took longer;
    that counts as serial, since more jobs would not have helped there.
    """
    jobs = run.jobs
    if jobs is None or jobs < 2 or run.cpu_s <= run.wall_s:
        return Duration(run.wall_s, 0.0, run.cpu_s)
    serial_s = max(0.0, (run.wall_s * jobs - run.cpu_s) / (jobs - 1))
    return Duration(serial_s, (run.wall_s - serial_s) * jobs, run.cpu_s)
