# SPDX-License-Identifier: MIT
"""The process itself.

Runs in: a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memguard.act.cpu_first import precedence
from memguard.channels.fifo import Listener, Notes
from memguard.channels.notes import FAREWELL, Orders, parse_orders
from memguard.sense.pressure_trigger import PressureTrigger
from memguard.sentinel.sentinel import Sentinel
from memguard.sentinel.watched import Report

# Pressure that was told counts for so long.
PRESSED_S = 1.0


def run(orders: Orders, notes: int, server: int, before_exec: Callable[[], None] | None = None) -> Report:
    """Watch until the pipe `server` ends, then finish; the next look comes soon enough for what memory does.

    before_exec: called in the process of what is started meanwhile.
    """
    sentinel = Sentinel(orders, Listener(notes), before_exec=before_exec)
    trigger = PressureTrigger(sentinel.pressure_source())
    poller = select.poll()
    poller.register(server, select.POLLIN)
    if trigger.file is not None:
        poller.register(trigger.file, select.POLLPRI)
    said = b""
    pressed_s = float("-inf")
    try:
        while True:
            due_s = time.monotonic()
            sentinel.step(is_pressed=due_s - pressed_s < PRESSED_S)
            due_s += sentinel.next_look_s
            is_over = False
            for file, events in poller.poll(1000 * max(0.0, due_s - time.monotonic())):
                if file == server:
                    heard = os.read(server, 4096)
                    said, is_over = said + heard, not heard
                else:
                    if trigger.took_place(events):
                        pressed_s = time.monotonic()
                    if trigger.file is None:
                        poller.unregister(file)
            if is_over:
                break
        sentinel.finish(is_farewell=FAREWELL in said)
    finally:
        trigger.close()
        sentinel.close()
        Notes(Path(orders.directory)).clear()
    return sentinel.report


def main(argument: str, notes: str) -> int:
    """The process itself: its orders as JSON, and the descriptor to take notes from; returns its exit status."""
    orders = parse_orders(argument)
    try:
        with precedence() as step_back:
            report: dict[str, Any] = asdict(run(orders, int(notes), sys.stdin.fileno(), step_back))
    except Exception:
        import traceback  # only now: it takes 2 MiB

        report = {"fault": traceback.format_exc()}
    with contextlib.suppress(OSError):
        print(json.dumps(report), flush=True)
    return 1 if "fault" in report else 0
