# SPDX-License-Identifier: MIT
"""A record as a JSON object, and back.

Runs in: everywhere; pure.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from typing import Any

from memguard.model import Outcome, Record

# Characters of a name.
NAME_MOST = 500


class BadSample(ValueError):
    """A sample that is none; the one sentence says what is wrong and shows what is right."""


EXAMPLE: dict[str, Any] = {
    "build": "20240412132813",
    "pn": "zlib",
    "pv": "1.3.1",
    "task": "do_compile",
    "jobs": 8,
    "peak_bytes": 402653184,
    "largest_process_bytes": 104857600,
    "duration_s": 12.5,
    "cpu_s": 60.25,
    "outcome": "ok",
    "machine": "qemux86-64",
    "per_job_bytes": 41943040,
    "serial_bytes": 104857600,
    "recorded_s": 1712928495.59,
}
OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_ONE_OUTCOME = "one of " + ", ".join(sorted(OUTCOMES))


def parse_sample(sample: Any) -> tuple[Record, float | None]:
    """The record in a JSON object of the form of EXAMPLE, and when its build began where the object says so.

    `machine`, `per_job_bytes`, `serial_bytes` and `recorded_s` may be missing, `jobs` and `peak_bytes` be null; other
    names are passed over. Raises BadSample for anything else.
    """
    if not isinstance(sample, dict):
        raise BadSample(f"a sample is an object, not {_show(sample)}; a good one is {json.dumps(EXAMPLE)}")
    outcome = _take(sample, "outcome", _ONE_OUTCOME, _is_outcome)
    record = Record(
        build=_take_name(sample, "build"),
        recipe=_take_name(sample, "pn"),
        version=_take(sample, "pv", "printable text", is_text),
        task=_take_name(sample, "task"),
        machine=_take({"machine": "", **sample}, "machine", "printable text", is_text),
        jobs=_take(
            sample, "jobs", "a whole number from 1 on, or null", lambda jobs: jobs is None or _is_count(jobs, 1)
        ),
        peak_bytes=_take_bytes_or_null(sample, "peak_bytes"),
        largest_process_bytes=_take(sample, "largest_process_bytes", "a whole number of bytes", _is_count),
        wall_s=float(_take(sample, "duration_s", "a number of seconds", _is_seconds)),
        cpu_s=float(_take(sample, "cpu_s", "a number of seconds", _is_seconds)),
        outcome=Outcome(outcome),
        per_job_bytes=_take_bytes_or_null({"per_job_bytes": None, **sample}, "per_job_bytes"),
        serial_bytes=_take_bytes_or_null({"serial_bytes": None, **sample}, "serial_bytes"),
    )
    recorded_s = sample.get("recorded_s")
    if recorded_s is not None:
        recorded_s = float(_take(sample, "recorded_s", "seconds since the epoch", _is_seconds))
    return record, recorded_s


def format_sample(record: Record, recorded_s: float | None = None) -> dict[str, Any]:
    """A record as the JSON object that parse_sample() takes."""
    sample = {
        "build": record.build,
        "pn": record.recipe,
        "pv": record.version,
        "task": record.task,
        "jobs": record.jobs,
        "peak_bytes": record.peak_bytes,
        "largest_process_bytes": record.largest_process_bytes,
        "duration_s": record.wall_s,
        "cpu_s": record.cpu_s,
        "outcome": record.outcome.value,
        "machine": record.machine,
        "per_job_bytes": record.per_job_bytes,
        "serial_bytes": record.serial_bytes,
    }
    return sample if recorded_s is None else {**sample, "recorded_s": recorded_s}


def _take(sample: dict[str, Any], key: str, wanted: str, is_good: Callable[[Any], bool]) -> Any:
    if key in sample and is_good(sample[key]):
        return sample[key]
    found = f"is {_show(sample[key])}, not {wanted}" if key in sample else "is missing"
    raise BadSample(f"{json.dumps(key)} {found}, as in {json.dumps({key: EXAMPLE[key]})}")


def _take_name(sample: dict[str, Any], key: str) -> str:
    name: str = _take(sample, key, "a name of printable characters", lambda name: bool(name) and is_text(name))
    return name


def _take_bytes_or_null(sample: dict[str, Any], key: str) -> int | None:
    size: int | None = _take(
        sample, key, "a whole number of bytes, or null", lambda size: size is None or _is_count(size)
    )
    return size


def is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= NAME_MOST and value.isprintable()


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 1 << 63


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1 << 53


def _is_outcome(value: Any) -> bool:
    return isinstance(value, str) and value in OUTCOMES


def _show(value: Any) -> str:
    return reprlib.repr(value)
