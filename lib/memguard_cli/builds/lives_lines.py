# SPDX-License-Identifier: MIT
"""The lives of single jobs on their way between histories: as lines of JSON, and joined with those that are there.

Runs in: outside BitBake.
Covers: the form of a line, what makes it a bad one, and what is remembered of two tables of one task.
Does not cover: the table itself (memguard.predict.remembered_lives), other lines (samples_file).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

from memguard.predict.remembered_lives import Lives, NoTable
from memguard.record.history.samples import BadSample, TaskLives, is_printable_text
from memguard.record.history.schema import LONGEST_VALUE_BYTES
from memguard.record.history.store import History
from memguard.units import format_bytes

EXAMPLE = {"pn": "zlib", "task": "do_compile", "written_s": 1712928495.59, "lives": "bGl2ZXMxCgA="}
_LATER = re.compile(rb"lives(?!1\n)\d+\n")


def is_lives(line: Any) -> bool:
    """Whether a JSON value is meant as the lives of a task's jobs, and not as a sample."""
    return isinstance(line, dict) and "lives" in line


def format_lives(lives: TaskLives) -> dict[str, Any]:
    """Lives as the JSON object that parse_lives() takes."""
    text = base64.b64encode(lives.packed).decode("ascii")
    return {"pn": lives.recipe, "task": lives.task, "written_s": lives.written_s, "lives": text}


def parse_lives(line: dict[str, Any]) -> TaskLives:
    """The lives in a JSON object of the form of EXAMPLE. Raises BadSample for anything else."""
    text = line["lives"]
    try:
        packed = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _bad("lives", text, "a table of lives in base64") from None
    return check_lives(TaskLives(line.get("pn", ""), line.get("task", ""), line.get("written_s", -1.0), packed))


def check_lives(lives: TaskLives) -> TaskLives:
    """`lives`, if they are what a history can keep, wherever they come from. Raises BadSample."""
    for key, name in (("pn", lives.recipe), ("task", lives.task)):
        if not name or not is_printable_text(name):
            raise _bad(key, name, "a name of printable characters")
    if type(lives.written_s) not in (int, float) or not 0 <= lives.written_s < 1 << 53:
        raise _bad("written_s", lives.written_s, "seconds since the epoch")
    if len(lives.packed) > LONGEST_VALUE_BYTES:
        most = format_bytes(LONGEST_VALUE_BYTES)
        raise BadSample(f"the lives of {lives.recipe} {lives.task} take more than {most}")
    if _LATER.match(lives.packed):
        raise BadSample(f"the lives of {lives.recipe} {lives.task} were written by a newer memguard")
    try:
        Lives(lives.packed)
    except NoTable as error:
        raise BadSample(f"the lives of {lives.recipe} {lives.task} are {error}") from None
    return lives._replace(written_s=float(lives.written_s))


def sound_lives(lives: Iterable[TaskLives], on_bad: Callable[[BadSample], None]) -> list[TaskLives]:
    """Those that check_lives() takes; `on_bad` takes why the others are none."""
    sound = []
    for one in lives:
        try:
            sound.append(check_lives(one))
        except BadSample as bad:
            on_bad(bad)
    return sound


def take_lives(target: History, lives: Iterable[TaskLives]) -> int:
    """Join sound lives with what `target` remembers; of how many tasks that said anything new."""
    return target.take_lives(list(lives), join)


def join(newer: bytes, older: bytes) -> bytes:
    """What is remembered of two tables of one task, which may be damaged."""
    return Lives.found(newer).joined_to(Lives.found(older))


def _bad(key: str, found: Any, wanted: str) -> BadSample:
    good = json.dumps({key: EXAMPLE[key]})
    return BadSample(f"{json.dumps(key)} is {reprlib.repr(found)}, not {wanted}, as in {good}")
