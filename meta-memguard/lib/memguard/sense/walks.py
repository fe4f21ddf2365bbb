# SPDX-License-Identifier: MIT
"""Divides the memory that processes of a tree share by the proportional sizes of smaps_rollup, within a budget.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: which tree is walked and when, and what the sizes of a walk change in its processes.
Does not cover: what is counted between walks and how far it may be wrong (process_tree).
Source of the format: Documentation/filesystems/proc.rst, "smaps_rollup".

The kernel walks through page tables for a proportional size (Pss: a page of n processes counts 1/n in each), 7 ms per
GiB. So all walks together get WALK_SHARE of a core. One walk goes over all that may share in one tree at one moment,
and its sizes hold until the next. What is shared is then counted in the oldest process, so that copies may come and go.
What a task shares with processes outside of it, such as what its leader inherited from the worker, counts in part once
the tree was walked. Where smaps_rollup is forbidden or has no Pss_Anon (Linux < 5.3), nothing is divided: whatever a
process grows by counts.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from memguard.sense.proc_files import read_size
from memguard.sense.process_reader import ProcessReader
from memguard.sense.process_tree import Process, Tree

# Walks take this much of one core on average, and may use what they saved up; the rest of a scan takes half a
# percent to one with 500 processes.
WALK_SHARE = 0.003
_SAVED_MOST_S = 0.05
# One tree takes no more than this much of a core by walks, even of what was saved up.
_TREE_SHARE = 0.04
# What one walk may go through, some 60 ms: of larger trees a part is walked, which stands for the rest.
WALK_MOST_BYTES = 8 << 30
_EACH_BYTES = 4 << 20  # what reading smaps_rollup costs beside its pages, as pages


class Walks:
    """Walks the tree that needs it most, once in a while."""

    def __init__(self, reader: ProcessReader) -> None:
        self._reader = reader
        self._left_s = _SAVED_MOST_S
        self._asked_s = 0.0

    def walk(self, trees: Collection[Tree], now_s: float) -> Tree | None:
        """Divide what the processes of one tree share, if that is due; returns the tree. Called once a scan."""
        saved_s = max(0.0, now_s - self._asked_s) * WALK_SHARE
        self._left_s, self._asked_s = min(_SAVED_MOST_S, self._left_s + saved_s), now_s
        if self._left_s <= 0 or not trees:
            return None
        tree = max(trees, key=lambda tree: tree.urgency(now_s))
        if not tree.urgency(now_s):
            return None
        started_s = time.thread_time()
        sharers = tree.sharers()
        size_bytes = sum(process.anon_bytes + process.shmem_bytes + _EACH_BYTES for process in sharers)
        stride = 1 + size_bytes // WALK_MOST_BYTES
        walked = [process for process in sharers[::stride] if self._divide(process)]
        if walked:
            _give_to_oldest(walked)
            _stand_for(walked, sharers)
        cost_s = time.thread_time() - started_s
        self._left_s -= cost_s
        tree.settle(now_s, now_s + cost_s / _TREE_SHARE)
        return tree

    def _divide(self, process: Process) -> bool:
        """Read the proportional sizes of one process; False where that is not allowed."""
        rollup = self._reader.read(process, "smaps_rollup") or b""
        anon, anon_pss = read_size(rollup, b"Anonymous:"), read_size(rollup, b"Pss_Anon:")
        shmem_pss, private = read_size(rollup, b"Pss_Shmem:"), read_size(rollup, b"Private_Dirty:")
        if anon is None or anon_pss is None or shmem_pss is None or private is None:
            return False
        process.inherited_bytes = anon - min(anon_pss, private)
        process.common_bytes = max(0, anon_pss - private)
        process.shmem_pss_bytes = shmem_pss
        process.settle()
        return True


def _give_to_oldest(walked: list[Process]) -> None:
    """Count what processes share in the oldest of them, which mostly outlives the others."""
    oldest = min(walked, key=lambda process: process.start_ticks)
    oldest.inherited_bytes -= sum(process.common_bytes for process in walked)
    if not oldest.is_foreign:
        # What was forked in the meantime has a part that was not seen; but the tree holds all that the oldest has.
        oldest.inherited_bytes = min(oldest.inherited_bytes, 0)


def _stand_for(walked: list[Process], sharers: list[Process]) -> None:
    """Let those that were walked stand for those that were not."""
    anon = sum(process.anon_bytes for process in walked) or 1
    shmem = sum(process.shmem_bytes for process in walked) or 1
    own = sum(max(0, process.anon_bytes - process.inherited_bytes) for process in walked)
    shmem_pss = sum(process.shmem_pss_bytes for process in walked)
    for process in set(sharers).difference(walked):
        process.inherited_bytes = max(0, process.anon_bytes - process.anon_bytes * own // anon)
        process.shmem_pss_bytes = process.shmem_bytes * shmem_pss // shmem
        process.settle()
