# SPDX-License-Identifier: MIT
"""Reads the event logs that builds leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_events(builddir: Path) -> list[dict[str, Any]]:
    """The events of the newest build of a build directory, in order; empty when it has none."""
    logs = sorted((builddir / "memguard" / "events").glob("*.jsonl"))
    return read_log(logs[-1]) if logs else []


def read_log(log: Path) -> list[dict[str, Any]]:
    """All events of one log, in order."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
