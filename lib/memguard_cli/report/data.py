# SPDX-License-Identifier: MIT
"""A build for machines: the one object of `memguard report --json`.

Runs in: outside BitBake; pure.
Covers: everything the page tells; sizes in bytes, times in seconds since 1970, null for what is not known.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memguard.record.events import Deed, JobRow, Killed, Retried, Stopped, Withdrawn
from memguard_cli.advice.build import Advice
from memguard_cli.advice.limits import Limits
from memguard_cli.advice.waiting import waiting_s
from memguard_cli.builds.record import BuildRecord, TaskRun
from memguard_cli.report.words import Standing


def as_data(record: BuildRecord, standing: Standing, limits: Limits, advice: list[Advice]) -> dict[str, Any]:
    """The object; what readers may rely on is in docs/report.md."""
    start, end = record.start, record.end
    return {
        "build": record.stamp,
        "standing": standing.value,
        "events": str(record.events_path),
        "began": record.began_s,
        "ended": record.ended_s if end else None,
        "wall_s": round(record.wall_s, 3),
        "mode": record.mode or None,
        "cpus": start.cpus if start else None,
        "limit_bytes": record.limit_bytes,
        "limit_source": start.limit_source if start else None,
        "reserve_bytes": record.reserve_bytes,
        "peak_bytes": record.peak_bytes,
        "oom_kills": end.oom_kills if end else None,
        "held_s": round(record.held_s, 3),
        "waiting_s": round(waiting_s(record), 3),
        "limiting": limits.sentence or None,
        "counts": {
            "tasks": len(record.runs),
            "held": sum(bool(run.holds) for run in record.runs),
            "would_hold": sum(bool(run.would_hold) for run in record.runs),
            "parked": sum(bool(run.swapped_bytes) for run in record.runs),
            "shrunk": sum(run.is_shrunk for run in record.runs),
            "withdrawn": record.count(Withdrawn),
            "stopped": record.count(Stopped),
            "killed": record.count(Killed),
            "retried": record.count(Retried),
        },
        "tasks": [_task(run) for run in record.runs],
        "memory": [[sight.time_s, sight.used_bytes, sight.limit_bytes] for sight in record.sights],
        "advice": [asdict(said) for said in advice],
        "remarks": list(record.remarks),
    }


def _task(run: TaskRun) -> dict[str, Any]:
    return {
        "recipe": run.recipe,
        "task": run.task,
        "mc": run.mc,
        "began": run.began_s,
        "ended": run.ended_s,
        "outcome": run.outcome,
        "jobs": run.jobs,
        "wanted_jobs": run.wanted_jobs,
        "granted_bytes": run.granted_bytes,
        "origin": run.origin or None,
        "peak_bytes": run.peak_bytes,
        "is_bound": run.is_bound,
        "swapped_bytes": run.swapped_bytes,
        "wall_s": run.wall_s,
        "cpu_s": run.cpu_s,
        "held_s": round(run.held_s, 3),
        "stopped_s": round(run.stopped_s, 3),
        "holds": [[span.begin_s, span.end_s, span.reason] for span in run.holds],
        "acts": [_deed(deed) for deed in run.deeds],
        "heaviest_jobs": [_job(job) for job in run.heaviest_jobs],
    }


def _job(job: JobRow) -> dict[str, Any]:
    return {
        "source": job.source or None,
        "program": job.program,
        "peak_bytes": job.peak_bytes,
        "wall_s": job.wall_s,
        "is_bound": bool(job.was_killed),
    }


def _deed(deed: Deed) -> list[Any]:
    """Its kind, time, program, bytes and reason: null, or "", where that kind has none."""
    about = (getattr(deed, "program", ""), getattr(deed, "bytes", None), getattr(deed, "reason", ""))
    return [deed.event, deed.time, *about]
