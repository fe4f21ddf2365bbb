# SPDX-License-Identifier: MIT
"""What a first build has learned changes the order of the second, and who gives way in it, in real BitBake."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

from bench.warm import REPOSITORY, make_layer

from memguard.decide.chain import NICE
from testbed import builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST

GIANT = ("giant", "do_compile")


def starts(build: Path) -> list[tuple[str, str]]:
    """The tasks of the newest build in the order they started."""
    log = max((build / "memguard" / "events").glob("*.jsonl"), key=lambda path: (path.stat().st_mtime, path.name))
    events = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(event["recipe"], event["task"]) for event in events if event["event"] == "start" and "recipe" in event]


def who_gives_way(build: Path) -> list[str]:
    """The logs of tasks of the newest build that gave way; a compile runs with the nice value that its log tells of."""
    found = []
    for log in (build / "tmp" / "work").glob("*/*/temp/log.do_*.*"):
        text = log.read_text(encoding="utf-8")
        gives_way = f"nice value raised by {NICE}," in text
        if gives_way:
            found.append(log.name)
        if log.name.startswith("log.do_compile."):
            assert f"nice value {os.nice(0) + NICE * gives_way}\n" in text
    return found


def test_a_second_build_starts_its_longest_task_earlier(bitbake: BitBake, tmp_path: Path) -> None:
    """BitBake's order has the long compile that nobody waits for late; with a history it is among the first.

    What runs beside it then gives way to it.
    """
    layer = make_layer(tmp_path / "meta-chain", 0.1)
    conf = f'BB_NUMBER_THREADS = "3"\nINHERIT += "memguard"\nMEMGUARD_HISTORY = "{tmp_path}/history.db"\n'
    build = builddir.make(tmp_path / "build", [META_TEST, layer, REPOSITORY / "meta-memguard"], conf)
    orders, giving_way = [], []
    for _ in range(2):
        result = builddir.run(bitbake, build, "everything")
        assert result.returncode == 0, result.output[-4000:]
        orders.append(starts(build))
        giving_way.append(who_gives_way(build))
        with contextlib.closing(sqlite3.connect(tmp_path / "history.db")) as history, history:
            # However slow this machine is just now, nothing comes near it.
            (task,) = history.execute("SELECT id FROM tasks WHERE recipe = ? AND name = ?", GIANT).fetchone()
            history.execute("UPDATE samples SET wall_s = 1000 WHERE task = ?", (task,))
        for name in ("stamps", "work"):
            shutil.rmtree(build / "tmp" / name, ignore_errors=True)
    cold, warm = orders
    assert sorted(cold) == sorted(warm)
    # Its fetch, unpack and configure come before it, beside two other threads.
    assert warm.index(GIANT) < 20
    assert cold.index(GIANT) > 2 * warm.index(GIANT)
    assert not giving_way[0]
    assert giving_way[1]
