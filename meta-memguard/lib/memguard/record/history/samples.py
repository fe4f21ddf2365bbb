# SPDX-License-Identifier: MIT
"""What a good record is, and a record as a JSON object and back.

Runs in: everywhere; pure.
Covers: the name of each value in JSON, what it may be, the sentence about one that is wrong.
Does not cover: files of such objects (the command), rows of the database (rows).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, Optional

from memguard.model import Outcome, Record
from memguard.units import digest

# Characters of a name.
NAME_MOST = 500

# A record, and when its build began in seconds since the epoch; None where that is not known.
DatedRecord = tuple[Record, Optional[float]]


class TaskLives(NamedTuple):
    """The lives of one task's jobs as predict.remembered_lives packs them, and when that was, as seconds since 1970."""

    recipe: str
    task: str
    written_s: float
    packed: bytes

    def joined_to(self, old: TaskLives, join: Callable[[bytes, bytes], bytes]) -> TaskLives:
        """What is remembered of both tables, as of the newer one; `join` takes its packed lives, and the other's."""
        newer, older = (self, old) if self.written_s > old.written_s else (old, self)
        return newer._replace(packed=join(newer.packed, older.packed))


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
    "kind": "an autotools build",
    "recorded_s": 1712928495.59,
}
OUTCOMES = tuple(outcome.value for outcome in Outcome)


def is_printable_text(value: Any) -> bool:
    """Whether `value` is text that can be a name of something: short, in one line, and possible in a database."""
    return isinstance(value, str) and len(value) <= NAME_MOST and value.isprintable()


def _is_name(value: Any) -> bool:
    return bool(value) and is_printable_text(value)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 1 << 63


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1 << 53


class _Kind(NamedTuple):
    """What a value may be, in words and as a question."""

    wanted: str
    is_good: Callable[[Any], bool]


_NAME = _Kind("a name of printable characters", _is_name)
_TEXT = _Kind("printable text", is_printable_text)
_JOBS = _Kind("a whole number from 1 on, or null", lambda value: value is None or _is_count(value, 1))
_BYTES = _Kind("a whole number of bytes", _is_count)
_BYTES_OR_NULL = _Kind("a whole number of bytes, or null", lambda value: value is None or _is_count(value))
_SECONDS = _Kind("a number of seconds", _is_seconds)
_OUTCOME = _Kind("one of " + ", ".join(sorted(OUTCOMES)), lambda value: value in OUTCOMES)
_TIME = _Kind("seconds since the epoch", lambda value: value is None or _is_seconds(value))

_MISSING = object()


class _Field(NamedTuple):
    """A value of a record: its name in JSON, its name in a Record, and what it is where a JSON object lacks it."""

    key: str
    name: str
    kind: _Kind
    default: Any = _MISSING


# The first in this order that is wrong is the one that a message names.
_FIELDS = (
    _Field("outcome", "outcome", _OUTCOME),
    _Field("build", "build", _NAME),
    _Field("pn", "recipe", _NAME),
    _Field("pv", "version", _TEXT),
    _Field("task", "task", _NAME),
    _Field("jobs", "jobs", _JOBS),
    _Field("peak_bytes", "peak_bytes", _BYTES_OR_NULL),
    _Field("largest_process_bytes", "largest_process_bytes", _BYTES),
    _Field("duration_s", "wall_s", _SECONDS),
    _Field("cpu_s", "cpu_s", _SECONDS),
    _Field("machine", "machine", _TEXT, ""),
    _Field("per_job_bytes", "per_job_bytes", _BYTES_OR_NULL, None),
    _Field("serial_bytes", "serial_bytes", _BYTES_OR_NULL, None),
    _Field("kind", "kind", _TEXT, ""),
)
_values_of = attrgetter(*(field.name for field in _FIELDS))


def parse_sample(sample: Any) -> DatedRecord:
    """The record in a JSON object of the form of EXAMPLE, and when its build began where the object says so.

    `machine`, `per_job_bytes`, `serial_bytes`, `kind` and `recorded_s` may be missing, `jobs` and `peak_bytes`
    be null; other names are passed over. Raises BadSample for anything else.
    """
    if not isinstance(sample, dict):
        raise BadSample(f"a sample is an object, not {reprlib.repr(sample)}; a good one is {json.dumps(EXAMPLE)}")
    values = {}
    for key, name, kind, default in _FIELDS:
        values[name] = value = sample.get(key, default)
        _check(key, kind, value)
    values.update(outcome=Outcome(values["outcome"]), wall_s=float(values["wall_s"]), cpu_s=float(values["cpu_s"]))
    recorded_s = sample.get("recorded_s")
    _check("recorded_s", _TIME, recorded_s)
    return Record(**values), None if recorded_s is None else float(recorded_s)


def check_record(record: Record, recorded_s: float | None = None) -> None:
    """Raise BadSample for a record that would be none as a JSON object, in the words of parse_sample()."""
    for field, value in zip(_FIELDS, _values_of(record)):
        _check(field.key, field.kind, value)
    _check("recorded_s", _TIME, recorded_s)


def format_sample(record: Record, recorded_s: float | None = None) -> dict[str, Any]:
    """A record as the JSON object that parse_sample() takes."""
    sample = {  # written out, since a loop over _FIELDS takes twice the time
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
    if record.kind:
        sample["kind"] = record.kind
    if recorded_s is not None:
        sample["recorded_s"] = recorded_s
    return sample


def content_key(content: bytes) -> int:
    """The number by which a database knows the content of a sample: 64 bits, with a sign as SQL has it."""
    return int.from_bytes(digest(content), "big", signed=True)


def _check(key: str, kind: _Kind, value: Any) -> None:
    if not kind.is_good(value):
        found = "is missing" if value is _MISSING else f"is {reprlib.repr(value)}, not {kind.wanted}"
        raise BadSample(f"{json.dumps(key)} {found}, as in {json.dumps({key: EXAMPLE[key]})}")
