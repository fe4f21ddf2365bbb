# SPDX-License-Identifier: MIT
"""One run of one task, for histories that a test makes."""

from __future__ import annotations

from memguard.model import Outcome, Record
from memguard.units import MIB

RUN = Record(
    build="b0",
    recipe="zlib",
    version="1.3.1",
    task="do_compile",
    machine="qemux86-64",
    jobs=4,
    peak_bytes=400 * MIB,
    largest_process_bytes=90 * MIB,
    wall_s=12.5,
    cpu_s=40.0,
    outcome=Outcome.OK,
)
