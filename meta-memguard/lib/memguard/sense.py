# SPDX-License-Identifier: MIT
"""What memory and how many CPUs this container has, and what it uses now.

Runs in: the BitBake server; standard library only. Every path hangs below a root, so that tests read literal trees.
Covers: cgroup v2 and v1 from the process's own group up to the mount's root, CPU quota, and the plain host.
Does not cover: whose the memory is; a limit that is set outside the visible tree (MEMGUARD_LIMIT says it then).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from memguard.model import Reading

# A v1 limit is "none" at the highest page-aligned number a signed 64-bit counter holds; anything near it is, too,
# on kernels with other page sizes.
V1_UNLIMITED_BYTES = 1 << 62


@dataclass(frozen=True)
class Mount:
    """One cgroup mount: what part of the hierarchy it shows, where, and for which controllers (empty for v2)."""

    root: str
    point: str
    controllers: frozenset[str]
    is_v2: bool


@dataclass(frozen=True)
class Level:
    """One cgroup on the way from the process up to the mount's root."""

    directory: Path
    is_v2: bool

    def limit(self) -> tuple[int, Path] | None:
        """The smallest finite limit here and the file it is in; None where nothing limits this level."""
        limits = []
        if self.is_v2:
            for name in ("memory.max", "memory.high"):
                limits.append((_read_number(self.directory / name), self.directory / name))
        else:
            name = "memory.limit_in_bytes"
            limits.append((_read_number(self.directory / name), self.directory / name))
            stat = self.directory / "memory.stat"
            limits.append((_read_keys(stat).get("hierarchical_memory_limit"), stat))
        finite = [(value, path) for value, path in limits if value is not None and value < V1_UNLIMITED_BYTES]
        return min(finite, key=lambda item: item[0]) if finite else None

    def use(self, kernel_share: float) -> Use | None:
        """Memory charged here that cannot be reclaimed; None where the level cannot be read.

        Where memory.stat tells nothing, all that is charged counts, page cache included.
        """
        stat = _read_keys(self.directory / "memory.stat")
        if not stat:
            name = "memory.current" if self.is_v2 else "memory.usage_in_bytes"
            charged = _read_number(self.directory / name)
            return None if charged is None else Use(charged, 0)
        return _use_v2(stat) if self.is_v2 else _use_v1(stat, self._kernel_v1(), kernel_share)

    def oom_kills(self) -> int | None:
        """Processes the kernel killed for this level's memory since it exists; None where it does not say."""
        name = "memory.events" if self.is_v2 else "memory.oom_control"
        return _read_keys(self.directory / name).get("oom_kill")

    def _kernel_v1(self) -> int:
        return _read_number(self.directory / "memory.kmem.usage_in_bytes") or 0


@dataclass(frozen=True)
class Use:
    """Memory in use that cannot be reclaimed, in bytes, and the part of it that is shmem."""

    used_bytes: int
    shmem_bytes: int


class Sensor:
    """Reads the container of one process, again and again.

    Where the levels lie is found once; limits and use are read each time, since pods are resized in place.
    """

    def __init__(self, root: Path = Path("/"), process: str = "self", limit_bytes: int | None = None) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        mounts = list(_cgroup_mounts(_read_text(root / "proc" / process / "mountinfo")))
        groups = _own_groups(_read_text(root / "proc" / process / "cgroup"))
        self._memory = _levels(root, mounts, groups, "memory")
        self._cpu = _levels(root, mounts, groups, "cpu")

    def read(self) -> Reading:
        """The container now. Raises OSError only where /proc/meminfo itself cannot be read."""
        host = _read_meminfo(self._root / "proc" / "meminfo")
        total = host.get("MemTotal", 0)
        available = host.get("MemAvailable")
        if not total:
            raise OSError(f"no MemTotal in {self._root / 'proc' / 'meminfo'}")
        limit, source = None, "MemTotal"
        room = total
        use = Use(total - (available or 0), host.get("Shmem", 0))
        for level in self._memory:
            found = level.limit()
            if found is None:
                continue
            # A limit whose use cannot be read still limits: the ledger of grants keeps it then.
            here = level.use(_unreclaimable_share(host)) or Use(0, 0)
            room = min(room, found[0] - here.used_bytes)
            if limit is None or found[0] < limit:
                limit, source, use = found[0], str(found[1]), here
        if self._limit_bytes is not None and (limit is None or self._limit_bytes < limit):
            own = self._memory[0].use(_unreclaimable_share(host)) if limit is None and self._memory else None
            use = own or use
            limit, source = self._limit_bytes, "MEMGUARD_LIMIT"
            room = min(room, limit - use.used_bytes)
        if limit is not None and limit > total:
            limit, source = total, "MemTotal"
        if limit is None:
            room = available if available is not None else total
        return Reading(
            limit_bytes=limit,
            limit_source=source,
            used_bytes=use.used_bytes,
            shmem_bytes=use.shmem_bytes,
            room_bytes=room,
            host_available_bytes=available,
            total_bytes=total,
            cpus=self.cpus(),
        )

    def cpus(self) -> float:
        """CPUs this process may use at once: the smaller of its affinity (cpuset included) and the CPU quota."""
        cpus = float(len(os.sched_getaffinity(0)))
        for level in self._cpu:
            quota = _cpu_quota(level)
            if quota is not None:
                cpus = min(cpus, quota)
        return cpus

    def oom_kills(self) -> int | None:
        """Kernel OOM kills of the process's own cgroup so far, None where there is none or it does not say."""
        return self._memory[0].oom_kills() if self._memory else None


def _levels(root: Path, mounts: list[Mount], groups: dict[str, str], controller: str) -> list[Level]:
    """The cgroups with `controller` from the process's own up to the mount's root; v1 wins on a hybrid host."""
    for mount in sorted(mounts, key=lambda mount: mount.is_v2):
        group = groups.get("" if mount.is_v2 else controller)
        if group is None or not (mount.is_v2 or controller in mount.controllers):
            continue
        top = root / mount.point.lstrip("/")
        parts = _below_mount(group, mount.root).parts
        levels = [Level(top.joinpath(*parts[:depth]), mount.is_v2) for depth in range(len(parts), -1, -1)]
        present = [level for level in levels if level.directory.is_dir()]
        if present:
            return present
    return []


def _below_mount(group: str, mount_root: str) -> PurePosixPath:
    """Where `group` lies below a mount that shows the hierarchy from `mount_root` on.

    In a container without a cgroup namespace both are the host's path, and the mount's root is the group itself.
    """
    path = PurePosixPath("/" + group.strip("/"))
    if mount_root.strip("/"):
        try:
            return path.relative_to("/" + mount_root.strip("/"))
        except ValueError:
            return PurePosixPath()
    return path.relative_to("/")


def _cgroup_mounts(mountinfo: str) -> Iterator[Mount]:
    """The cgroup mounts of a mountinfo text; format in proc(5): fields, a dash, type, source, super options."""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        yield Mount(
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            controllers=frozenset(tail[2].split(",")) if tail[0] == "cgroup" else frozenset(),
            is_v2=tail[0] == "cgroup2",
        )


def _unescape(field: str) -> str:
    """A mountinfo field with its octal escapes (\\040 for a space) undone."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _own_groups(cgroup: str) -> dict[str, str]:
    """Paths of a /proc/PID/cgroup text by controller; the v2 path stands under ""."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            for controller in controllers.split(",") if number != "0" else [""]:
                groups[controller] = path
    return groups


def _use_v2(stat: dict[str, int]) -> Use:
    """Unreclaimable use out of a v2 memory.stat; keys in the kernel's admin guide, "memory.stat".

    `kernel` exists since 5.18; before, its unreclaimable parts are listed one by one.
    """
    parts = ("slab_unreclaimable", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock", "vmalloc")
    if "kernel" in stat:
        kernel = max(0, stat["kernel"] - stat.get("slab_reclaimable", 0)) + stat.get("sock", 0)
    else:
        kernel = sum(stat.get(part, 0) for part in parts)
    shmem = stat.get("shmem", 0)
    return Use(stat.get("anon", 0) + shmem + kernel, shmem)


def _use_v1(stat: dict[str, int], kernel_bytes: int, kernel_share: float) -> Use:
    """Unreclaimable use out of a v1 memory.stat and kmem usage, descendants included.

    Kernels before 4.18 do not list shmem, but keep it on the anonymous LRU lists: it is then the cache that is on
    no file list. v1 does not split kernel memory; `kernel_share` of it is taken as unreclaimable.
    """
    cache, files = stat.get("total_cache", 0), stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    shmem = stat.get("total_shmem", max(0, cache - files))
    return Use(stat.get("total_rss", 0) + shmem + int(kernel_bytes * kernel_share), shmem)


def _unreclaimable_share(host: dict[str, int]) -> float:
    """The share of kernel memory that cannot be reclaimed, on this machine as a whole."""
    fixed = host.get("SUnreclaim", 0) + host.get("KernelStack", 0) + host.get("PageTables", 0)
    kernel = fixed + host.get("SReclaimable", 0)
    return fixed / kernel if kernel else 1.0


def _cpu_quota(level: Level) -> float | None:
    """CPUs the quota of one level allows, None where it sets none."""
    if level.is_v2:
        quota, _, period = _read_text(level.directory / "cpu.max").strip().partition(" ")
    else:
        quota = _read_text(level.directory / "cpu.cfs_quota_us").strip()
        period = _read_text(level.directory / "cpu.cfs_period_us").strip()
    most, each = _number(quota), _number(period)
    return most / each if most and each else None


def _read_text(path: Path) -> str:
    """The text of a kernel file, "" where it is missing, forbidden or no text."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    return _number(_read_text(path).strip())


def _number(text: str) -> int | None:
    """A counter of the kernel, at most 64 bits; None for any other text."""
    return int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else None


def _read_keys(path: Path) -> dict[str, int]:
    """A flat keyed kernel file as numbers by key; lines of another shape are passed over."""
    keys: dict[str, int] = {}
    for line in _read_text(path).splitlines():
        key, _, value = line.partition(" ")
        number = _number(value)
        if number is not None:
            keys[key] = number
    return keys


def _read_meminfo(path: Path) -> dict[str, int]:
    """/proc/meminfo in bytes by name."""
    sizes: dict[str, int] = {}
    for line in _read_text(path).splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        number = _number(words[0]) if words else None
        if number is not None:
            sizes[name] = number * (1024 if words[-1] == "kB" else 1)
    return sizes
