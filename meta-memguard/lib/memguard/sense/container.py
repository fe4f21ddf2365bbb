# SPDX-License-Identifier: MIT
"""What memory and how many CPUs this container has, and what it uses now.

Runs in: the BitBake server, the sentinel and the command; standard library only. Every path hangs below a root, so
that tests read literal trees and support reads what somebody sent in.
Covers: limit, use, room and CPUs over all levels of the container and the machine; swap and pressure.
Does not cover: whose the memory is; a limit that is set outside the visible tree (MEMGUARD_LIMIT says it then).
See also: cgroups, for where the levels are; docs/internals.md, "Sense".
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from memguard.model import Reading
from memguard.sense import mounts
from memguard.sense.cgroups import Hierarchies
from memguard.sense.kernel_files import KernelFiles, parse_number
from memguard.sense.level import Use, count_cpus

# Less than what the kernel's own counters are off by: each CPU charges 256 KiB ahead.
NEGLIGIBLE_BYTES = 1 << 20

# CPU quotas change when somebody resizes the container; a task that starts a second later gets the new number.
CPUS_AGE_S = 1.0

# What goes to swap in memory (zram) takes this part of its size there, at the most.
# evidence: a compiler of 450 MiB took 135 there (lzo-rle)
ZRAM_SHARE = 0.5

_MEMINFO = ("MemTotal", "MemAvailable", "Shmem", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "SwapFree")
_LXCFS_MEMINFO = ("MemFree", "Active(file)", "Inactive(file)")


@dataclass(frozen=True)
class Cpus:
    """CPUs that may be used at once, 2.5 is possible under a quota, and what says so."""

    count: float
    source: str


@dataclass(frozen=True)
class Swap:
    """Swap of the container and of the machine, in bytes; None where it is not known.

    limit:     what the container may use at most; None where nothing limits it.
    used:      what of the container lies there.
    host:      what the machine has.
    in_memory: devices of it that are memory themselves (zram).
    """

    limit_bytes: int | None
    used_bytes: int | None
    host_bytes: int | None
    in_memory: tuple[str, ...]


@dataclass(frozen=True)
class Pressure:
    """Share of the last ten seconds in which some, or all, tasks waited for memory, in percent; and where from.

    is_container: whether it is the container's; else it is the machine's, neighbours included.
    """

    some_avg10: float
    full_avg10: float
    source: str
    is_container: bool


class Sensor:
    """Reads the container of one process, again and again.

    Where the levels lie is found once, and again when the process is moved; limits and use are read each time, since
    pods are resized in place, and CPUs at most once in CPUS_AGE_S. What could not be read is in `faults`, by path.
    """

    def __init__(self, root: Path = Path("/"), process: str = "self", limit_bytes: int | None = None) -> None:
        self._root = "" if root == Path("/") else str(root)
        self._name = process
        self._process = f"{self._root}/proc/{process}"
        self._limit_bytes = limit_bytes
        self._files = KernelFiles(keeps_open=not self._root)
        self._counted_at_s = 0.0
        self._find()
        # lxcfs shows the container's memory in place of the machine's; its MemAvailable may count page cache as used.
        self.has_lxcfs = any(
            mounted.point == "/proc/meminfo" and "lxcfs" in mounted.kind
            for mounted in mounts.parse(self.hierarchies.mountinfo)
        )

    def close(self) -> None:
        """Close the files that are kept open; the next reading opens them again."""
        self._files.close()

    def _find(self) -> None:
        """Find where the process lies; what is kept open is of where it lay before."""
        self._files.close()
        self.hierarchies = Hierarchies(self._root, self._name, self._files)
        self.memory = self.hierarchies.place("memory")
        self._cpu = self.hierarchies.place("cpu")
        self._cpuset = self.hierarchies.place("cpuset")
        self._cpu_count: float | None = None

    @property
    def faults(self) -> dict[str, str]:
        """What could not be read so far: by path, what is wrong with the file."""
        return self._files.faults

    def read(self) -> Reading:
        """The container now. Raises OSError where neither a limit nor the machine's memory can be read."""
        if self.hierarchies.has_moved():
            self._find()
        host = self._host()
        total, available = host.get("MemTotal"), host.get("MemAvailable")
        share = _unreclaimable_share(host)
        levels = self.memory.levels if self.memory else ()
        # On v1 the own cgroup also knows limits above it whose files cannot be seen.
        own = levels[0].use(share) if levels and not levels[0].is_v2 else None
        bounds = [(*found, depth) for depth, level in enumerate(levels) if (found := level.limit())]
        if own and own.limit_above_bytes is not None:
            bounds.append((own.limit_above_bytes, levels[0].path("memory.stat"), 0))
        bounds.sort(key=lambda bound: bound[0])
        bounding, room = self._tightest(bounds, own, share)
        if bounding is None and own is None and levels:
            own = levels[0].use(share)
        limit, source = bounds[0][:2] if bounds else (None, "MemTotal")
        use = bounding
        if self._limit_bytes is not None and (limit is None or self._limit_bytes < limit):
            limit, source = self._limit_bytes, "MEMGUARD_LIMIT"
            use = bounding or own or _host_use(total, available, host)
            room = min(limit - use.used_bytes, limit if room is None else room)
        if limit is not None and total is not None and limit > total:
            limit, source = total, "MemTotal"
        use = use or _host_use(total, available, host)
        if limit is None:
            room = available if available is not None else total
        if room is None:
            raise OSError(f"neither a limit nor MemTotal in {self._root}/proc/meminfo can be read")
        cgroup = bounding or own
        return Reading(
            limit_bytes=limit,
            limit_source=source,
            used_bytes=use.used_bytes,
            shmem_bytes=use.shmem_bytes,
            room_bytes=room,
            host_available_bytes=available,
            total_bytes=total,
            cpus=self._cpus_lately(),
            charged_bytes=cgroup.charged_bytes if cgroup else None,
            working_set_bytes=cgroup.working_set_bytes if cgroup else None,
            # The kernel swaps where its own limit is met, and not at one that it does not know.
            swap_left_bytes=0 if source == "MEMGUARD_LIMIT" else self._swap_left(host, own),
        )

    def _swap_left(self, host: dict[str, int], own: Use | None) -> int:
        """What may still go to swap, of the container and of the machine; on zram, while the machine has memory."""
        left = host.get("SwapFree", 0)
        levels = self.memory.levels if self.memory else ()
        if not left or (levels and levels[0].is_v2 and self._files.number(f"{self._root}/proc/sys/vm/swappiness") == 0):
            return 0
        # On v1 the own cgroup says what those above it leave, too.
        for level in levels if own is None or levels[0].is_v2 else levels[:1]:
            of_level = level.swap_left_bytes(own)
            left = left if of_level is None else min(left, of_level)
        devices = self._swap_devices()
        if devices and all("/zram" in device for device in devices) and "MemAvailable" in host:
            left = min(left, int(host["MemAvailable"] / ZRAM_SHARE))
        return left

    def _swap_devices(self) -> list[str]:
        """The files and devices that the machine swaps to."""
        lines = self._files.text(f"{self._root}/proc/swaps").splitlines()[1:]
        return [words[0] for line in lines if (words := line.split())]

    def _tightest(
        self, bounds: list[tuple[int, str, int]], own: Use | None, share: float
    ) -> tuple[Use | None, int | None]:
        """The use below the smallest of `bounds` (bytes, file, level), and the room below all of them; None of none."""
        levels = self.memory.levels if self.memory else ()
        bounding, room = None, None
        seen: list[tuple[int, int]] = [(0, own.cache_bytes or 0)] if own else []
        for bound_bytes, _, depth in bounds:
            if room is not None:
                charged = levels[depth].charged_bytes()
                # What is charged here holds the cache of the levels below. Where all the rest, were it used, leaves
                # more room than there is, nobody is short, and the dear look at the use can be spared.
                cache = max((cache for below, cache in seen if below <= depth), default=0)
                if charged is not None and bound_bytes - (charged - cache) >= room - NEGLIGIBLE_BYTES:
                    continue
            # A limit whose use cannot be read still limits: the ledger of grants keeps it then.
            here = (own if depth == 0 and own else levels[depth].use(share)) or Use(0, 0, 0)
            seen.append((depth, here.cache_bytes or 0))
            room = bound_bytes - here.used_bytes if room is None else min(room, bound_bytes - here.used_bytes)
            bounding = bounding or here
        if room is not None and own and own.memsw_limit_above_bytes is not None:
            room = min(room, own.memsw_limit_above_bytes - own.used_bytes - (own.swap_bytes or 0))
        return bounding, room

    def cpus(self) -> Cpus:
        """The smallest of the process's affinity, its cpusets and the CPU quotas over it."""
        found = []
        if self._root:
            # The files of another machine say nothing of this one's affinity.
            allowed = count_cpus(_field(self._files.text(f"{self._process}/status"), "Cpus_allowed_list"))
            if allowed:
                found.append(Cpus(allowed, "affinity"))
            for level in self._cpuset.levels if self._cpuset else ():
                count = level.cpuset()
                if count:
                    found.append(Cpus(count, f"cpuset of {level.directory}"))
        else:
            found.append(Cpus(len(os.sched_getaffinity(0)), "affinity, cpuset included"))
        for level in self._cpu.levels if self._cpu else ():
            quota = level.cpu_quota()
            if quota is not None:
                found.append(Cpus(quota, f"CPU quota of {level.directory}"))
        return min(found, key=lambda cpus: cpus.count) if found else self._online()

    def forget_cpus(self) -> None:
        """Count the CPUs again in the next reading."""
        self._cpu_count = None

    def _cpus_lately(self) -> float:
        now_s = time.monotonic()
        if self._cpu_count is None or now_s - self._counted_at_s >= CPUS_AGE_S:
            self._cpu_count, self._counted_at_s = self.cpus().count, now_s
        return self._cpu_count

    def oom_kills(self) -> int | None:
        """Kernel OOM kills so far in the nearest cgroup that counts them, None where none does.

        The own one does not where it has no memory controller (not enabled, threaded): the nearest above is charged.
        """
        levels = self.memory.levels if self.memory else ()
        return next((kills for level in levels if (kills := level.oom_kills()) is not None), None)

    def events(self) -> dict[str, int]:
        """How often the process's own cgroup met its limits, and lost processes, by the kernel's names for it."""
        return self.memory.levels[0].events() if self.memory and self.memory.levels else {}

    def oom_group_source(self) -> str | None:
        """The file by which one OOM kill takes a whole cgroup along with this process; None where none is set."""
        levels = self.memory.levels if self.memory else ()
        return next((level.path("memory.oom.group") for level in levels if level.oom_group()), None)

    def use_of(self, level: int) -> Use | None:
        """Memory charged to one of the levels, counted from the process's own, now."""
        return self.memory.levels[level].use(_unreclaimable_share(self._host())) if self.memory else None

    def swap(self) -> Swap:
        """What swap there is for the container."""
        levels = self.memory.levels if self.memory else ()
        limits = [limit for level in levels if (limit := level.swap_limit_bytes()) is not None]
        own = self._files.number(levels[0].path("memory.swap.current")) if levels and levels[0].is_v2 else None
        if levels and not levels[0].is_v2:
            use = levels[0].use(1.0)
            own = use.swap_bytes if use else None
        host = self._files.sizes(f"{self._root}/proc/meminfo", ("SwapTotal",)).get("SwapTotal")
        in_memory = tuple(device for device in self._swap_devices() if "/zram" in device)
        return Swap(min(limits, default=None), own, host, in_memory)

    def pressure_source(self) -> str | None:
        """The container's own memory.pressure, None where it has none.

        A v1 container has its own, too, where the v2 hierarchy is mounted beside.
        """
        place = self.hierarchies.place("")
        if place and place.is_found and place.levels and not place.levels[0].is_hierarchy_root():
            return place.levels[0].path("memory.pressure")
        return None

    def pressure(self) -> Pressure | None:
        """Memory pressure: the container's own where the kernel shows it, else the machine's, else None."""
        source = self.pressure_source()
        found = self._pressure_in(source, is_container=True) if source else None
        if found:
            return found
        return self._pressure_in(f"{self._root}/proc/pressure/memory", is_container=False)

    def _pressure_in(self, path: str, is_container: bool) -> Pressure | None:
        """Format of the file: Documentation/accounting/psi.rst."""
        averages: dict[str, float] = {}
        for line in self._files.text(path).splitlines():
            kind, _, rest = line.partition(" avg10=")
            whole, dot, hundredths = rest.partition(" ")[0].partition(".")
            numbers = parse_number(whole), parse_number(hundredths)
            if kind in ("some", "full") and dot and numbers[0] is not None and numbers[1] is not None:
                averages[kind] = numbers[0] + numbers[1] / 10 ** len(hundredths)
        if "some" not in averages:
            return None
        return Pressure(averages["some"], averages.get("full", 0.0), path, is_container)

    def _host(self) -> dict[str, int]:
        """What /proc/meminfo says that is asked for here, in bytes."""
        names = _MEMINFO + _LXCFS_MEMINFO if self.has_lxcfs else _MEMINFO
        host = self._files.sizes(f"{self._root}/proc/meminfo", names, ("MemTotal", "MemAvailable"))
        if self.has_lxcfs and all(name in host for name in _LXCFS_MEMINFO):
            host["MemAvailable"] = sum(host[name] for name in _LXCFS_MEMINFO)
        return host

    def _online(self) -> Cpus:
        """The CPUs of the machine, where nothing says which of them may be used."""
        path = f"{self._root}/sys/devices/system/cpu/online"
        count = count_cpus(self._files.text(path))
        if not count:
            path = f"{self._root}/proc/cpuinfo"
            count = sum(line.startswith("processor") for line in self._files.text(path).splitlines())
        return Cpus(count, path) if count else Cpus(os.cpu_count() or 1, "this machine")


def _host_use(total: int | None, available: int | None, host: dict[str, int]) -> Use:
    """The use of the whole machine: all that is not available, of which shmem is known; nothing where that is not."""
    if total is None or available is None:
        return Use(0, 0, 0)
    shmem = host.get("Shmem", 0)
    return Use(max(0, total - available - shmem), shmem, 0)


def _unreclaimable_share(host: dict[str, int]) -> float:
    """The share of kernel memory that cannot be reclaimed, on this machine as a whole."""
    fixed = host.get("SUnreclaim", 0) + host.get("KernelStack", 0) + host.get("PageTables", 0)
    kernel = fixed + host.get("SReclaimable", 0)
    return fixed / kernel if kernel else 1.0


def _field(text: str, name: str) -> str:
    """The value of a line "name:  value", "" where there is none."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""
