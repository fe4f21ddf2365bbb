# SPDX-License-Identifier: MIT
"""A name for the memory that builds share: whoever works it out within the same limit gets the same one.

Runs in: the sentinel and the command; standard library only.
Covers: the limit that bounds a reading, as a short name that can be part of a file's.
Does not cover: limits above that one, which others may share besides.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from memguard.model import Reading
from memguard.sense.container import Sensor


def limit_id(sensor: Sensor, reading: Reading) -> str | None:
    """Sixteen hexadecimal digits; None where the limit's cgroup cannot be seen.

    Paths of cgroups say nothing: in a container with a cgroup namespace they all are "/". Device and inode are those of
    the one hierarchy that the kernel has, whatever part of it is mounted. They are of this boot, and processes are
    known by pids of this pid namespace. Without a limit it is the machine.
    """
    levels = sensor.memory.levels if sensor.memory else ()
    shared = ""
    if reading.limit_source.startswith("/"):
        shared = str(Path(reading.limit_source).parent)
    elif reading.limit_source == "MEMGUARD_LIMIT" and levels:
        # Then what is used is that of the cgroup with the smallest limit, or of the own one.
        limited = [(found[0], level.directory) for level in levels if (found := level.limit()) is not None]
        shared = min(limited, default=(0, levels[0].directory))[1]
    try:
        words = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        for path in filter(None, ("/proc/self/ns/pid", shared)):
            status = Path(path).stat()
            words.append(f"{status.st_dev}:{status.st_ino}")
    except (OSError, ValueError):
        return None
    return hashlib.sha256(" ".join(words).encode("ascii")).hexdigest()[:16]
