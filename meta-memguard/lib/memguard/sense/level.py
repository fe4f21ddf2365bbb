# SPDX-License-Identifier: MIT
"""One cgroup of one hierarchy: what its files say of limits, use, events and CPUs, the same for v1 and v2.

Runs in: the BitBake server, the sentinel and the command; standard library only.
Covers: the names and meanings of the files of both versions; kernels that lack some of them.
Does not cover: where a process lies (cgroups), and which level's number counts (container).
Sources of the formats: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from memguard.sense.kernel_files import KernelFiles, parse_number

# A v1 limit is "none" at the highest page-aligned number a signed 64-bit counter holds; anything near it is, too,
# on kernels with other page sizes.
V1_UNLIMITED_BYTES = 1 << 62

_V1_STAT = (
    "total_rss",
    "total_shmem",
    "total_cache",
    "total_inactive_file",
    "total_active_file",
    "total_swap",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
)
_V1_NEEDED = ("total_rss", "total_cache")
# `kernel` exists since Linux 5.18; before, its unreclaimable parts are listed one by one.
_V2_KERNEL_PARTS = ("slab_unreclaimable", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc")
_V2_STAT = ("anon", "shmem", "file", "inactive_file", "kernel", "sock", "slab_reclaimable", *_V2_KERNEL_PARTS)
_V2_NEEDED = ("anon", "shmem")


@dataclass(frozen=True)
class Use:
    """Memory charged to a cgroup, in bytes. None: the kernel does not say.

    anon, shmem, kernel: what cannot be reclaimed; together they are used.
    charged:       all of it, page cache included, as memory.current or memory.usage_in_bytes say.
    inactive_file: page cache that has not been touched for a while.
    swap:          what lies in swap.
    limit_above, memsw_limit_above: on v1, the smallest limit of memory, and of memory and swap together, of this
                   cgroup and of all above it, those outside the visible tree included.
    """

    anon_bytes: int
    shmem_bytes: int
    kernel_bytes: int
    charged_bytes: int | None = None
    inactive_file_bytes: int | None = None
    swap_bytes: int | None = None
    limit_above_bytes: int | None = None
    memsw_limit_above_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """Memory that cannot be reclaimed."""
        return self.anon_bytes + self.shmem_bytes + self.kernel_bytes

    @property
    def cache_bytes(self) -> int | None:
        """What the kernel takes back when memory is short: page cache and reclaimable kernel memory."""
        return None if self.charged_bytes is None else max(0, self.charged_bytes - self.used_bytes)

    @property
    def working_set_bytes(self) -> int | None:
        """What the kubelet acts on: all that is charged less the inactive page cache (cAdvisor, setMemoryStats)."""
        if self.charged_bytes is None or self.inactive_file_bytes is None:
            return None
        return max(0, self.charged_bytes - self.inactive_file_bytes)


@dataclass(frozen=True)
class Level:
    """One cgroup on the way from the process up to the mount's root."""

    directory: str
    is_v2: bool
    files: KernelFiles

    def path(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.directory}/{name}"

    def has(self, name: str) -> bool:
        """Whether one of its files is there."""
        return os.path.exists(self.path(name))

    def counts_below(self) -> bool:
        """Whether its limits bind the cgroups below it: not on v1 where memory.use_hierarchy is 0."""
        return self.is_v2 or self.files.number(self.path("memory.use_hierarchy")) != 0

    def limit(self) -> tuple[int, str] | None:
        """The smallest finite limit that is set here, in bytes, and the file it is in; None where none is."""
        if not self.is_v2:
            return self._finite("memory.limit_in_bytes")
        hard, soft = self._finite("memory.max"), self._finite("memory.high")
        return soft if hard is None or (soft is not None and soft[0] < hard[0]) else hard

    def charged_bytes(self) -> int | None:
        """All that is charged here, page cache included; None where it cannot be read."""
        return self.files.number(self.path("memory.current" if self.is_v2 else "memory.usage_in_bytes"))

    def use(self, kernel_share: float) -> Use | None:
        """Memory charged here; None where the level says neither that nor a limit above it.

        v1 does not split kernel memory: `kernel_share` of it is taken as unreclaimable. Where memory.stat does not
        say what cannot be reclaimed, all that is charged counts as that, page cache included.
        """
        charged = self.charged_bytes()
        stat = self.files.keys(
            self.path("memory.stat"),
            _V2_STAT if self.is_v2 else _V1_STAT,
            _V2_NEEDED if self.is_v2 else _V1_NEEDED,
        )
        if not all(key in stat for key in (_V2_NEEDED if self.is_v2 else _V1_NEEDED)):
            above = _limit_above(stat, "memory")
            if charged is None and above is None:
                return None
            return Use(charged or 0, 0, 0, charged, limit_above_bytes=above)
        if self.is_v2:
            return _use_v2(stat, charged)
        kernel = self.files.number(self.path("memory.kmem.usage_in_bytes")) or 0
        return _use_v1(stat, charged, int(kernel * kernel_share))

    def swap_limit_bytes(self) -> int | None:
        """Swap that may be used here, in bytes; None where nothing limits it or it is not accounted."""
        if self.is_v2:
            return self.files.number(self.path("memory.swap.max"))
        both, memory = self._finite("memory.memsw.limit_in_bytes"), self._finite("memory.limit_in_bytes")
        return None if both is None else max(0, both[0] - (memory[0] if memory else 0))

    def swap_left_bytes(self, use: Use | None) -> int | None:
        """What may still go to swap here, in bytes; None where nothing limits it. use: on v1, what use() said.

        v1 limits memory and swap together: what is left for swap is what memory at its limit leaves of that.
        """
        if self.is_v2:
            most, used = self.files.number(self.path("memory.swap.max")), 0
            if most is not None:
                used = self.files.number(self.path("memory.swap.current")) or 0
            return None if most is None else max(0, most - used)
        if self.files.number(self.path("memory.swappiness")) == 0:
            return 0
        if use is None or use.memsw_limit_above_bytes is None:
            return None
        return max(0, use.memsw_limit_above_bytes - (use.limit_above_bytes or 0) - (use.swap_bytes or 0))

    def events(self) -> dict[str, int]:
        """How often limits were met here and processes killed, by the kernel's own names for it."""
        if self.is_v2:
            names = ("high", "max", "oom", "oom_kill", "oom_group_kill")
            return self.files.keys(self.path("memory.events"), names)
        events = self.files.keys(self.path("memory.oom_control"), ("oom_kill_disable", "under_oom", "oom_kill"))
        failures = self.files.number(self.path("memory.failcnt"))
        return events if failures is None else {"failcnt": failures, **events}

    def oom_kills(self) -> int | None:
        """Processes the kernel killed for this level's memory since it exists; None where it does not say."""
        name = "memory.events" if self.is_v2 else "memory.oom_control"
        return self.files.keys(self.path(name), ("oom_kill",)).get("oom_kill")

    def oom_group(self) -> bool | None:
        """Whether one OOM kill takes all of this cgroup along; None where the kernel has no such switch."""
        value = self.files.number(self.path("memory.oom.group")) if self.is_v2 else None
        return None if value is None else value != 0

    def cpu_quota(self) -> float | None:
        """CPUs that the quota of this level allows, None where it sets none."""
        if self.is_v2:
            quota, _, period = self.files.text(self.path("cpu.max")).strip().partition(" ")
            most, each = parse_number(quota), parse_number(period)
        else:
            most = self.files.number(self.path("cpu.cfs_quota_us"))
            each = self.files.number(self.path("cpu.cfs_period_us"))
        return most / each if most and each else None

    def cpuset(self) -> int | None:
        """How many CPUs this level may run on, None where it does not say."""
        for name in ("cpuset.cpus.effective",) if self.is_v2 else ("cpuset.effective_cpus", "cpuset.cpus"):
            count = count_cpus(self.files.text(self.path(name)))
            if count:
                return count
        return None

    def is_hierarchy_root(self) -> bool:
        """Whether this is the root of the whole v2 hierarchy, whose numbers are the machine's; a namespace's is not."""
        names = ("cgroup.events", "cgroup.type", "memory.max", "memory.current")
        return not any(self.has(name) for name in names)

    def _finite(self, name: str) -> tuple[int, str] | None:
        path = self.path(name)
        value = self.files.number(path)
        return None if value is None or value >= V1_UNLIMITED_BYTES else (value, path)


def count_cpus(text: str) -> int:
    """How many CPUs a list like "0-3,8" names; 0 for any other text. Format: cpuset(7), "List format"."""
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = parse_number(first), parse_number(last if dash else first)
        if low is None or high is None or high < low:
            return 0
        count += high - low + 1
    return count


def _use_v2(stat: dict[str, int], charged: int | None) -> Use:
    """Use out of a v2 memory.stat; keys in Documentation/admin-guide/cgroup-v2.rst, "memory.stat"."""
    if "kernel" in stat:
        kernel = max(0, stat["kernel"] - stat.get("slab_reclaimable", 0))
    else:
        kernel = sum(stat.get(part, 0) for part in _V2_KERNEL_PARTS)
    return Use(stat["anon"], stat["shmem"], kernel + stat.get("sock", 0), charged, stat.get("inactive_file"))


def _use_v1(stat: dict[str, int], charged: int | None, kernel_bytes: int) -> Use:
    """Use out of a v1 memory.stat, descendants included; keys in Documentation/admin-guide/cgroup-v1/memory.rst.

    Kernels before 4.18 do not list shmem, but keep it on the anonymous LRU lists: it is then the cache that is on
    no file list.
    """
    inactive_file = stat.get("total_inactive_file")
    files = (inactive_file or 0) + stat.get("total_active_file", 0)
    return Use(
        anon_bytes=stat["total_rss"],
        shmem_bytes=stat.get("total_shmem", max(0, stat["total_cache"] - files)),
        kernel_bytes=kernel_bytes,
        charged_bytes=charged,
        inactive_file_bytes=inactive_file,
        swap_bytes=stat.get("total_swap"),
        limit_above_bytes=_limit_above(stat, "memory"),
        memsw_limit_above_bytes=_limit_above(stat, "memsw"),
    )


def _limit_above(stat: dict[str, int], name: str) -> int | None:
    """The smallest limit of a v1 cgroup and all above it, in bytes; None where there is none or it is not known."""
    limit = stat.get(f"hierarchical_{name}_limit", V1_UNLIMITED_BYTES)
    return limit if limit < V1_UNLIMITED_BYTES else None
