# SPDX-License-Identifier: MIT
"""Where a process lies in the cgroup hierarchies, and what each cgroup on its path says of itself.

Runs in: the BitBake server, the sentinel and the command; standard library only.
Covers: v1, v2 and hybrid mounts, with and without cgroup namespace, mounts that show a part of the hierarchy.
Does not cover: the machine as a whole, and which of the numbers counts (sense); cgroups outside the visible tree.
See also: docs/internals.md, "Sense"; the shapes of containers in tests/fixtures/cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from memguard.sense import mounts
from memguard.sense.kernel_files import KernelFiles, parse_number

# A v1 limit is "none" at the highest page-aligned number a signed 64-bit counter holds; anything near it is, too,
# on kernels with other page sizes.
V1_UNLIMITED_BYTES = 1 << 62

# How many cgroups are looked through for a process whose own path says nothing. A node of 250 pods has some 2,000.
_SEARCHED_MOST = 5000

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
class Mount:
    """One cgroup mount: what part of the hierarchy it shows, where, and for which controllers (empty for v2)."""

    root: str
    point: str
    controllers: frozenset[str]
    is_v2: bool
    is_writable: bool


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
        """Memory charged here; None where the level tells neither that nor a limit above it.

        v1 does not split kernel memory: `kernel_share` of it is taken as unreclaimable. Where memory.stat does not
        tell what cannot be reclaimed, all that is charged counts as that, page cache included.
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


@dataclass(frozen=True)
class Place:
    """Where a process lies in one hierarchy: its own cgroup first, then those above up to the mount's root.

    group:    its path as /proc/PID/cgroup has it.
    is_found: whether its own cgroup is visible. Where it is not, the levels are those of the mount's root, which may
              be a stranger's.
    """

    levels: tuple[Level, ...]
    group: str
    mount: Mount
    is_found: bool


class Hierarchies:
    """The cgroup hierarchies that are mounted below `root`, and the cgroups of one process in them.

    mountinfo: the text of its mount table, for other mounts.
    """

    def __init__(self, root: str, process: str, files: KernelFiles) -> None:
        self._root = root.rstrip("/")
        self._files = files
        self._pid = _pid(files.text(f"{self._root}/proc/{process}/stat"))
        table, self._table = (f"{self._root}/proc/{process}/{name}" for name in ("mountinfo", "cgroup"))
        self.mountinfo = _told(files, table)
        self.mounts = list(_cgroup_mounts(self.mountinfo)) or self._usual_mounts()
        self._groups_text = _told(files, self._table)
        self.groups = _own_groups(self._groups_text)
        if self.mounts and not self.groups:
            files.blame(self._table, "names no cgroup")

    @property
    def version(self) -> str:
        """What is mounted: "v1", "v2", "hybrid" for both, "none". systemd's own v1 hierarchy has no controller."""
        has_v2 = any(mount.is_v2 for mount in self.mounts)
        has_v1 = any(any("=" not in name for name in mount.controllers) for mount in self.mounts)
        return {(True, True): "hybrid", (True, False): "v2", (False, True): "v1", (False, False): "none"}[
            has_v2, has_v1
        ]

    def has_moved(self) -> bool:
        """Whether the process has been moved to other cgroups since."""
        text = self._files.text(self._table)
        return bool(text) and text != self._groups_text

    def place(self, controller: str) -> Place | None:
        """Where the process lies for `controller`: in its v1 hierarchy if that is mounted, else in v2; None if neither.

        Where several mounts show the hierarchy, the levels that each shows are put together.
        """
        for is_v2 in (False, True):
            showing = [
                mount for mount in self.mounts if mount.is_v2 == is_v2 and (is_v2 or controller in mount.controllers)
            ]
            group = self.groups.get("" if is_v2 else controller, None if self.groups else "/")
            places = [place for mount in showing if group is not None and (place := self._place(mount, group))]
            if places:
                places.sort(key=lambda place: not place.is_found)
                certain = [place for place in places if place.is_found] or places[:1]
                levels = tuple(_distinct(level for place in certain for level in place.levels))
                return Place(levels, places[0].group, places[0].mount, places[0].is_found)
        return None

    def _place(self, mount: Mount, group: str) -> Place | None:
        """Where `group` lies below a mount that shows the hierarchy from the mount's root on.

        In a container without a cgroup namespace both are the host's path, and the mount's root is the group itself.
        """
        top = self._root + mount.point.rstrip("/")
        if not os.path.isdir(top):
            return None
        below = _relative(group, mount.root)
        is_found = below is not None and os.path.isdir(f"{top}/{below}")
        if not is_found:
            searched = self._search(top)
            is_found, below = searched is not None, searched if searched is not None else below
        parts = PurePosixPath(below or "").parts
        paths = ["/".join((top, *parts[:depth])) for depth in range(len(parts), -1, -1)]
        levels = tuple(Level(path, mount.is_v2, self._files) for path in paths if os.path.isdir(path))
        return Place(levels, group, mount, is_found)

    def _search(self, top: str) -> str | None:
        """The cgroup below `top` that lists the process, relative to it; None where none of the first thousands does.

        Without its path (a mount from outside of the cgroup namespace, a path that begins with "/..") this is the only
        way to find it.
        """
        if self._pid is None:
            return None
        queue = [""]
        for relative in queue:
            if self._pid in self._files.text(f"{top}/{relative}/cgroup.procs").split():
                return relative
            if len(queue) < _SEARCHED_MOST:
                queue += [f"{relative}/{name}".lstrip("/") for name in _directories(f"{top}/{relative}")]
        return None

    def _usual_mounts(self) -> list[Mount]:
        """The mounts as every distribution makes them, for where the table of mounts cannot be read."""
        top = f"{self._root}/sys/fs/cgroup"
        if os.path.exists(f"{top}/cgroup.controllers"):
            return [Mount("/", "/sys/fs/cgroup", frozenset(), is_v2=True, is_writable=False)]
        return [
            Mount("/", f"/sys/fs/cgroup/{name}", frozenset(name.split(",")), is_v2=False, is_writable=False)
            for name in _directories(top)
            if {"memory", "cpu", "cpuset"} & set(name.split(","))
        ]


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


def _cgroup_mounts(mountinfo: str) -> Iterator[Mount]:
    for mounted in mounts.parse(mountinfo):
        if mounted.kind in ("cgroup", "cgroup2"):
            yield Mount(
                root=mounted.root,
                point=mounted.point,
                controllers=mounted.super_options if mounted.kind == "cgroup" else frozenset(),
                is_v2=mounted.kind == "cgroup2",
                is_writable="ro" not in mounted.options,
            )


def _told(files: KernelFiles, path: str) -> str:
    """The text of a table that every process has; what is no whole text is told among the faults."""
    text = files.text(path)
    if "\0" in text or "\N{REPLACEMENT CHARACTER}" in text:
        files.blame(path, "is no text")
    elif text and not text.endswith("\n"):
        files.blame(path, "ends in the middle of a line")
    elif not text and os.path.exists(path):
        files.blame(path, "is empty")
    return text


def _own_groups(cgroup: str) -> dict[str, str]:
    """Paths of a /proc/PID/cgroup text by controller; the v2 path stands under ""."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and path.startswith("/"):
            for controller in controllers.split(",") if number != "0" else [""]:
                groups[controller] = path
    return groups


def _pid(stat: str) -> str | None:
    pid = stat.partition(" ")[0]
    return pid if pid.isascii() and pid.isdigit() and pid != "0" else None


def _relative(group: str, mount_root: str) -> str | None:
    """The path of `group` below a mount's root; None where it is not below, or outside of the namespace ("/..")."""
    group, mount_root = group.strip("/"), mount_root.strip("/")
    if ".." in group.split("/") or ".." in mount_root.split("/"):
        return None
    if not mount_root:
        return group
    if group == mount_root:
        return ""
    return group[len(mount_root) + 1 :] if group.startswith(f"{mount_root}/") else None


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (OSError, ValueError):
        return []


def _distinct(levels: Iterable[Level]) -> Iterator[Level]:
    """Each cgroup once, though several mounts show it."""
    seen = set()
    for level in levels:
        try:
            status = os.stat(level.directory)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield level


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
    """The smallest limit of a v1 cgroup and all above it, in bytes; None where there is none or it is not told."""
    limit = stat.get(f"hierarchical_{name}_limit", V1_UNLIMITED_BYTES)
    return limit if limit < V1_UNLIMITED_BYTES else None
