# SPDX-License-Identifier: MIT
"""What the Yocto Project publishes of its performance builds: buildstats.json, as in the git notes of yocto-buildstats.

Runs in: outside BitBake.
Covers: the document that oe-build-perf-test writes: for each measured build a list of recipes and their tasks.
Does not cover: fetching it (`git notes show`), and text files of buildstats (buildstats).

Such a record gives durations, and a floor of memory. The document adds what a task's own process took at most and what
the largest of its children did; only their sum is known, so what the own process usually takes is taken off again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from memguard.model import Outcome, Record
from memguard.record.history.samples import BadSample, check_record, format_sample
from memguard.units import KIB, MIB
from memguard_cli.errors import UserError

# A note of a core-image-sato build has 9 MB; several builds are in one document.
LARGEST_BYTES = 256 * MIB
# evidence: own processes of 728 tasks of a core-image-minimal build took 48 to 74 MiB
OWN_PROCESS_BYTES = 80 * MIB

# A list of recipes, or an object of such lists; also where it is written over several lines.
_DOCUMENT = re.compile(rb'\s*(?:\[|\{\s*(?:$|"[^"\n]*"\s*:\s*\[))')


def is_document(beginning: bytes) -> bool:
    """Whether a file that begins with this line is one document, and not one sample or lives a line."""
    return _DOCUMENT.match(beginning) is not None


def read_document(text: bytes, name: str, complain: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The samples in a document. Raises UserError for what is none as a whole.

    `complain` takes a sentence, with `name`, for each task that is passed over.
    """
    if len(text) > LARGEST_BYTES:
        raise UserError(f"{name} is too large for buildstats of a performance test")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    builds = document if isinstance(document, dict) else {"build": document}
    if not builds or not all(isinstance(recipes, list) for recipes in builds.values()):
        raise UserError(f"{name} is not a buildstats.json", "git notes --ref=buildstats/BRANCH/MACHINE show COMMIT")
    for measurement, recipes in builds.items():
        yield from _read_build(measurement, recipes, name, complain)


def _read_build(
    measurement: str, recipes: list[Any], name: str, complain: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    starts = [start for recipe in recipes for start in _starts(recipe)]
    began_s = min(starts, default=None)
    stamp = "" if began_s is None else time.strftime("%Y%m%d%H%M%S-", time.gmtime(began_s))
    for recipe in recipes:
        tasks = recipe.get("tasks") if isinstance(recipe, dict) else None
        if not isinstance(tasks, dict):
            complain(f"{name}: {measurement}: a recipe without tasks")
            continue
        for task, told in tasks.items():
            try:
                record = _record(f"{stamp}{measurement}", recipe, task, told)
                check_record(record, began_s)
            except (BadSample, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                reason = error if isinstance(error, BadSample) else "does not say how long it took, or how much memory"
                complain(f"{name}: {measurement}: {recipe.get('name')} {task}: {reason}")
            else:
                yield format_sample(record, began_s)


def _record(build: str, recipe: dict[str, Any], task: str, told: dict[str, Any]) -> Record:
    """One run. Raises BadSample and the errors of a dictionary that lacks something."""
    own, children = told["rusage"], told.get("child_rusage") or {}
    used = (own, children)
    return Record(
        build=build,
        recipe=recipe["name"],
        version=recipe.get("version") or "",
        task=task,
        machine="",
        jobs=None,
        peak_bytes=None,
        largest_process_bytes=_largest_bytes(own, children),
        wall_s=float(told["elapsed_time"]),
        cpu_s=round(sum(float(part.get(key, 0)) for part in used for key in ("ru_utime", "ru_stime")), 6),
        outcome=Outcome.OK if told.get("status") == "PASSED" else Outcome.FAILED,
    )


def _largest_bytes(own: dict[str, Any], children: dict[str, Any]) -> int:
    """What the largest process took at least."""
    if "ru_maxrss" in children:
        return max(int(own["ru_maxrss"]), int(children["ru_maxrss"])) * KIB
    both = int(own["ru_maxrss"]) * KIB
    return max(both // 2, both - OWN_PROCESS_BYTES)


def _starts(recipe: Any) -> Iterator[float]:
    """When the tasks of a recipe began, in seconds since the epoch."""
    tasks = recipe.get("tasks") if isinstance(recipe, dict) else None
    for told in tasks.values() if isinstance(tasks, dict) else ():
        start: Any = told.get("start_time") if isinstance(told, dict) else None
        if type(start) in (int, float) and 0 <= start < 1 << 33:
            yield float(start)
