# SPDX-License-Identifier: MIT
"""A state as the sentinel publishes it, and what Prometheus' own client reads in a scrape of it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

STATE: dict[str, Any] = {
    "version": 2,
    "time_s": 812.5,
    "time": 1764000100.25,
    "build": "20261124031247-17",
    "pid": 17,
    "limit_bytes": 8 << 30,
    "limit_source": "/sys/fs/cgroup/memory.max",
    "used_bytes": 5 << 30,
    "reserve_bytes": 1 << 28,
    "cpus": 3.5,
    "mode": "enforce",
    "marks": {"withdraw_bytes": 6 << 30, "stop_bytes": 7 << 30, "kill_bytes": (8 << 30) - 1},
    "tasks": {
        "/r/a.bb:do_compile": {
            "recipe": "a",
            "task": "do_compile",
            "state": "running",
            "current_bytes": 1000,
            "peak_bytes": 1500,
            "granted_bytes": 2000,
            "jobs": 4,
            "tokens": 3,
            "compilers": 4,
            "stopped": 1,
            "since": 1764000000.0,
        },
        "/r/b.bb:do_compile": {"state": "stopped", "current_bytes": 10, "granted_bytes": 20, "tokens": None},
    },
    "held": [{"recipe": "c", "task": "do_compile", "reason": "needs 3.0 GiB", "since": 1764000040.25}],
    "counts": {
        "granted": 10,
        "held": 3,
        "shrunk": 2,
        "stopped": 5,
        "killed": 1,
        "retried": 1,
        "lost": 0,
        "oom_kills": 0,
    },
    "events": [],
}


def parsed(text: str) -> dict[str, dict[str, float]]:
    """The samples in a text, as Prometheus' own client reads them: name -> label's value -> number."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found
