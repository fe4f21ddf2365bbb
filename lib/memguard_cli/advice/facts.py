# SPDX-License-Identifier: MIT
"""What a build in this container would see: every fact that `memguard doctor` shows.

Runs in: outside BitBake.
Covers: the container by way of the very Sensor that builds use, delegation, Kubernetes, the build directory, tools.
Does not cover: what to think of it (advice) and how it looks (doctor).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from memguard import settings
from memguard.act.task_cgroup import obstacle
from memguard.channels.neighbours import Board
from memguard.model import Policy, Reading
from memguard.sense import mounts
from memguard.sense.cgroups import Place
from memguard.sense.container import Cpus, Pressure, Sensor, Swap
from memguard.sense.kernel_files import KernelFiles
from memguard.sense.level import Level, Use, count_cpus
from memguard.sense.limit_id import limit_id
from memguard.sense.proc_files import ProcessId
from memguard.sentinel.neighbours import lives
from memguard_cli.advice.tools import Tool
from memguard_cli.builds.ask_bitbake import ask, can_ask
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.builds.expressions import Machine
from memguard_cli.builds.job_counts import JobCount, Kind, count_jobs, count_threads, read_again


@dataclass(frozen=True)
class LevelFacts:
    """One cgroup on the path of the process, as far as it shows; None: it does not."""

    path: str
    limit_bytes: int | None
    limit_source: str | None
    hard_limit_bytes: int | None
    use: Use | None
    swap_limit_bytes: int | None
    oom_group: bool | None
    events: dict[str, int]


@dataclass(frozen=True)
class Delegation:
    """What may be done below the process's own cgroup.

    is_writable:  whether cgroups may be made there.
    can_freeze, can_kill: whether the kernel lets a whole cgroup be frozen and killed.
    obstacle:     why tasks cannot have a cgroup of their own (MEMGUARD_CGROUPS), "" where they can.
    """

    is_writable: bool
    can_freeze: bool
    can_kill: bool
    obstacle: str = ""

    @property
    def task_cgroup(self) -> bool:
        """Whether tasks can have a cgroup of their own."""
        return not self.obstacle


@dataclass(frozen=True)
class Kubernetes:
    """A pod as far as it shows from inside. qos: the class and what it was read from, None where it does not show."""

    qos: str | None
    source: str | None


@dataclass(frozen=True)
class KernelLimits:
    """Limits at which an allocation fails although memory is free; None where none is set or it does not show.

    processes: the fewest that a level of the container allows of processes and threads together, processes_used of them
               in use.
    maps:      vm.max_map_count. is_strict: whether memory that is only reserved counts (vm.overcommit_memory is 2).
    """

    processes: int | None = None
    processes_used: int = 0
    processes_source: str = ""
    maps: int | None = None
    is_strict: bool = False


@dataclass(frozen=True)
class Findings:
    """Everything that is known of the container; reading is None where no memory could be read at all.

    counts: BB_NUMBER_THREADS and PARALLEL_MAKE of the build directory, empty where there is none.
    neighbours:   how many builds under this limit let others see them; None where none can.
    hides_levels: whether there are cgroups above those that show, whose limits cannot be known.
    Paths are as a process inside sees them: without the directory that --root names.
    """

    reading: Reading | None
    version: str
    levels: tuple[LevelFacts, ...]
    is_own_cgroup_found: bool
    hides_levels: bool
    cpus: Cpus
    swap: Swap
    pressure: Pressure | None
    delegation: Delegation | None
    kubernetes: Kubernetes | None
    has_lxcfs: bool
    tools: tuple[Tool, ...]
    build: BuildConfiguration | None
    build_in_memory: str | None
    policy: Policy
    counts: tuple[JobCount, ...]
    kernel: KernelLimits
    faults: dict[str, str]
    neighbours: int | None = None

    @property
    def oom_group(self) -> bool | None:
        """Whether one OOM kill takes a whole cgroup along with this process; None where no level can say."""
        said = [level.oom_group for level in self.levels if level.oom_group is not None]
        return any(said) if said else None

    @property
    def own(self) -> LevelFacts | None:
        """The process's own cgroup."""
        return self.levels[0] if self.levels else None

    @property
    def reserve_bytes(self) -> int:
        """What a build would keep free."""
        return self.policy.reserve_of(self.reading.bound_bytes) if self.reading else 0

    @property
    def headroom_bytes(self) -> int | None:
        """What tasks may still take below the nearest limit, less the reserve; negative where that is touched."""
        return self.reading.left_bytes - self.reserve_bytes if self.reading else None


def examine(
    root: Path, given: dict[str, str | None], build: BuildConfiguration | None, tools: tuple[Tool, ...]
) -> Findings:
    """Look at the container whose files lie below `root`, as a build would with the variables of `given`.

    Raises SettingsError for a variable that a build would refuse.
    """
    policy = settings.read(given.get)
    sensor = Sensor(root, limit_bytes=policy.limit_bytes)
    try:
        reading = sensor.read()
    except OSError:
        reading = None
    place = sensor.memory
    levels = tuple(_level(sensor, index, level) for index, level in enumerate(place.levels)) if place else ()
    swap, pressure, cpus = sensor.swap(), sensor.pressure(), sensor.cpus()
    unified = sensor.hierarchies.place("")
    findings = Findings(
        reading=reading,
        version=sensor.hierarchies.version,
        levels=levels,
        is_own_cgroup_found=place is None or place.is_found,
        hides_levels=place is not None and _hides_levels(place),
        cpus=cpus,
        swap=swap,
        pressure=pressure,
        delegation=_delegation(place, unified),
        kubernetes=_kubernetes(root, sensor),
        has_lxcfs=sensor.has_lxcfs,
        tools=tools,
        build=build,
        build_in_memory=_memory_mount(sensor.hierarchies.mountinfo, build.tmpdir) if build else None,
        policy=policy,
        counts=_counts(build) if build else (),
        kernel=_kernel_limits(root, sensor),
        faults=dict(sensor.faults),
        neighbours=_neighbours(sensor, reading, policy) if root == Path("/") and reading else None,
    )
    return _without_root(findings, "" if root == Path("/") else str(root))


def _neighbours(sensor: Sensor, reading: Reading, policy: Policy) -> int | None:
    """How many builds under the limit are on its board now; None where there is none."""
    key = limit_id(sensor, reading)
    if policy.neighbours == "off" or key is None:
        return None
    try:
        board = Board(policy.neighbours, makes=False)
    except FileNotFoundError:
        return 0  # the first build makes it
    except OSError:
        return None
    try:
        return sum(lives(ProcessId(found.name.pid, found.name.start_ticks)) for found in board.read(key))
    except OSError:
        return None
    finally:
        board.close()


def _level(sensor: Sensor, index: int, level: Level) -> LevelFacts:
    limit = level.limit()
    return LevelFacts(
        path=level.directory,
        limit_bytes=limit[0] if limit else None,
        limit_source=limit[1] if limit else None,
        hard_limit_bytes=level.files.number(level.path("memory.max")) if level.is_v2 else None,
        use=sensor.use_of(index),
        swap_limit_bytes=level.swap_limit_bytes(),
        oom_group=level.oom_group(),
        events=level.events(),
    )


def machine_of(root: Path) -> Machine:
    """What BitBake would count in a container: CPUs by affinity, without any quota, and the machine's memory."""
    here = Machine.here()
    if root == Path("/"):
        return here
    files = KernelFiles()
    found = re.search(r"^Cpus_allowed_list:(.*)$", files.text(f"{root}/proc/self/status"), re.MULTILINE)
    allowed = count_cpus(found[1]) if found else 0
    online = count_cpus(files.text(f"{root}/sys/devices/system/cpu/online"))
    total = files.sizes(f"{root}/proc/meminfo", ("MemTotal",), ()).get("MemTotal")
    return Machine(allowed or online or here.cpus, online or allowed or here.online, total)


def _counts(build: BuildConfiguration) -> tuple[JobCount, ...]:
    """The tasks that run at once and the jobs of each; what does not show in the files is asked of BitBake."""
    counts = []
    for count in (count_threads(build), count_jobs(build)):
        is_asked = count.kind is Kind.UNKNOWN and can_ask(build.directory)
        value = ask(build.directory, count.variable) if is_asked else None
        counts.append(count if value is None else read_again(count, value))
    return tuple(counts)


def _kernel_limits(root: Path, sensor: Sensor) -> KernelLimits:
    files, place = KernelFiles(), sensor.hierarchies.place("pids")
    maps = files.number(f"{root}/proc/sys/vm/max_map_count")
    limits = KernelLimits(maps=maps, is_strict=files.number(f"{root}/proc/sys/vm/overcommit_memory") == 2)
    for level in place.levels if place else ():
        most, used = files.number(level.path("pids.max")), files.number(level.path("pids.current")) or 0
        if most is not None and (limits.processes is None or most - used < limits.processes - limits.processes_used):
            limits = replace(limits, processes=most, processes_used=used, processes_source=level.path("pids.max"))
    return limits


def _hides_levels(place: Place) -> bool:
    """Whether a cgroup namespace ends at the own cgroup. v1 tells of all limits above, in hierarchical_memory_limit."""
    own = place.levels[0] if place.levels else None
    return own is not None and own.is_v2 and place.group == "/" and not own.is_hierarchy_root()


def _delegation(place: Place | None, unified: Place | None) -> Delegation | None:
    """What may be done below the own cgroup; judged by mount options and access rights, nothing is tried."""
    if place is None or not place.levels:
        return None
    own = place.levels[0]
    needed = ("", "cgroup.procs", "cgroup.subtree_control") if own.is_v2 else ("", "cgroup.procs")
    is_writable = (
        place.is_found and place.mount.is_writable and all(os.access(own.path(name), os.W_OK) for name in needed)
    )
    return Delegation(
        is_writable=is_writable,
        can_freeze=_can_act(unified, "cgroup.freeze"),
        can_kill=_can_act(unified, "cgroup.kill"),
        obstacle=obstacle(place) or ("" if is_writable else f"{own.directory} is mounted read-only"),
    )


def _can_act(unified: Place | None, name: str) -> bool:
    """Whether a cgroup made below the own one in v2, which acts on a hybrid host, too, would have `name`."""
    if unified is None or not unified.levels or not unified.is_found or not unified.mount.is_writable:
        return False
    own = unified.levels[0]
    # The root of the hierarchy has none of these files; every cgroup below it has them, or none has.
    return os.access(own.directory, os.W_OK) and (own.is_hierarchy_root() or own.has(name))


def _kubernetes(root: Path, sensor: Sensor) -> Kubernetes | None:
    """The pod's class: from the cgroup's path, else from the oom_score_adj that the kubelet gives each class.

    kubelet, pkg/kubelet/qos/policy.go: Guaranteed -997, BestEffort 1000, Burstable between 2 and 999.
    """
    table = list(mounts.parse(sensor.hierarchies.mountinfo))
    paths = [*sensor.hierarchies.groups.values(), *(mounted.root for mounted in table)]
    pod = next((path for path in paths if "kubepods" in path), None)
    if pod is not None:
        kind = re.search(r"burstable|besteffort", pod)
        qos = {"burstable": "Burstable", "besteffort": "BestEffort"}[kind[0]] if kind else "Guaranteed"
        return Kubernetes(qos, f"cgroup {pod}")
    is_pod = any("/kubelet/pods/" in mounted.root or "/kubernetes.io/" in mounted.point for mounted in table)
    if not is_pod and not (root == Path("/") and "KUBERNETES_SERVICE_HOST" in os.environ):
        return None
    adjusted = KernelFiles().text(f"{root}/proc/self/oom_score_adj").strip()
    if not re.fullmatch(r"-?[0-9]{1,4}", adjusted):
        return Kubernetes(None, None)
    value = int(adjusted)
    named = {-997: "Guaranteed", 1000: "BestEffort"}.get(value, "Burstable" if 2 <= value < 1000 else None)
    return Kubernetes(named, f"oom_score_adj {value}" if named else None)


def _memory_mount(mountinfo: str, directory: Path) -> str | None:
    """The mount point over `directory` when that is tmpfs: what lies there is memory. None otherwise."""
    mounted = mounts.over(str(directory), mountinfo)
    return mounted.point if mounted is not None and mounted.kind in ("tmpfs", "ramfs") else None


def _without_root(findings: Findings, root: str) -> Findings:
    """The same findings with paths as they are inside."""

    def inside(text: str) -> str:
        return text.replace(f"{root}/", "/") if root else text

    return replace(
        findings,
        reading=findings.reading and replace(findings.reading, limit_source=inside(findings.reading.limit_source)),
        levels=tuple(
            replace(level, path=inside(level.path), limit_source=level.limit_source and inside(level.limit_source))
            for level in findings.levels
        ),
        delegation=findings.delegation and replace(findings.delegation, obstacle=inside(findings.delegation.obstacle)),
        kernel=replace(findings.kernel, processes_source=inside(findings.kernel.processes_source)),
        cpus=replace(findings.cpus, source=inside(findings.cpus.source)),
        pressure=findings.pressure and replace(findings.pressure, source=inside(findings.pressure.source)),
        faults={inside(path): what for path, what in findings.faults.items()},
    )
