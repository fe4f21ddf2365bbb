# SPDX-License-Identifier: MIT
"""BitBake adapter inside a task: lowers the recipe's knobs to the grant the server left for it.

Runs in: the task's own child process, before prefuncs and the task; imports bb.
Covers: variables and environment of this one task. No task signature sees any of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bb

from memguard import settings
from memguard.handover import Handover
from memguard.knobs import KNOBS, Knob, lower

if TYPE_CHECKING:
    from bb.data_smart import DataSmart


def handle(event: Any, d: DataSmart) -> None:
    """What memguard.bbclass does on TaskStarted. A grant that cannot be used costs a warning, never the task."""
    directory = d.getVar("MEMGUARD_DIR")
    if not directory or settings.is_off(d.getVar):
        return
    try:
        jobs = Handover(Path(directory)).take(f"{event._fn}:{event.task}")
        if jobs is not None:
            changed = [change for knob in KNOBS for change in _turn_down(knob, jobs, d)]
            bb.note(f"memguard: {jobs} jobs fit now: {', '.join(changed) or 'nothing to lower'}")
    except Exception as error:
        bb.warn(f"memguard: the grant for {event.task} cannot be used, it runs with all its jobs: {error!r}")


def _turn_down(knob: Knob, jobs: int, d: DataSmart) -> list[str]:
    """Lower one knob where the recipe uses it; what was changed, in words."""
    value = d.getVar(knob.variable)
    if value:
        lowered = lower(value, jobs, knob.least)
        if lowered == value:
            return []
        d.setVar(knob.variable, lowered)
    else:
        if value is not None or not any(bb.data.inherits_class(name, d) for name in knob.used_by):
            return []
        lowered = str(max(knob.least, min(jobs, len(os.sched_getaffinity(0)))))
        d.setVar(knob.variable, lowered)
        d.setVarFlag(knob.variable, "export", "1")
        os.environ[knob.variable] = lowered
    if knob.variable in os.environ:
        os.environ[knob.variable] = lowered
    return [f"{knob.variable} = {lowered}"]
