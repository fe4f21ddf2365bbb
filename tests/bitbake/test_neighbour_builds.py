# SPDX-License-Identifier: MIT
"""A real build beside another one under its limit, of which the test says what it does."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from memguard.channels.neighbours import Board, Entry, JobEntry, TaskEntry, as_bytes
from memguard.model import Reading
from memguard.sense.container import Sensor
from memguard.sense.limit_id import limit_id
from memguard.sense.proc_files import find_process
from memguard.units import GIB, MIB
from testbed import builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST
from testbed.container import NoContainer, container
from testbed.events import read_events
from testbed.repeating import repeating

META_MEMGUARD = Path(__file__).resolve().parents[2] / "meta-memguard"
CONF = """\
INHERIT += "memguard"
MEMGUARD_NEIGHBOURS = "${TOPDIR}/board"
BB_NUMBER_THREADS = "4"
TINY_COMMAND:pn-tiny-07 = "tiny_await 2 'hold.*do_compile' ${TOPDIR}/memguard/events/*.jsonl"
MEMGUARD_FOOTPRINT:pn-tiny-07 = "do_compile:base=16M"
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=500M"
MEMGUARD_FOOTPRINT:pn-tiny-02 = "do_compile:base=500M"
"""


@pytest.mark.memcg
def test_what_another_build_will_take_is_not_free(bitbake: BitBake, tmp_path: Path) -> None:
    """Two compiles that fit together wait beside a build whose compiler is still to grow, and start one by one.

    A third one, which is light, runs until both wait: where nothing at all runs, one starts in any case.
    """
    job = JobEntry(4194300, 1, 0, 1.0, 0.0, 1300 * MIB, 600.0, 4.0, ended=20)
    entry = Entry(cpus=64.0, tasks=(TaskEntry(4194299, 1, 1, 0, 1300 * MIB, 600.0, 4.0, next_ended=20, jobs=(job,)),))
    builddir.make(tmp_path, [META_TEST, META_MEMGUARD], CONF)
    try:
        with container(2 * GIB, "memguard-test") as box:
            reading = Reading(2 * GIB, f"{box.directory}/limit", 0, 0, 2 * GIB, None, None, 2.0)
            key, me = limit_id(Sensor(), reading), find_process(os.getpid())
            assert key is not None
            assert me is not None
            board = Board(str(tmp_path / "board"))
            with contextlib.closing(board), repeating(lambda: board.write(key, *me, as_bytes(entry)), 0.2):
                result = builddir.run(bitbake, tmp_path, "tiny-01", "tiny-02", "tiny-07", prefix=box.prefix)
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 0, result.output
    compiles = [
        event
        for event in read_events(tmp_path)
        if event.get("task") == "do_compile" and event["recipe"] in ("tiny-01", "tiny-02")
    ]
    held = [event for event in compiles if event["event"] == "hold"]
    assert {event["recipe"] for event in held} == {"tiny-01", "tiny-02"}, result.output
    assert all("will be free" in event["reason"] for event in held)
    assert [event["event"] for event in compiles if event["event"] in ("start", "end")] == ["start", "end"] * 2
    # The build's own file is gone with it, and the other's is untouched.
    assert [path.name for path in (tmp_path / "board").iterdir()] == [f"{key}.{me.pid}.{me.start_ticks}"]
