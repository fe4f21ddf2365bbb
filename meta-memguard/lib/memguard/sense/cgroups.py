# SPDX-License-Identifier: MIT
"""Where a process lies in the cgroup hierarchies: the levels from its own cgroup up to the root of the mount.

Runs in: the BitBake server, the sentinel and the command; standard library only.
Covers: v1, v2 and hybrid mounts, with and without cgroup namespace, mounts that show a part of the hierarchy.
Does not cover: what each level says of itself (level), and which of the numbers counts (container); cgroups outside the
visible tree.
See also: docs/internals.md, "Sense"; the shapes of containers in tests/fixtures/cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from memguard.sense import mounts
from memguard.sense.kernel_files import KernelFiles
from memguard.sense.level import Level

# What begins so was made by memguard below the container's own cgroup (act/task_cgroup.py), which is what counts.
OURS = "memguard."
# How many cgroups are looked through for a process whose own path says nothing. A node of 250 pods has some 2,000.
_SEARCHED_MOST = 5000
# The kernel names no longer path (PATH_MAX).
_PATH_MOST = 4096


@dataclass(frozen=True)
class Mount:
    """One cgroup mount: what part of the hierarchy it shows, where, and for which controllers (empty for v2)."""

    root: str
    point: str
    controllers: frozenset[str]
    is_v2: bool
    is_writable: bool


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
        self.mountinfo = _whole_text(files, table)
        self.mounts = list(_cgroup_mounts(self.mountinfo)) or self._usual_mounts()
        self._groups_text = _whole_text(files, self._table)
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
                levels = tuple(_binding(_distinct(level for place in certain for level in place.levels)))
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
        paths = [top]
        for part in _without_ours(PurePosixPath(below or "").parts):
            deeper = f"{paths[-1]}/{part}"
            if not os.path.isdir(deeper):
                break
            paths.append(deeper)
        return Place(tuple(Level(path, mount.is_v2, self._files) for path in reversed(paths)), group, mount, is_found)

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
                queue += [f"{relative}/{name}".lstrip("/") for name in directories_in(f"{top}/{relative}")]
        return None

    def _usual_mounts(self) -> list[Mount]:
        """The mounts as every distribution makes them, for where the table of mounts cannot be read."""
        top = f"{self._root}/sys/fs/cgroup"
        if os.path.exists(f"{top}/cgroup.controllers"):
            return [Mount("/", "/sys/fs/cgroup", frozenset(), is_v2=True, is_writable=False)]
        return [
            Mount("/", f"/sys/fs/cgroup/{name}", frozenset(name.split(",")), is_v2=False, is_writable=False)
            for name in directories_in(top)
            if {"memory", "cpu", "cpuset"} & set(name.split(","))
        ]


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


def _whole_text(files: KernelFiles, path: str) -> str:
    """The text of a table that every process has; what is no whole text is noted among the faults."""
    text = files.text(path)
    if "\0" in text or "\N{REPLACEMENT CHARACTER}" in text:
        files.blame(path, "is not text")
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
        if colon and path.startswith("/") and len(path) < _PATH_MOST:
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


def _without_ours(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path as it was before memguard made cgroups below it."""
    first = next((depth for depth, part in enumerate(parts) if part.startswith(OURS)), len(parts))
    return parts[:first]


def directories_in(path: str) -> list[str]:
    """The names of the directories in another one, in order; none where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (OSError, ValueError):
        return []


def _binding(levels: Iterable[Level]) -> Iterator[Level]:
    """The levels up to the first that does not count what lies below it (v1, memory.use_hierarchy of 0)."""
    for depth, level in enumerate(levels):
        if depth and not level.is_v2 and not level.counts_below():
            return
        yield level


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
