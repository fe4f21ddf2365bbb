# SPDX-License-Identifier: MIT
"""Reads the event logs that builds leave behind.

Covers: every line must be an event of this version: what cannot be parsed is the test's failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.record.events import as_object, parse


def read_events(builddir: Path) -> list[dict[str, Any]]:
    """The events of the newest build of a build directory, in order; empty when it has none."""
    logs = sorted(BuildDirectory(builddir / USUAL_NAME).events.glob("*.jsonl"))
    return read_log(logs[-1]) if logs else []


def read_readings(builddir: Path) -> list[dict[str, Any]]:
    """What each task of the newest build took, in the order in which they ended; empty when nothing was measured."""
    logs = sorted(BuildDirectory(builddir / USUAL_NAME).readings.glob("*.jsonl"))
    return [line for line in (read_log(logs[-1]) if logs else []) if line["event"] == "task"]


def read_log(log: Path) -> list[dict[str, Any]]:
    """All events of one log, in order, as JSON objects."""
    return [as_object(parse(line)) for line in log.read_text(encoding="utf-8").splitlines()]
