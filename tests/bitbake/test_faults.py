# SPDX-License-Identifier: MIT
"""Faults inside memguard, in the server, in tasks' processes and in the sentinel: the build goes on as stock.

A handful of what `scripts/bench faults` does hundreds of times, those among them that once failed a task.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.faults import FaultyBuilds

from testbed.bitbake import BitBake
from testbed.container import NoContainer
from testbed.faults import Fault

FAULTS = (
    ("server", "bitbake/scheduler.py:_Ready.first", 3, "KeyError('planted')"),
    ("server", "bitbake/session.py:Session.complete", 1, "OSError(5, 'planted')"),
    ("worker", "bitbake/session.py:Session.__init__", 1, "AttributeError('planted')"),
    ("worker", "bitbake/held_records.py:HeldRecords.__init__", 1, "PermissionError(13, 'planted')"),
    ("worker", "bitbake/held_records.py:HeldRecords._release", 1, "OSError(5, 'planted')"),
    ("worker", "bitbake/task_again.py:TaskScene.end", 1, "MemoryError('planted')"),
    ("worker", "bitbake/task_again.py:TaskScene.begin", 1, "RecursionError('planted')"),
    ("worker", "bitbake/task_again.py:TaskScene.look", 1, "TypeError('planted')"),
    ("worker", "bitbake/task_again.py:arm", 1, "RuntimeError('planted')"),
    ("worker", "bitbake/task.py:_apply_grant", 1, "ValueError('planted')"),
    ("worker", "channels/fifo.py:Notes.send", 2, "UnicodeDecodeError('utf-8', b'x', 0, 1, 'planted')"),
    ("sentinel", "sentinel/sentinel.py:Sentinel._take_notes", 2, "AssertionError('planted')"),
    ("sentinel", "sense/container.py:Sensor.read", 5, "ZeroDivisionError('planted')"),
)


@pytest.mark.memcg
def test_a_fault_of_memguard_is_none_of_the_build(bitbake: BitBake, tmp_path: Path) -> None:
    """Whatever raises, BitBake ends well, with the same outputs, and no process is left."""
    try:
        builds = FaultyBuilds(bitbake, tmp_path, ("tiny-01", "tiny-02", "tiny-07"))
    except NoContainer as missing:
        pytest.skip(str(missing))
    verdict = builds.build([Fault(number, *fault) for number, fault in enumerate(FAULTS)])
    assert verdict.wrong == [], builds.output
    assert {"server", "worker", "sentinel"} == {fault.role for fault in verdict.struck}
    assert len(verdict.struck) >= 10, verdict.struck
